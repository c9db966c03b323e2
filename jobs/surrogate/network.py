"""The surrogate: an ensemble of small networks, and the one that learns from it and is exported.

Both correct a handbook and keep the energy balance by construction.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from jobs.surrogate.config import FACINGS, INPUTS, LOADS, OUTPUTS, REFERENCE, SUN
from jobs.surrogate.handbook import CONSTANTS, HOURS, handbook

ARCHITECTURES = ((48, 48), (64, 32), (40, 32, 32), (56, 32), (48, 24, 24))
"""Widths of the hidden layers of the members, in turn."""
STUDENT = (112, 96)
"""Widths of the one network that learns from all of them."""
PREDICTED = len(OUTPUTS) - 1
"""All targets but `loss`, which closes the balance."""
OF_ONE_ROOM = ("window_front", "window_back", "orientation", "overhang")
BY_FACING = tuple(quantity.name for quantity in REFERENCE)
"""Told of four facings, four by four; each room is told what its own azimuth has."""
COMMON = len(INPUTS) - len(OF_ONE_ROOM) - len(BY_FACING)
"""Features that both rooms share; those after them are pairs, of the front and of the back."""
SOLAR = 1.22
"""Of the sun that the handbook reckons with: what comes through the windows."""


def encode(x: Tensor) -> tuple[Tensor, Tensor]:
    """What the networks see of designs (B, inputs), and what a handbook says of them.

    The features, (F, B), are COMMON inputs, then pairs, of the front and of the back room: window,
    overhang, sine and cosine of the azimuth, what the handbook makes of them, and what reference
    rooms of its azimuth need. The handbook's targets,
    (len(OUTPUTS), B) in their units, are what the networks correct; in the place of the loss stand
    the gains.
    """
    rows = x.T
    given = dict(zip(INPUTS, rows.split(1), strict=True))
    turn = given["orientation"] * (torch.pi / 180)
    sine, cosine, overhang = torch.sin(turn), torch.cos(turn), given["overhang"]
    rooms, needs = handbook(rows, CONSTANTS)
    features = [given[name] for name in INPUTS if name not in OF_ONE_ROOM + BY_FACING]
    features += [given["window_front"], given["window_back"], overhang, overhang * 0]
    features += [sine, -sine, cosine, -cosine, rooms, needs]
    for first in range(0, len(BY_FACING), len(FACINGS)):
        sides = [given[name] for name in BY_FACING[first : first + len(FACINGS)]]
        features += turned(sides, sine, cosine)
    loads, air, sun = needs[:LOADS], needs[LOADS:], (rooms[2:3] + rooms[3:4]) * (SOLAR / 2)
    yearly = torch.cat([sun, given["gains"]]) * (HOURS / 1000)
    return torch.cat(features), torch.cat([loads * (HOURS / 1000), air, yearly])


def turned(sides: Sequence[Tensor], sine: Tensor, cosine: Tensor) -> tuple[Tensor, Tensor]:
    """What is told of four facings, in the order of FACINGS, at the azimuths of front and back:
    exact at those four."""
    north, east, south, west = sides
    along, across = north + south, east + west
    even = across + (along - across) * (cosine * cosine)
    facing = (north - south) * cosine + (east - west) * sine
    return (even + facing) * 0.5, (even - facing) * 0.5


def exchanged(features: int) -> list[int]:
    """Where each feature is found when front and back change places."""
    pairs = range(COMMON, features, 2)
    return [*range(COMMON), *(place for first in pairs for place in (first + 1, first))]


class Member(nn.Module):
    """One network: scaled features (B, F) to scaled corrections of the handbook, (B, PREDICTED).

    It speaks of one room beside another: asked twice, with front and back exchanged. So each
    design teaches it two rooms.
    """

    def __init__(self, features: int, widths: Sequence[int], dropout: float) -> None:
        super().__init__()
        self.widths, self.exchanged = tuple(widths), exchanged(features)
        layers: list[nn.Module] = []
        for wide in widths:
            layers += [nn.Linear(features, wide), nn.SiLU(), nn.Dropout(dropout)]
            features = wide
        self.layers = nn.Sequential(*layers, nn.Linear(features, 4))

    def forward(self, x: Tensor) -> Tensor:
        rooms = self.layers(torch.stack([x, x[:, self.exchanged]], 1))  # (B, 2, 4)
        own = rooms[:, :, :3].transpose(1, 2).flatten(1)  # heating, cooling, air: each of both
        return torch.cat([own, rooms[:, :, 3].mean(1, keepdim=True)], 1)


def in_units(raw: Tensor, base: Tensor, scales: dict[str, Tensor]) -> Tensor:
    """Targets in their units, (len(OUTPUTS), B), of a network's (PREDICTED, B) beside the
    handbook's `base`.

    What is lost closes the balance: heating + sun + gains − cooling, in kWh/m2; loads and sun are
    never negative.
    """
    y = base[:PREDICTED] + raw * scales["y_std"][:, None] + scales["y_mean"][:, None]
    loads, air, sun = torch.relu(y[:LOADS]), y[LOADS:SUN], torch.relu(y[SUN:])
    lost = (loads[0:1] + loads[1:2] - loads[2:3] - loads[3:4]) / 2 + sun + base[PREDICTED:]
    return torch.cat([loads, air, sun, lost])


class Ensemble(nn.Module):
    """Members with their scales: the teacher of what is exported."""

    def __init__(self, members: Sequence[Member], scales: dict[str, Tensor]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.scales = scales

    def raw(self, x: Tensor) -> Tensor:
        """Every member's scaled corrections of the handbook, (M, B, PREDICTED)."""
        scaled = scaled_features(encode(x)[0], self.scales)
        return torch.stack([member(scaled) for member in self.members])

    def each(self, x: Tensor) -> Tensor:
        """Every member's targets in units, (M, B, len(OUTPUTS))."""
        base = encode(x)[1]
        return torch.stack([in_units(raw.T, base, self.scales).T for raw in self.raw(x)])


class Student(nn.Module):
    """The one small network that is exported: designs in units to mean and interval.

    Its layers give PREDICTED corrections of the handbook and the logarithm of the spread of every
    target, in `unit`, once for each kind of spread that it was taught; `keep` leaves one. The
    half-width is `quantile` × (spread + `floor`), or `quantile` alone where no kind is kept
    (conformal prediction, Lei et al. 2018, locally weighted).
    """

    def __init__(self, scales: dict[str, Tensor], unit: Tensor, kinds: int) -> None:
        super().__init__()
        self.scales, self.unit, self.kinds = scales, unit, kinds
        layers: list[nn.Module] = []
        features = len(scales["x_mean"])
        for wide in STUDENT:
            layers += [nn.Linear(features, wide), nn.SiLU()]
            features = wide
        self.layers = nn.Sequential(*layers, nn.Linear(features, PREDICTED + kinds * len(OUTPUTS)))
        self.quantile, self.floor = torch.ones(len(OUTPUTS)), torch.zeros(len(OUTPUTS))

    def keep(self, kind: int | None) -> None:
        """Forget the spreads but this one, or all of them."""
        last = self.layers[-1]
        assert isinstance(last, nn.Linear)
        start = PREDICTED + (kind or 0) * len(OUTPUTS)
        spread = range(start, start + len(OUTPUTS)) if kind is not None else range(0)
        rows = [*range(PREDICTED), *spread]
        kept = nn.Linear(last.in_features, len(rows))
        kept.weight.data, kept.bias.data = last.weight.data[rows], last.bias.data[rows]
        self.layers[-1], self.kinds = kept, int(kind is not None)

    def both(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Targets in units, (len(OUTPUTS), B), and the spreads in units, (kinds, outputs, B)."""
        features, base = encode(x)
        raw = self.layers(scaled_features(features, self.scales)).T
        spread = torch.exp(raw[PREDICTED:]).unflatten(0, (self.kinds, len(OUTPUTS)))
        return in_units(raw[:PREDICTED], base, self.scales), spread * self.unit[:, None]

    def forward(self, designs: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and half-width, each (len(OUTPUTS), B), of designs (len(INPUTS), B).

        Columns of a table become rows: so they lie in a data frame, and so they are worked on.
        """
        mean, spread = self.both(designs.T)
        if not self.kinds:
            return mean, self.quantile[:, None].expand_as(mean)
        return mean, self.quantile[:, None] * (spread[0] + self.floor[:, None])


def scaled_features(features: Tensor, scales: dict[str, Tensor]) -> Tensor:
    """Features (F, B) as the networks want them, (B, F): of mean 0 and deviation 1."""
    return ((features - scales["x_mean"][:, None]) * (1 / scales["x_std"])[:, None]).T
