"""What was measured of the champion and its variants, and which variant is the best."""

from collections.abc import Mapping, Sequence
from statistics import median, quantiles
from typing import Any

from pydantic import BaseModel

from jobs.quantization.config import VARIANTS
from jobs.serving.config import CHAMPION
from tasks.champions.gate import FEWEST, paired_interval
from tasks.quantization.parameters import Objective

FEWEST_OF_P90 = 64
"""Requests that a 90th percentile is told from."""


class Figures(BaseModel):
    """Of one side. `error` says why there are none; `missed`, why the objective is not held.

    Seconds of the first token and of the whole answer: medians, and 90th percentiles from enough
    requests. `throughput` is in tokens of answers a second, `memory` and `bytes` (on the disk) in
    bytes, `quality` a mean reward, `gain` its difference to the champion's with its interval.
    """

    variant: str
    error: str | None = None
    missed: list[str] = []
    quality: float | None = None
    gain: tuple[float, float, float] | None = None
    first: float | None = None
    first_p90: float | None = None
    answer: float | None = None
    answer_p90: float | None = None
    throughput: float | None = None
    memory: int | None = None
    bytes: int | None = None

    @property
    def name(self) -> str:
        """As the field calls it."""
        return {CHAMPION: "champion", **VARIANTS}[self.variant]

    def metrics(self) -> dict[str, float]:
        """The figures by name, of the registered version."""
        kept = ("quality", "first", "answer", "throughput", "memory", "bytes")
        found = {name: getattr(self, name) for name in kept}
        return {name: float(value) for name, value in found.items() if value is not None}


def figures(
    made: Sequence[Mapping[str, Any]],
    measured: Sequence[Mapping[str, Any]],
    rewards: Mapping[str, Sequence[float]],
    objective: Objective,
) -> list[Figures]:
    """Of the champion first, then of each variant, made or not."""
    rows = {row["variant"]: row for row in measured}
    champion = _figures(rows[CHAMPION], rewards, objective)
    others = [
        _figures(rows[row["variant"]], rewards, objective)
        if row["error"] is None
        else Figures(variant=row["variant"], error=f"not made: {row['error']}")
        for row in made
    ]
    return [champion, *others]


def best(found: Sequence[Figures]) -> Figures | None:
    """The variant with the highest throughput of those that hold the objective."""
    able = [one for one in found if one.variant != CHAMPION and not (one.error or one.missed)]
    return max(able, key=lambda one: one.throughput or 0.0, default=None)


def _figures(
    row: Mapping[str, Any], rewards: Mapping[str, Sequence[float]], objective: Objective
) -> Figures:
    variant = row["variant"]
    if row["error"] is not None:
        error = f"not served: {row['error']}"
        return Figures(variant=variant, error=error, bytes=row["bytes"])
    ours, theirs = rewards[variant], rewards[CHAMPION]
    found = Figures(
        variant=variant,
        quality=sum(ours) / len(ours),
        gain=paired_interval(ours, theirs),
        first=median(row["first_s"]),
        first_p90=_p90(row["first_s"]),
        answer=median(row["answer_s"]),
        answer_p90=_p90(row["answer_s"]),
        throughput=row["tokens"] / row["seconds"],
        memory=row["memory"],
        bytes=row["bytes"],
    )
    return found.model_copy(update={"missed": _missed(found, theirs, objective)})


def _missed(found: Figures, theirs: Sequence[float], objective: Objective) -> list[str]:
    """What of the objective a variant does not hold, a sentence each."""
    assert found.gain is not None and found.answer is not None
    mean = sum(theirs) / len(theirs)
    most = (1 - objective.min_quality) * abs(mean)
    missed = []
    if len(theirs) < FEWEST:
        missed.append(f"{len(theirs)} held-out prompts tell no quality, {FEWEST} are needed")
    elif -found.gain[1] > most:
        missed.append(f"it may lose {-found.gain[1]:.3g} of quality, at most {most:.3g} may be")
    limit = objective.max_latency_ms
    if limit is not None and 1000 * found.answer > limit:
        missed.append(f"an answer takes {1000 * found.answer:.0f} ms, at most {limit:g} may be")
    return missed


def _p90(seconds: Sequence[float]) -> float | None:
    return quantiles(seconds, n=10)[-1] if len(seconds) >= FEWEST_OF_P90 else None
