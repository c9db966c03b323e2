"""What the surrogate learns from: simulated and observed designs, and the memory of earlier ones.

A table has config.INPUTS, config.OUTPUTS (NaN where not measured) and

    part         `train`, `calibrate` or `held_out`; a design keeps its part for ever, so that no
                 version is judged on what an earlier one learnt
    climate      simulated designs of one climate share it, and with it their part
    generation   how many versions there were when a design was simulated
    real         whether it was observed
    physics      the EDITION of the simulation that made it
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from jobs.surrogate.config import DESIGN, GIVEN, INPUTS, JOINT, OUTPUTS, WEATHER
from jobs.surrogate.designs import complete
from jobs.thermal import EDITION

PARTS = ("train", "calibrate", "held_out")
CLIMATES_A_GENERATION = GIVEN + 1
IDENTITY = [*(quantity.name for quantity in DESIGN), "latitude", *OUTPUTS]
"""What makes two observations the same: what is told of the weather is worked out anew with each
release, or estimated."""
_WEATHER = [quantity.name for quantity in WEATHER]
COLUMNS = [*INPUTS, *OUTPUTS, "part", "climate", "generation", "real", "physics"]


def from_simulation(path: Path, generation: int, seed: int) -> pd.DataFrame:
    """Simulated designs: whole climates train (60 %), calibrate (20 %) or are held out (20 %)."""
    table = pd.read_parquet(path)
    made = table.loc[table["climate"] != GIVEN, "climate"].unique()
    climates = np.random.default_rng(seed).permutation(made)
    calibrate, held_out = np.array_split(climates, 5)[:2]
    part = np.select(
        [table["climate"].isin(calibrate), table["climate"].isin(held_out)],
        ["calibrate", "held_out"],
        "train",
    )
    climate = table["climate"] + generation * CLIMATES_A_GENERATION
    return _placed(table, part, climate, generation, real=False)


def from_observations(path: Path, generation: int) -> pd.DataFrame:
    """Observed designs, each once and a climate of its own (counted from −1 down); the hash of its
    IDENTITY is its part."""
    table = complete(pd.read_json(path, lines=True)).reindex(columns=[*INPUTS, *OUTPUTS])
    table = table.drop_duplicates(IDENTITY, ignore_index=True)
    fifths = [_fifth(row) for row in table[IDENTITY].to_numpy()]
    part = np.select([np.equal(fifths, 0), np.equal(fifths, 1)], ["calibrate", "held_out"], "train")
    climate = -1 - np.arange(len(table))
    return _placed(table, part, climate, generation, real=True)


def _placed(
    table: pd.DataFrame,
    part: np.ndarray,
    climate: np.ndarray | pd.Series,
    generation: int,
    *,
    real: bool,
) -> pd.DataFrame:
    told = {"part": part, "climate": climate, "generation": generation}
    return table.assign(**told, real=real, physics=EDITION)[COLUMNS]


def _fifth(row: np.ndarray) -> int:
    return int.from_bytes(hashlib.sha256(row.astype(float).tobytes()).digest()[:4], "big") % 5


def only_weather(simulated: pd.DataFrame) -> pd.Series | None:
    """The numbers of the weather, where all designs stand in the same."""
    weathers = simulated[_WEATHER].drop_duplicates()
    return weathers.iloc[0] if len(weathers) == 1 else None


def in_weather(memory: pd.DataFrame, weather: pd.Series) -> pd.DataFrame:
    """The designs of `memory` that stand in that weather: a town's model learns of no other."""
    return memory[np.isclose(memory[_WEATHER], weather).all(axis=1)]


def gather(
    simulated: pd.DataFrame, observed: pd.DataFrame | None, memory: pd.DataFrame | None
) -> pd.DataFrame:
    """All that a version learns from. The memory's observations are in `observed` again; its
    simulated designs of a release that described the weather with less, or gave them other loads,
    are not learnt again."""
    tables = [simulated]
    if memory is not None:
        known = memory[[quantity.name for quantity in JOINT]].notna().all(axis=1)
        same = memory["physics"] == EDITION
        tables.append(memory[~memory["real"] & known & same])
    if observed is not None:
        tables.append(observed)
    return pd.concat([table for table in tables if len(table)], ignore_index=True)


def recall(champion: Path) -> pd.DataFrame:
    """What a champion remembers."""
    memory = complete(pd.read_parquet(champion / "memory.parquet"))
    return memory.assign(physics=memory.get("physics", 1))


def remember(table: pd.DataFrame, most: int, seed: int) -> pd.DataFrame:
    """What a later version replays: at most `most` simulated designs, and every observed one that
    was held out, to tell drift by."""
    made = table[~table["real"]]
    kept = made.sample(min(most, len(made)), random_state=seed)
    seen = table[table["real"] & (table["part"] == "held_out")]
    return pd.concat([part for part in (kept, seen) if len(part)], ignore_index=True)


def weights(table: pd.DataFrame, real_share: float) -> np.ndarray:
    """Of each row in the loss, shape (N,): observed ones have `real_share` of all, where any are.

    0 leaves them out; with 1 the simulated ones count for nearly nothing.
    """
    real = table["real"].to_numpy(bool)
    if not real.any() or real.all():
        return np.ones(len(table))
    share = min(real_share, 1 - 1e-6)
    return np.where(real, share / (1 - share) * (~real).sum() / real.sum(), 1.0)


@dataclass(frozen=True)
class Data:
    """Designs (N, inputs), targets (N, outputs; NaN where not measured), climates, weights (N,)."""

    x: Tensor
    y: Tensor
    group: np.ndarray
    weight: Tensor

    def of(self, chosen: np.ndarray) -> "Data":
        mask = torch.from_numpy(chosen)
        return Data(self.x[mask], self.y[mask], self.group[chosen], self.weight[mask])


def to_data(table: pd.DataFrame, real_share: float = 0.0) -> Data:
    """A table as tensors; `real_share` of the weight is the observed one's.

    Without a share all rows count alike.
    """
    weight = weights(table, real_share) if real_share else np.ones(len(table))
    x, y = (torch.tensor(table[list(n)].to_numpy(float)).float() for n in (INPUTS, OUTPUTS))
    return Data(x, y, table["climate"].to_numpy(), torch.tensor(weight).float())
