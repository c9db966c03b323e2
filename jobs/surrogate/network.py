"""The surrogate: an ensemble of small networks, and the one that learns from it and is exported.

Both correct a handbook and keep the energy balance by construction.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from jobs.surrogate.config import INPUTS, LOADS, OUTPUTS

ARCHITECTURES = ((48, 48), (64, 32), (40, 32, 32), (56, 32), (48, 24, 24))
"""Widths of the hidden layers of the members, in turn."""
STUDENT = (128, 96)
"""Widths of the one network that learns from all of them."""
PREDICTED = len(OUTPUTS) - 1
"""All targets but `loss`, which closes the balance."""
SUN = OUTPUTS.index("solar")
NEVER_NEGATIVE = [*range(LOADS), SUN]
HOURS = 8760
TRANSMITTED, GLASS_U, AIR_HEAT, SPELLS = 0.6, 2.8, 0.34, 6.0
"""Rough values for the encoding only: of the sun through glass, W/m2K, Wh/m3K, K2."""
BRIGHTER = 0.7
"""How much more sun summer has at the pole."""
QUARTER = 0.5**0.5
"""Of the year's swing, in the middle of each quarter: two of them are winter, two summer."""


def encode(x: Tensor) -> tuple[Tensor, Tensor]:
    """What the networks see of designs (B, inputs), and what a handbook says of them.

    The features, (F, B), are the inputs, sine and cosine of the orientation, and for the front and
    the back room in turn: loss coefficient in W/m2K, sun through the window in W/m2, the K that it
    and the gains heat by, heating and cooling in W/m2. The handbook's targets, (len(OUTPUTS), B) in
    their units, are what the networks correct: loads by variable-base degree hours of normally
    distributed temperatures (ASHRAE Fundamentals, ch. 19), in each season for itself; temperatures
    are 0, and in the place of the loss stand the gains. The sun comes from the radiation on the
    facades, interpolated in the azimuth.

    Designs lie along the last axis, and rooms and seasons before it: so every step is one long
    vector operation, several times as fast in onnxruntime as columns beside each other.
    """
    rows = x.T
    given = dict(zip(INPUTS, rows.split(1), strict=True))
    turn = given["orientation"] * (torch.pi / 180)
    sine, cosine = torch.sin(turn), torch.cos(turn)
    north, east = given["north_radiation"], given["east_radiation"]
    south, west = given["south_radiation"], given["west_radiation"]
    facing = (north - south) * cosine + (east - west) * sine
    along, across = north + south, east + west
    even = across + (along - across) * (cosine * cosine)
    incident = torch.cat([even + facing, even - facing]) * (TRANSMITTED * 500 / HOURS)
    height, wall_u = given["height"], given["wall_u"]
    facade = height / given["depth"]
    glass = facade * torch.cat([given["window_front"], given["window_back"]])
    walls = wall_u * (facade + height * 2 / given["width"]) + given["roof_u"] + given["floor_u"]
    loss = (GLASS_U - wall_u) * glass + (walls + AIR_HEAT * given["infiltration"] * height)
    sun, resistance = glass * incident, 1 / loss
    free = (given["gains"] + sun) * resistance
    brighter = torch.sin(given["latitude"] * (torch.pi / 180)) * (BRIGHTER * QUARTER)
    # summer is warmer than the mean of the year by this, winter colder
    swing = sun * resistance * brighter + given["seasonal_swing"] * QUARTER
    felt = given["mean_temperature"] + free
    cold = given["heating_setpoint"] - given["setback"] * (1 / 3) - felt
    warm = felt - given["cooling_setpoint"]
    daily = given["daily_swing"]
    spread = torch.sqrt(daily * daily * 0.5 + SPELLS)
    winter_and_summer = torch.cat([cold + swing, warm - swing, cold - swing, warm + swing])
    degrees = _degrees(winter_and_summer / spread)
    scale = loss * spread * 0.5
    loads = (degrees[:LOADS] + degrees[LOADS:]) * torch.cat([scale, scale])
    features = torch.cat([rows, sine, cosine, loss, sun, free, loads])
    both = [(sun[0:1] + sun[1:2]) * 0.5, given["gains"]]
    said = torch.cat([loads, torch.zeros_like(loss), *both])
    return features, said * (HOURS / 1000)


def _degrees(z: Tensor) -> Tensor:
    """Mean of max(0, v) for normal v with these means and deviation 1."""
    return torch.exp(z * z * -0.5) * (1 / (2 * torch.pi) ** 0.5) + functional.gelu(z)


class Member(nn.Module):
    """One network: scaled features (B, F) to scaled corrections of the handbook, (B, PREDICTED)."""

    def __init__(self, features: int, widths: Sequence[int], dropout: float) -> None:
        super().__init__()
        self.widths = tuple(widths)
        layers: list[nn.Module] = []
        for wide in widths:
            layers += [nn.Linear(features, wide), nn.SiLU(), nn.Dropout(dropout)]
            features = wide
        self.layers = nn.Sequential(*layers, nn.Linear(features, PREDICTED))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


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
