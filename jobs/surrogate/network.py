"""The surrogate: an ensemble of small networks that keep the energy balance by construction."""

from collections.abc import Sequence

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


def encode(x: Tensor) -> Tensor:
    """Inputs (B, len(INPUTS)) and what a handbook makes of them, (B, len(INPUTS) + 8).

    Sine and cosine of the orientation; the loss coefficient in W/m2K; the sun through both windows
    in W/m2 from the radiation on the facades, interpolated in the azimuth; heating and cooling by
    variable-base degree hours of normally distributed temperatures (ASHRAE Fundamentals, ch. 19).
    """

    def column(name: str) -> Tensor:
        place = INPUTS.index(name)
        return x[:, place : place + 1]

    turn = column("orientation") * (torch.pi / 180)
    sine, cosine = torch.sin(turn), torch.cos(turn)
    north, east = column("north_radiation"), column("east_radiation")
    south, west = column("south_radiation"), column("west_radiation")
    along, across = (north - south) / 2 * cosine, (east - west) / 2 * sine
    even = (north + south + east + west) / 4
    even = even + (north + south - east - west) / 4 * (2 * cosine * cosine - 1)
    facade = column("height") / column("depth")
    glass_front, glass_back = facade * column("window_front"), facade * column("window_back")
    sun_front = glass_front * (even + along + across) * TRANSMITTED / (HOURS / 1000)
    sun_back = glass_back * (even - along - across) * TRANSMITTED / (HOURS / 1000)
    glass = (glass_front + glass_back) / 2
    walls = facade - glass + 2 * column("height") / column("width")
    loss = column("wall_u") * walls + GLASS_U * glass + column("roof_u") + column("floor_u")
    loss = loss + AIR_HEAT * column("infiltration") * column("height")
    free = (column("gains") + (sun_front + sun_back) / 2) / loss
    warm = column("heating_setpoint") - column("setback") / 3
    mean = column("mean_temperature") + free
    spread = torch.sqrt((column("seasonal_swing") ** 2 + column("daily_swing") ** 2) / 2 + SPELLS)
    heating = loss * _degrees(warm - mean, spread)
    cooling = loss * _degrees(mean - column("cooling_setpoint"), spread)
    made = [sine, cosine, loss, sun_front, sun_back, free, heating, cooling]
    return torch.cat([x, *made], dim=1)


def _degrees(above: Tensor, spread: Tensor) -> Tensor:
    """Mean of max(0, v) for a normal v with this mean and deviation, K."""
    z = above / spread
    density = torch.exp(-z * z / 2) / (2 * torch.pi) ** 0.5
    return spread * density + above * (1 + torch.erf(z / 2**0.5)) / 2


class Member(nn.Module):
    """One network: encoded inputs (B, F) to raw targets but the loss (B, PREDICTED)."""

    def __init__(self, features: int, widths: Sequence[int], dropout: float) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for wide in widths:
            layers += [nn.Linear(features, wide), nn.ReLU(), nn.Dropout(dropout)]
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
        for name in ("x_mean", "x_std", "y_mean", "y_std"):
            self.register_buffer(name, scales[name])
        self.register_buffer("quantile", torch.ones(len(OUTPUTS)))
        self.register_buffer("floor", torch.zeros(len(OUTPUTS)))
        self.constant = False

    def each(self, x: Tensor) -> Tensor:
        """Every member's targets in units, shape (M, B, len(OUTPUTS))."""
        encoded = (encode(x) - self.x_mean) / self.x_std
        return torch.stack([self._in_units(member(encoded), x) for member in self.members])

    def _in_units(self, y: Tensor, x: Tensor) -> Tensor:
        y = y * self.y_std + self.y_mean
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
