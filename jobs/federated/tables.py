"""Tables: each tenant's rows, and what it does with a model of `jobs.federated.model`."""

from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from jobs.federated import dpsgd, model
from jobs.federated.config import DATA, FederatedConfig
from jobs.federated.data import Table
from jobs.federated.data import load as load_table
from jobs.federated.model import Matrix, Weights
from jobs.federated.weights import read_weights, write_weights
from jobs.runtime import Job, optional_input

LEARNING_RATE = 0.5


@dataclass(frozen=True)
class TableLearner:
    """One tenant with its rows."""

    config: FederatedConfig
    table: Table
    random: np.random.Generator | None = None
    """Of noise; by default the system's."""

    @property
    def rows(self) -> int:
        return len(self.table.train_y)

    @property
    def groups(self) -> None:
        """Each row stands by itself."""
        return None

    def improve(self, weights: Weights, _number: int) -> Weights:
        """The own intercept does not leave the tenant: it is as it came."""
        config, rounds = self.config, self.config.rounds
        proximal = rounds.proximal if rounds.strategy == "fedprox" else 0.0
        if config.privacy.of_records:  # not from the own intercept, which has no noise
            found = self._fit_privately(weights, proximal)
        else:
            found = self._fit(self._own(weights), rounds.local_steps, proximal)
        if rounds.own_bias:
            last = "b1" if rounds.hidden else "b0"
            found[last] = weights[last]
        return found

    def judge(self, weights: Weights) -> tuple[Matrix, dict[str, float]]:
        return model.judge(self._own(weights), self.table.held_out_x, self.table.held_out_y)

    def alone(self) -> Weights:
        rounds = self.config.rounds
        return self._fit(_initial(self.config), rounds.rounds * rounds.local_steps)

    def _own(self, weights: Weights) -> Weights:
        """The global weights as this tenant uses them."""
        if not self.config.rounds.own_bias:
            return weights
        return model.with_own_bias(weights, self.table.train_x, self.table.train_y)

    def _fit(self, weights: Weights, steps: int, proximal: float = 0.0) -> Weights:
        x, y, rounds = self.table.train_x, self.table.train_y, self.config.rounds
        rate = rounds.learning_rate or LEARNING_RATE
        return model.fit(weights, x, y, steps, rate, rounds.decay, proximal)

    def _fit_privately(self, weights: Weights, proximal: float) -> Weights:
        """The intercept is learnt from where it came, with noise as all else."""
        x, y, rounds = self.table.train_x, self.table.train_y, self.config.rounds
        rate, steps = rounds.learning_rate or LEARNING_RATE, rounds.local_steps
        private = self.config.privacy
        return dpsgd.fit(weights, x, y, steps, rate, rounds.decay, proximal, private, self.random)


def begin(job: Job[FederatedConfig]) -> Weights:
    """The champion's weights, or new ones."""
    return champion(job) or _initial(job.config)


def champion(job: Job[FederatedConfig]) -> Weights | None:
    """The champion's weights."""
    given = optional_input(job, "champion")
    return read_weights(given) if given else None


def load(config: FederatedConfig, folder: Path) -> Table:
    """A tenant's table. Raises InputError."""
    return load_table(folder / DATA, config.features, config.label, config.ranges)


def together(data: list[Table]) -> Table:
    """The rows of all."""
    return Table(*(np.concatenate([getattr(t, f.name) for t in data]) for f in fields(Table)))


def learner(config: FederatedConfig, _base: str, data: Table) -> TableLearner:
    """Who learns from it."""
    return TableLearner(config, data)


def base_of(_job: Job[FederatedConfig]) -> str:
    """Tables need none."""
    return ""


def write(job: Job[FederatedConfig], weights: Weights, folder: Path) -> Path:
    """The folder, with the model in it."""
    return write_weights(folder, weights, job.config)


def _initial(config: FederatedConfig) -> Weights:
    return model.initial(len(config.features), config.rounds.hidden, config.seed)
