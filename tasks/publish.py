"""Gather what the report of a night says, write it, and show it in the Prefect UI."""

from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE

from infra import jobs, runs
from infra.registry import ModelVersion
from infra.verdicts import Verdict
from jobs.contract import JobResult, Progress
from tasks.artifacts import show
from tasks.gate import paired_interval
from tasks.launch import launchers, reservations
from tasks.ppo import read_evaluation
from tasks.report import KL, REWARD, Cost, Drawn, Report, Score, draw, markdown
from tasks.run import Work

EXAMPLES = 3


@task(name="report", cache_policy=NO_CACHE)
def publish_report(
    work: Work,
    champion: ModelVersion,
    candidate: ModelVersion,
    evaluation: JobResult,
    verdict: Verdict,
    served: str | None,
) -> Report:
    """The morning's report as files and as artifacts; closes the run."""
    trained = candidate.metrics
    rows = read_evaluation(evaluation)
    collected = {
        "stored trajectories trained on": int(trained.get("stored_used", 0)),
        "trajectories too stale to use": int(trained.get("stored_too_stale", 0)),
        "episodes in all, fresh rollouts included": int(trained.get("episodes", 0)),
        "held-out prompts judged": len(rows),
    }
    report = draft(work, champion, candidate, rows, verdict, served, collected)
    if "reward_after_stored" in trained:
        report.gained_by_stored = trained["reward_after_stored"] - trained["reward_before"]
        report.gained_by_rerolls = trained["reward_after_rerolls"] - trained["reward_after_stored"]
    return publish(work, report)


def draft(
    work: Work,
    champion: ModelVersion,
    candidate: ModelVersion,
    rows: list[dict],
    verdict: Verdict,
    served: str | None,
    collected: dict[str, int],
) -> Report:
    """What every training's report says."""
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
        served_from=served,
        costs=costs(work),
        examples=_examples(rows),
        look_next={
            "this report": files["markdown"],
            "the learning curve": files["plot"],
            "all versions": f"nightshift models list {champion.model}",
            "the training log": f"nightshift jobs logs {work.run.id}/train",
            "what may be spent today": "nightshift budget show",
            "the Prefect UI": "nightshift up",
        },
        files=files,
    )


def publish(work: Work, report: Report, main: Drawn = REWARD, second: Drawn = KL) -> Report:
    """Draw the learning curve, then `finish`."""
    draw(report, curve(work), Path(report.files["plot"]), main, second)
    return finish(work, report, "nightly-report", "learning-curve")


def finish(work: Work, report: Report, key: str, plot_key: str) -> Report:
    """Write the report, show it and its plot in the UI under these keys, and close the run."""
    text = markdown(report)
    Path(report.files["markdown"]).write_text(text)
    show(key, text, {plot_key: Path(report.files["plot"])})
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


def costs(work: Work) -> list[Cost]:
    """What each job of the run was charged, over all its attempts."""
    found = []
    for job in jobs.of_run(work.pool, work.run.id):
        launcher = launchers("auto")[job.launcher]
        attempts = [launcher.poll(handle) for handle in launcher.attempts(job.key)]
        found.append(
            Cost(
                job=job.key.partition("/")[2],
                launcher=job.launcher,
                seconds=sum((a.seen - a.started).total_seconds() for a in attempts if a.started),
                usd=sum((r.spent for r in reservations(work.pool, job.key)), Decimal(0)),
            )
        )
    return found


def curve(work: Work) -> list[Progress]:
    """The learning curve of the training job."""
    job = jobs.find(work.pool, f"{work.run.id}/train")
    return launchers("auto")[job.launcher].progress(job.key) if job else []


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
