"""The kinds of model that tenants can train together, each a module with these functions."""

from pathlib import Path
from typing import Any, Protocol

import numpy as np

from jobs.federated import tables
from jobs.federated.config import FederatedConfig
from jobs.federated.model import Weights
from jobs.runtime import Job


class Learner(Protocol):
    """What one tenant does with its rows."""

    @property
    def rows(self) -> int:
        """Those that are trained on."""
        ...

    @property
    def groups(self) -> np.ndarray | None:
        """Numbers from 0 on of the held-out rows that err together, one a row; None where each
        stands by itself."""
        ...

    def improve(self, weights: Weights, number: int, /) -> Weights:
        """The weights after the local steps of round `number`."""
        ...

    def judge(self, weights: Weights) -> tuple[np.ndarray, dict[str, float]]:
        """Which held-out rows are right, and scores by name, the `loss` among them."""
        ...

    def alone(self) -> Weights:
        """What it would learn by itself, with as many steps."""
        ...


class Kind(Protocol):
    """One kind of model; a tenant's data is what its folder holds of it."""

    def begin(self, job: Job[FederatedConfig]) -> Weights:
        """The weights of the first round: the champion's, or new ones. Raises InputError."""
        ...

    def champion(self, job: Job[FederatedConfig]) -> Weights | None:
        """What the candidate is compared with, if there is something."""
        ...

    def load(self, config: FederatedConfig, folder: Path, /) -> Any:
        """A tenant's data. Raises InputError that tells no value."""
        ...

    def together(self, data: list[Any]) -> Any:
        """The data of many as that of one."""
        ...

    def learner(self, config: FederatedConfig, base: str, data: Any, /) -> Learner:
        """Who learns from it; `base`: folder or name of a language model."""
        ...

    def base_of(self, job: Job[FederatedConfig], /) -> str:
        """Where the language model is that nodes need; empty where they need none."""
        ...

    def write(self, job: Job[FederatedConfig], weights: Weights, folder: Path) -> Path:
        """The folder, with the model in it."""
        ...


def kind_of(config: FederatedConfig) -> Kind:
    """The kind that the config asks for; a table's imports no torch."""
    if config.group:
        from jobs.federated import encoders

        return encoders
    if config.model:
        from jobs.federated import adapters

        return adapters
    return tables
