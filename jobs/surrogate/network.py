"""The surrogate: an ensemble of small networks that keep the energy balance by construction."""

from collections.abc import Sequence
from math import cos, pi

import torch
from torch import Tensor, nn

from jobs.surrogate.config import INPUTS, OUTPUTS

ARCHITECTURES = ((48, 48), (64, 32), (40, 32, 32), (56, 32), (48, 24, 24))
"""Widths of the hidden layers of the members, in turn."""
GAINS = INPUTS.index("gains")
PREDICTED = len(OUTPUTS) - 1
"""All targets but `loss`, which closes the balance."""
NEVER_NEGATIVE = [i for i, name in enumerate(OUTPUTS) if name[:4] in ("heat", "cool", "sola")]
HOURS = 8760
TRANSMITTED, GLASS_U, AIR_HEAT, SPELLS = 0.6, 2.8, 0.34, 6.0
"""Rough values for the encoding only: of the sun through glass, W/m2K, Wh/m3K, K2."""
SEASONS, BRIGHTER = 4, 0.7
"""Points of the year in the encoding, and how much more sun summer has at the pole."""


def encode(x: Tensor) -> Tensor:
    """Inputs (B, len(INPUTS)) and what a handbook makes of them, (B, len(INPUTS) + 12).

    Sine and cosine of the orientation, and the loads by `handbook_parts`.
    """
    turn = _column(x, "orientation") * (torch.pi / 180)
    return torch.cat([x, torch.sin(turn), torch.cos(turn), *handbook_parts(x)], dim=1)


def handbook(x: Tensor) -> Tensor:
    """Targets but the loss by degree hours alone, (B, PREDICTED): what the members correct.

    Temperatures are 0: a handbook says nothing of them.
    """
    _, sun_front, _, heat_front, cool_front, _, sun_back, _, heat_back, cool_back = handbook_parts(
        x
    )
    nothing = torch.zeros_like(sun_front)
    sun = (sun_front + sun_back) / 2
    loads = [heat_front, heat_back, cool_front, cool_back, nothing, nothing, sun]
    return torch.cat(loads, dim=1) * (HOURS / 1000)


def handbook_parts(x: Tensor) -> list[Tensor]:
    """For the front and then the back room, each (B, 1): loss coefficient in W/m2K, sun through the
    window in W/m2, the K that it and the gains heat by, heating and cooling in W/m2.

    The sun comes from the radiation on the facades, interpolated in the azimuth; the loads by
    variable-base degree hours of normally distributed temperatures (ASHRAE Fundamentals, ch. 19),
    in each season for itself.
    """
    turn = _column(x, "orientation") * (torch.pi / 180)
    sine, cosine = torch.sin(turn), torch.cos(turn)
    north, east = _column(x, "north_radiation"), _column(x, "east_radiation")
    south, west = _column(x, "south_radiation"), _column(x, "west_radiation")
    facing = (north - south) / 2 * cosine + (east - west) / 2 * sine
    even = (north + south + east + west) / 4
    even = even + (north + south - east - west) / 4 * (2 * cosine * cosine - 1)
    height = _column(x, "height")
    facade, sides = height / _column(x, "depth"), 2 * height / _column(x, "width")
    warm = _column(x, "heating_setpoint") - _column(x, "setback") / 3
    spread = torch.sqrt(_column(x, "daily_swing") ** 2 / 2 + SPELLS)
    season = torch.tensor([[-cos(2 * pi * (n + 0.5) / SEASONS) for n in range(SEASONS)]])
    outside = _column(x, "mean_temperature") + _column(x, "seasonal_swing") * season
    bright = 1 + BRIGHTER * torch.sin(_column(x, "latitude") * (torch.pi / 180)) * season
    parts: list[Tensor] = []
    for window, sign in (("window_front", 1), ("window_back", -1)):
        glass = facade * _column(x, window)
        loss = _column(x, "wall_u") * (facade - glass + sides) + GLASS_U * glass
        loss = loss + _column(x, "roof_u") + _column(x, "floor_u")
        loss = loss + AIR_HEAT * _column(x, "infiltration") * height
        sun = glass * (even + sign * facing) * TRANSMITTED / (HOURS / 1000)
        free = (_column(x, "gains") + sun * bright) / loss
        heating = loss * _degrees(warm - outside - free, spread)
        cooling = loss * _degrees(outside + free - _column(x, "cooling_setpoint"), spread)
        parts += [loss, sun, _of_year(free), heating, cooling]
    return parts


def _column(x: Tensor, name: str) -> Tensor:
    place = INPUTS.index(name)
    return x[:, place : place + 1]


def _degrees(above: Tensor, spread: Tensor) -> Tensor:
    """Mean of max(0, v) for normal v with these means (B, seasons) and deviation, (B, 1) in K."""
    z = above / spread
    density = torch.exp(-z * z / 2) / (2 * torch.pi) ** 0.5
    each = spread * density + above * (1 + torch.erf(z / 2**0.5)) / 2
    return _of_year(each)


def _of_year(seasons: Tensor) -> Tensor:
    """The mean of (B, seasons), (B, 1). No `mean()`: ONNX would give the output's name to it."""
    return seasons.sum(1, keepdim=True) / SEASONS


class Member(nn.Module):
    """One network: encoded inputs (B, F) to raw targets but the loss (B, PREDICTED)."""

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


def close_balance(y: Tensor, gains: Tensor) -> Tensor:
    """Append what is lost, kWh/m2: heating + sun + gains − cooling, so that the balance holds.

    `y`: targets but the last, (B, PREDICTED), in their units; `gains`: W/m2, (B,).
    """
    heating, cooling = (y[:, 0] + y[:, 1]) / 2, (y[:, 2] + y[:, 3]) / 2
    loss = heating + y[:, 6] + gains * (HOURS / 1000) - cooling
    return torch.cat([y, loss[:, None]], dim=1)


class Ensemble(nn.Module):
    """Members with their scales: designs in units to mean and half-width of the interval.

    The half-width is `quantile` × (spread of the members + `floor`), or `quantile` alone where
    `constant`; both per target (conformal prediction, Lei et al. 2018, locally weighted).
    """

    x_mean: Tensor
    x_std: Tensor
    y_mean: Tensor
    y_std: Tensor
    quantile: Tensor
    floor: Tensor

    def __init__(self, members: Sequence[Member], scales: dict[str, Tensor]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.scales = scales
        for name in ("x_mean", "x_std", "y_mean", "y_std"):
            self.register_buffer(name, scales[name])
        self.register_buffer("quantile", torch.ones(len(OUTPUTS)))
        self.register_buffer("floor", torch.zeros(len(OUTPUTS)))
        self.constant = False

    def each(self, x: Tensor) -> Tensor:
        """Every member's targets in units, shape (M, B, len(OUTPUTS))."""
        encoded = (encode(x) - self.x_mean) / self.x_std
        base = handbook(x)
        return torch.stack([self._in_units(member(encoded), x, base) for member in self.members])

    def _in_units(self, y: Tensor, x: Tensor, base: Tensor) -> Tensor:
        y = base + y * self.y_std + self.y_mean
        keep = torch.zeros(PREDICTED)
        keep[[i for i in range(PREDICTED) if i not in NEVER_NEGATIVE]] = 1
        return close_balance(torch.relu(y) * (1 - keep) + y * keep, x[:, GAINS])

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and half-width, each (B, len(OUTPUTS)), of designs (B, len(INPUTS))."""
        every = self.each(x)
        mean = every.mean(0)
        if self.constant:
            return mean, self.quantile.expand_as(mean)
        spread = torch.sqrt(((every - mean) ** 2).mean(0))
        return mean, self.quantile * (spread + self.floor)
