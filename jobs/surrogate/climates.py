"""What a model knows of climates: what is likely where little is told, and how far others lie.

Fitted to the climates that a version was trained on, and stored beside it.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from jobs.surrogate.config import JOINT, REFERENCE, WEATHER

JOINT_NAMES = [quantity.name for quantity in JOINT]
ALL = [quantity.name for quantity in WEATHER]
RANGES = np.array([[q.low for q in WEATHER], [q.high for q in WEATHER]], float)
TOLD = slice(0, len(WEATHER) - len(JOINT))
OF_JOINT = slice(len(WEATHER) - len(JOINT), None)
OF_REFERENCE = slice(len(WEATHER) - len(REFERENCE), None)
"""Places in ALL, which ends with JOINT, which ends with REFERENCE."""
SKEWED = np.array(
    [q.unit in ("K d", "kWh/m2") and not q.name.endswith("radiation") for q in WEATHER]
)
"""Sums that are nothing in most climates: their logarithms are compared."""
RIDGES = (1e-3, 1e-2, 0.1, 1.0, 10.0)
"""Shares of the number of climates, of which the one is taken that errs least on left-out ones."""
FEW = 32
"""Climates; fewer could be learnt by heart and say nothing of left-out ones."""
LEAST_SIZE = 0.05
"""Of a direction in which climates differ, in deviations of a column; less is mostly rounding."""
FAR = 0.99
"""Of the training climates lie nearer than what counts as unlike them."""
NEAR = 0.02
"""Of the ranges of WEATHER: what differs more is another weather to the model of a town."""
MOST_WIDENED = 4.0
PIECE = 64
"""Columns that are multiplied at once: so few that OpenBLAS does it in the calling thread."""
FILE = "climates.npz"


@dataclass(frozen=True)
class Climates:
    """Numbers, all float64, of the fits: a quadratic of TOLD for JOINT_NAMES, within the range that
    there was; a centre and directions of unit variance for distances; by how much intervals are
    widened where JOINT is filled in."""

    mean: np.ndarray
    deviation: np.ndarray
    coefficients: np.ndarray
    low: np.ndarray
    high: np.ndarray
    centre: np.ndarray
    directions: np.ndarray
    far: np.ndarray
    widened: np.ndarray

    @classmethod
    def fit(cls, table: pd.DataFrame, champion: "Climates | None" = None) -> "Climates":
        """Of a table with the columns ALL; rows of the same weather count once. What is likely is
        as the champion has it, so that networks which go on from its weights see the same.
        """
        known = table[ALL].drop_duplicates()
        weather = known.to_numpy(float)
        told, joint = weather[:, TOLD], weather[:, OF_JOINT]
        mean, deviation = told.mean(0), told.std(0) + 1e-9
        terms = _quadratic(((told - mean) / deviation).T).T
        coefficients = _fit(terms, joint)
        shape = _comparable(weather.T).T
        centre = shape.mean(0)
        scale = shape.std(0) + 1e-9
        _, sizes, directions = np.linalg.svd((shape - centre) / scale, full_matrices=False)
        size = np.maximum(sizes / np.sqrt(len(shape)), LEAST_SIZE)
        whitened = (directions / size[:, None] / scale).T
        far = np.quantile(np.sqrt((((shape - centre) @ whitened) ** 2).mean(1)), FAR)
        if len(known) == 1:
            whitened, far = np.diag(1 / np.ptp(_comparable(RANGES.T), axis=1)), np.array(NEAR)
        if champion is not None:
            return replace(champion, centre=centre, directions=whitened, far=far)
        return cls(
            mean, deviation, coefficients, joint.min(0), joint.max(0), centre, whitened, far,
            np.array(1.0),
        )  # fmt: skip

    def seen(self, table: pd.DataFrame) -> tuple[pd.DataFrame, np.ndarray]:
        """What networks see of `table`, and which of its rows were filled in, (N,).

        The needs of reference rooms become what they differ by from what is likely: so the network
        is told what sets a climate apart, not again that it is cold.
        """
        weather, unknown, _ = self.tell(_columns(table))
        return _told(table, weather), unknown

    def fill(self, table: pd.DataFrame) -> tuple[pd.DataFrame, np.ndarray]:
        """`table` with what is likely where one of JOINT_NAMES is missing, and which rows, (N,)."""
        weather = _columns(table)
        unknown = self._fill(weather, self._likely(weather[TOLD]))
        return _told(table, weather), unknown

    def remoteness(self, weather: np.ndarray) -> np.ndarray:
        """How far weathers, (N, len(ALL)), lie from those that were trained on, (N,): up to 1 as
        FAR of them do."""
        return self._distance(weather.T)

    def tell(self, weather: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """As `seen`, of columns of weather, (len(ALL), N), which are written over; which of them
        were filled in, and how far they lie from those that were trained on, (N,) each.

        In the precision of `weather`, where these numbers have it (`single`).
        """
        likely = self._likely(weather[TOLD])
        unknown = self._fill(weather, likely)
        distance = self._distance(weather)
        weather[OF_REFERENCE] -= likely[-len(REFERENCE) :]
        return weather, unknown, distance

    def single(self) -> "Climates":
        """The same in float32."""
        return replace(self, **{n: np.asarray(v, np.float32) for n, v in vars(self).items()})

    def _likely(self, told: np.ndarray) -> np.ndarray:
        """Of columns of TOLD, (len(TOLD), N), those of JOINT, (len(JOINT), N)."""
        if _is_one(told):
            return np.repeat(self._likely(told[:, :1]), told.shape[1], 1)
        terms = _quadratic((told - self.mean[:, None]) / self.deviation[:, None])
        return np.clip(_product(self.coefficients.T, terms), self.low[:, None], self.high[:, None])

    def _fill(self, weather: np.ndarray, likely: np.ndarray) -> np.ndarray:
        """Write what is likely into columns that lack one of JOINT; which these are, (N,)."""
        unknown = np.any(np.isnan(weather[OF_JOINT]), axis=0)
        if unknown.any():
            weather[OF_JOINT] = np.where(unknown, likely, weather[OF_JOINT])
        return unknown

    def _distance(self, weather: np.ndarray) -> np.ndarray:
        if _is_one(weather):
            return np.repeat(self._distance(weather[:, :1]), weather.shape[1])
        along = _product(self.directions.T, _comparable(weather) - self.centre[:, None])
        return np.sqrt((along**2).mean(0)) / self.far

    def save(self, folder: Path) -> None:
        np.savez(folder / FILE, **vars(self))

    @classmethod
    def load(cls, folder: Path) -> "Climates | None":
        """None where an earlier release left none."""
        if not (folder / FILE).is_file():
            return None
        with np.load(folder / FILE) as stored:
            return cls(**dict(stored))


def _fit(terms: np.ndarray, joint: np.ndarray) -> np.ndarray:
    """Ridge regression of `joint`, (N, J), by `terms`, (N, T), whose first is 1: (T, J)."""
    free = np.eye(terms.shape[1])
    free[0, 0] = 0
    best, least = np.zeros((terms.shape[1], joint.shape[1])), np.inf
    for ridge in RIDGES if len(terms) >= FEW else RIDGES[-2:]:
        inverse = np.linalg.inv(terms.T @ terms + ridge * len(terms) * free)
        coefficients = inverse @ (terms.T @ joint)
        leverage = np.clip(((terms @ inverse) * terms).sum(1), 0, 1 - 1e-6)
        left_out = (joint - terms @ coefficients) / (1 - leverage)[:, None]
        error = float((left_out**2 / (joint.var(0) + 1e-9)).mean())
        if error < least:
            best, least = coefficients, error
    return best


def _product(matrix: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """`matrix` @ `columns`, in this thread alone: the batches have all cores already, and threads
    of OpenBLAS wait for each other by spinning."""
    starts = range(0, columns.shape[1], PIECE)
    pieces = [matrix @ columns[:, start : start + PIECE] for start in starts]
    return np.concatenate(pieces, axis=1) if pieces else matrix @ columns


def _quadratic(z: np.ndarray) -> np.ndarray:
    """1, each row of z, (F, N), and the products of each two: (T, N)."""
    products = [row * z[place:] for place, row in enumerate(z)]
    return np.concatenate([np.ones_like(z[:1]), z, *products])


def _comparable(weather: np.ndarray) -> np.ndarray:
    """Columns of weather, (len(ALL), N), as they are compared."""
    found = weather.copy()
    found[SKEWED] = np.log1p(np.maximum(weather[SKEWED], 0) / 10)
    return found


def _is_one(weather: np.ndarray) -> bool:
    """Whether all of several columns are the same."""
    return weather.shape[1] > 1 and bool((weather == weather[:, :1]).all())


def _columns(table: pd.DataFrame) -> np.ndarray:
    """The weather of `table`, (len(ALL), N), NaN where it is not told."""
    return np.array(table.reindex(columns=ALL).to_numpy(float).T, order="C")


def _told(table: pd.DataFrame, weather: np.ndarray) -> pd.DataFrame:
    """`table` with JOINT as `weather` has it."""
    return table.assign(**dict(zip(JOINT_NAMES, weather[OF_JOINT], strict=True)))
