"""What benchmarks are told: the model behind options, forms and webhooks."""

from typing import Literal

from pydantic import Field

from jobs.benchmarks.statistics import FEWEST_ROUNDS
from tasks.runs.parameters import Hours, RunParameters

Suite = Literal[
    "control-plane", "training", "surrogate", "search", "serving", "federated", "evaluation"
]
MEASURED: dict[Suite, str] = {
    "control-plane": "control",
    "training": "train",
    "surrogate": "surrogate",
    "search": "search",
    "serving": "serve",
    "federated": "federated",
}
"""Suites that a job measures, and the environment of each; `evaluation` reads what is stored."""


class BenchmarkParameters(RunParameters):
    """Which suites, against what."""

    suite: Literal[Suite, "all"] = Field(
        default="control-plane",
        title="Suite",
        description="What is measured. `evaluation` measures nothing: it reads the verdicts.",
    )
    against: str | None = Field(
        default=None,
        min_length=1,
        max_length=200,
        title="Against",
        description="A git revision, a date like 2026-11-01 (the last commit of that day, UTC), or "
        "`last`, the revision of the last whole run: it is measured too, in the same rounds.",
    )
    rounds: int = Field(
        default=60,
        ge=FEWEST_ROUNDS,
        le=500,
        title="Rounds, at most",
        description="In which each side of a figure is measured once. A figure ends after a quarter"
        " or half of them where its verdict is sure, without `against` after a quarter.",
    )
    least_effect: float = Field(
        default=0.05,
        ge=0.01,
        le=1,
        title="Least effect",
        description="Change that matters, as a share: 0.05 is 5 %. Smaller ones are never told.",
    )
    fail_on_regression: bool = Field(
        default=False,
        title="Fail on a regression",
        description="End with exit code 10 where a figure got worse.",
    )
    hours: Hours = Field(
        default=0.5, title="Window", description="Hours of each suite's job, at most."
    )

    @property
    def name(self) -> str:
        """What its runs are told apart by."""
        return self.suite

    @property
    def suites(self) -> list[Suite]:
        """Those that are meant."""
        return [*MEASURED, "evaluation"] if self.suite == "all" else [self.suite]
