"""What a federation remembers between rounds, as a checkpoint: arrays and JSON, nothing pickled."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from jobs.federated.model import Weights
from jobs.federated.strategies import MOMENTS


@dataclass
class State:
    """After round `number`: the global model, the strategy's moments, who took part in each round
    (`log`, one row a round), and until which round silent tenants are left alone."""

    weights: Weights
    moments: dict[str, Weights] = field(default_factory=dict)
    number: int = 0
    log: list[dict[str, Any]] = field(default_factory=list)
    misses: dict[str, int] = field(default_factory=dict)
    asked_again: dict[str, int] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """As a checkpoint."""
        arrays = {f"weights {name}": value for name, value in self.weights.items()}
        for moment, values in self.moments.items():
            arrays |= {f"{moment} {name}": value for name, value in values.items()}
        np.savez(folder / "arrays.npz", allow_pickle=False, **arrays)
        rest = {name: getattr(self, name) for name in ("number", "log", "misses", "asked_again")}
        (folder / "state.json").write_text(json.dumps(rest))

    @classmethod
    def read(cls, folder: Path) -> "State":
        """From a checkpoint."""
        found: dict[str, Weights] = {}
        with np.load(folder / "arrays.npz", allow_pickle=False) as arrays:
            for key in arrays.files:
                kind, _, name = key.partition(" ")
                found.setdefault(kind, {})[name] = arrays[key]
        rest = json.loads((folder / "state.json").read_text())
        return cls(weights=found.pop("weights"), moments=found, **rest)

    def remember(self, strategy: Any) -> None:
        """Take over the strategy's moments."""
        self.moments = {name: dict(value) for name in MOMENTS if (value := _of(strategy, name))}

    def remind(self, strategy: Any) -> None:
        """Give the strategy the moments back."""
        for name, values in self.moments.items():
            setattr(strategy, name, values)

    def silent(self, tenant: str) -> None:
        """It did not answer in the round after `number`: it is left alone for 1, 3, 7 … rounds."""
        self.misses[tenant] = self.misses.get(tenant, 0) + 1
        self.asked_again[tenant] = self.number + 1 + 2 ** self.misses[tenant]

    def heard(self, tenant: str) -> None:
        """It answered."""
        self.misses.pop(tenant, None)
        self.asked_again.pop(tenant, None)


def _of(strategy: Any, name: str) -> Weights | None:
    return getattr(strategy, name, None)
