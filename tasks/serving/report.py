"""What a rollout ended with, for people and programs."""

from pathlib import Path

from pydantic import BaseModel

from infra.inert import plain
from infra.records.rollouts import Rollout
from infra.settings import settings
from tasks.runs.artifacts import show
from tasks.serving.sequential import ALARM, Comparison


class Compared(BaseModel):
    """Pairs in which the challenger was worse and better, and the largest evidence against it."""

    measure: str
    worse: int
    better: int
    evidence: float


class RolloutReport(BaseModel):
    """`state` is `finished` or `rolled back`; `stages`: share, 0 to 1 → pairs of requests."""

    model: str
    champion: str
    challenger: str
    state: str
    reason: str | None
    stages: dict[float, int]
    compared: list[Compared]
    files: dict[str, str]


def report_file(rollout: Rollout) -> Path:
    """Where the report of a rollout lies."""
    return settings().home / "runs" / f"rollout-{rollout.id}" / "report.md"


def publish(
    rollout: Rollout, stages: dict[float, int], comparison: Comparison | None
) -> RolloutReport:
    """Write the report and show it in the Prefect UI. `comparison` is None where another process
    had made it."""
    path = report_file(rollout)
    report = RolloutReport(
        model=rollout.model,
        champion=rollout.champion,
        challenger=rollout.challenger,
        state=rollout.state,
        reason=rollout.reason,
        stages=stages,
        compared=[
            Compared(measure=name, worse=one.worse, better=one.better, evidence=one.largest)
            for name, one in (comparison.measures if comparison else {}).items()
        ],
        files={"markdown": str(path)},
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    text = markdown(report)
    path.write_text(text, "utf-8")
    show("serving-rollout", text, {})
    return report


def markdown(report: RolloutReport) -> str:
    """The report as Markdown."""
    ended = f"Version {report.challenger} answers all requests; version {report.champion} did."
    if report.state != "finished":
        ended = f"Version {report.champion} answers on: {plain(report.reason or report.state)}."
    lines = [f"# Rollout of {plain(report.model)}, version {report.challenger}", "", ended]
    if report.stages:
        lines += ["", "| share | pairs compared |", "|---:|---:|"]
        lines += [f"| {share:.0%} | {count} |" for share, count in report.stages.items()]
    if report.compared:
        lines += [
            "",
            "| measure | worse | better | evidence | alarm |",
            "|---|---:|---:|---:|---:|",
        ]
        lines += [
            f"| {one.measure} | {one.worse} | {one.better} | {one.evidence:.2g} | {ALARM:.0f} |"
            for one in report.compared
        ]
    return "\n".join(lines) + "\n"
