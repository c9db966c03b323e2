"""What a job of benchmarks is told."""

from pydantic import Field

from infra.contract import JobConfig, Seed


class BenchmarkConfig(JobConfig):
    """Which suite is measured, in which trees."""

    suite: str = Field(description="a name of benchmarks.figures.SUITES")
    trees: dict[str, str] = Field(description="side → folder of a source tree: now, and then")
    rounds: int = Field(ge=1, description="in which each side is measured once, at most")
    least_effect: float = Field(default=0.05, gt=0, description="share of a change that matters")
    figures: list[str] | None = Field(default=None, description="only these of the suite")
    seed: Seed = Field(description="of the order of the sides")
