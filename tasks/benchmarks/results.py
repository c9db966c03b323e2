"""What the samples of a session say: a row for each figure, and its history."""

from collections.abc import Iterable, Sequence
from statistics import median
from typing import Any

from pydantic import BaseModel, ConfigDict

from infra.records.benchmarks import Measured
from jobs.benchmarks.statistics import (
    Better,
    Kind,
    Ratio,
    interval_of_median,
    is_enough,
    judge,
    paired_ratio,
    percentile,
)
from tasks.benchmarks.history import change_points

PERCENTILES = (0.5, 0.9, 0.99)


class Target(BaseModel):
    """What a figure of a capability is to reach, and where that is from. `of_beside`: this share of
    what it is measured beside, at least of rates and at most of times; `value`: in its unit,
    likewise. The unit, what is better, and the command that measures it are of figures of no suite.
    """

    model_config = ConfigDict(extra="forbid")

    capability: str
    of_beside: float | None = None
    value: float | None = None
    unit: str | None = None
    better: Better | None = None
    by: str | None = None
    source: str


class Interval(BaseModel):
    """A number and the interval that has it."""

    estimate: float
    low: float | None
    high: float | None


class Point(BaseModel):
    """One session in a figure's history. `value`: over what it was measured beside, where there is
    such a thing, else in its unit."""

    session: str
    revision: str
    value: float


class Row(BaseModel):
    """What is said of one figure; `size`: of how many of what is `counted` it is, where figures
    differ in that."""

    suite: str
    figure: str
    unit: str
    better: Better
    beside: str | None
    rounds: int
    value: Interval
    percentiles: list[float | None]
    of_beside: Interval | None
    target: Target | None
    reached: bool | None
    last: float | None
    change: Interval | None
    kind: Kind | None
    told: str
    history: list[Point]
    changes: list[tuple[int, float]]
    missing: list[str]
    steady: bool
    size: int | None = None
    counted: str = "size"

    @property
    def regressed(self) -> bool:
        """Whether it surely got worse against the other revision."""
        return self.kind == "slower"


def row(
    suite: str,
    known: dict[str, Any],
    sessions: Sequence[Measured],
    session: str,
    raw: Sequence[float],
    target: Target | None,
    least: float,
) -> Row:
    """The row of the figure that is `known` to the job, of `session`.

    `sessions` are all whole sessions of the suite, this one included; `raw` the single measurements
    of this one.
    """
    own = [one for one in sessions if one.figure == known["name"]]
    sides = {one.side: one for one in own if one.session == session}
    now, then, beside = sides["now"], sides.get("then"), sides.get("beside")
    held = _held(paired_ratio(now.values, beside.values)) if beside else None
    change = paired_ratio(now.values, then.values) if then else None
    finding = judge(change, known["better"], least) if change else None
    history = list(_history(own, now.environment_key, beside is not None))
    before = [one.values for one in own if one.side == "now" and _is_before(one, now)]
    interval = interval_of_median(now.values)
    value = Interval(
        estimate=median(now.values),
        low=interval[0] if interval else None,
        high=interval[1] if interval else None,
    )
    return Row(
        suite=suite,
        figure=now.figure,
        unit=now.unit,
        better=known["better"],
        beside=known["beside"],
        rounds=len(now.values),
        value=value,
        percentiles=percentiles(raw) if len(raw) > len(now.values) else [],
        of_beside=held,
        target=target,
        reached=is_reached(target, known["better"], value, held),
        last=median(before[-1]) if before else None,
        change=_held(change) if change else None,
        kind=finding.kind if finding else None,
        told=finding.told(least) if finding else "",
        history=history,
        changes=[(one.at, one.ratio) for one in change_points([p.value for p in history], least)],
        missing=known["missing"],
        steady=known["steady"],
        size=known.get("size"),
        counted=known.get("counted", "size"),
    )


def percentiles(raw: Sequence[float]) -> list[float | None]:
    """p50, p90 and p99 of single measurements, None where they are too few."""
    return [percentile(raw, share) if is_enough(len(raw), share) else None for share in PERCENTILES]


def _held(ratio: Ratio) -> Interval:
    return Interval(estimate=ratio.estimate, low=ratio.low, high=ratio.high)


def _is_before(one: Measured, now: Measured) -> bool:
    """Absolute values of another machine say nothing of this one's."""
    return one.environment_key == now.environment_key and one.completed_at < now.completed_at


def _history(own: Iterable[Measured], key: str, as_ratio: bool) -> Iterable[Point]:
    """Ratios of every machine, or absolute values of this one."""
    sessions: dict[str, dict[str, Measured]] = {}
    for one in own:
        sessions.setdefault(one.session, {})[one.side] = one
    for session, sides in sessions.items():
        now, beside = sides["now"], sides.get("beside")
        if as_ratio and beside:
            value = paired_ratio(now.values, beside.values).estimate
        elif not as_ratio and now.environment_key == key:
            value = median(now.values)
        else:
            continue
        yield Point(session=session, revision=now.revision, value=value)


def is_reached(
    target: Target | None, better: Better, value: Interval, held: Interval | None
) -> bool | None:
    """Whether a target is surely reached or missed; None where its interval holds it."""
    if target is None:
        return None
    found, wanted = (value, target.value) if target.value is not None else (held, target.of_beside)
    if found is None or wanted is None or found.low is None or found.high is None:
        return None
    if found.low < wanted < found.high:
        return None
    return found.estimate >= wanted if better == "more" else found.estimate <= wanted
