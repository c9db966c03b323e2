"""Gather what the report of a night says, write it, and show it in the Prefect UI."""

from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

from infra.compute import jobs
from infra.models import tracking
from infra.models.registry import ModelVersion
from infra.models.verdicts import Verdict
from infra.records import runs
from tasks.champions.candidate import Deployed
from tasks.champions.gate import paired_interval
from tasks.champions.report import KL, REWARD, Cost, Drawn, Report, Score, draw, markdown
from tasks.runs import offers
from tasks.runs.artifacts import show
from tasks.runs.charge import reservations
from tasks.runs.curves import courtesy, curve
from tasks.runs.run import Work

EXAMPLES = 3


def draft(
    work: Work[Any],
    champion: ModelVersion,
    candidate: ModelVersion,
    rows: list[dict],
    verdict: Verdict,
    deployed: Deployed | None,
    collected: dict[str, int],
) -> Report:
    """What every training's report says. `deployed` is None where the gate said no."""
    deployed = deployed or Deployed()
    files = {
        "markdown": str(work.folder / "report.md"),
        "plot": str(work.folder / "learning_curve.png"),
    }
    return Report(
        run=work.run.id,
        model=champion.model,
        resumed=work.run.resumed,
        collected=collected,
        scores=[score(rows, name) for name in _measures(rows)],
        verdict=verdict,
        champion=champion.version,
        candidate=candidate.version,
        served_from=deployed.served_from,
        not_promoted=deployed.not_promoted,
        costs=costs(work),
        examples=_examples(rows),
        look_next={
            "this report": files["markdown"],
            "the learning curve": files["plot"],
            "the curves in TensorBoard": work.tensorboard,
            "the same again": work.same_again,
            **_rollout(candidate, deployed),
            "all versions": f"nightshift models list {champion.model}",
            "the training log": f"nightshift jobs logs {work.run.id}/train",
            "what may be spent today": "nightshift budget show",
            "the Prefect UI": "nightshift up",
        },
        files=files,
    )


def _rollout(candidate: ModelVersion, deployed: Deployed) -> dict[str, str]:
    if deployed.rollout:
        return {"its rollout": deployed.rollout}
    if deployed.not_promoted:
        again = f"nightshift run serving-rollout --model {candidate.model}@{candidate.version}"
        return {"its rollout once more": again}
    return {}


def publish(work: Work[Any], report: Report, main: Drawn = REWARD, second: Drawn = KL) -> Report:
    """Draw the learning curve, then `finish`."""
    draw(report, curve(work.pool, work.run.id), Path(report.files["plot"]), main, second)
    return finish(work, report, "nightly-report", "learning-curve")


def finish(work: Work[Any], report: Report, key: str, plot_key: str) -> Report:
    """Write the report, show it and its plot in the UI under these keys, and close the run."""
    text = markdown(report)
    Path(report.files["markdown"]).write_text(text, "utf-8")
    show(key, text, {plot_key: Path(report.files["plot"])})
    with courtesy("MLflow"):
        told = {
            "model": report.model,
            "version": report.candidate,
            "verdict": report.reason,
        }
        scores = {f"held_out.{one.name}": one.candidate for one in report.scores}
        gains = {f"held_out.{one.name}.gain": one.gain for one in report.scores}
        tracking.conclude(work.run.id, told, scores | gains)
    runs.end(work.pool, work.run, "finished", report.model_dump(mode="json"))
    return report


def score(rows: list[dict], name: str, groups: Sequence[str] | None = None) -> Score:
    """Means and paired gain of one measure over the held-out prompts, or what is in `groups`."""
    sides = {
        side: [float(row[side][name]) for row in rows] for side in ("base", "champion", "candidate")
    }
    gain, low, high = paired_interval(sides["candidate"], sides["champion"], groups=groups)
    means = {side: sum(values) / len(values) for side, values in sides.items()}
    return Score(name=name, gain=gain, low=low, high=high, **means)


def costs(work: Work[Any]) -> list[Cost]:
    """What each job of the run was charged, over all its attempts."""
    found = []
    for job in jobs.of_run(work.pool, work.run.id):
        launcher = offers.launchers("auto")[job.launcher]
        attempts = [launcher.poll(handle) for handle in launcher.attempts(job.key)]
        found.append(
            Cost(
                job=job.key.partition("/")[2],
                launcher=job.launcher,
                seconds=sum((a.seen - a.started).total_seconds() for a in attempts if a.started),
                usd=sum((r.spent for r in reservations(work.pool, job.key)), Decimal(0)),
                usage=job.result.usage if job.result else None,
            )
        )
    return found


def _measures(rows: list[dict]) -> list[str]:
    return ["reward"] + (["success"] if rows[0]["candidate"]["success"] is not None else [])


def _examples(rows: list[dict]) -> list[tuple[str, str, str]]:
    """Prompts whose answers changed most for the better."""
    better = sorted(rows, key=lambda r: r["champion"]["reward"] - r["candidate"]["reward"])
    return [
        (row["prompt"], row["champion"]["completion"], row["candidate"]["completion"])
        for row in better[:EXAMPLES]
        if row["candidate"]["reward"] > row["champion"]["reward"]
    ]
