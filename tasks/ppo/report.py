"""The report of a night."""

from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from infra.contract import JobResult
from infra.models.registry import ModelVersion
from infra.models.verdicts import Verdict
from tasks.champions.candidate import Deployed, read_lines
from tasks.champions.publish import draft, publish
from tasks.champions.report import Report
from tasks.runs.run import Work


@task(name="report", cache_policy=NO_CACHE)
def publish_report(
    work: Work[Any],
    champion: ModelVersion,
    candidate: ModelVersion,
    evaluation: JobResult,
    verdict: Verdict,
    deployed: Deployed | None,
) -> Report:
    """The morning's report as files and as artifacts; closes the run."""
    trained = candidate.metrics
    rows = read_lines(evaluation.artifacts["evaluation"])
    collected = {
        "stored trajectories trained on": int(trained.get("stored_used", 0)),
        "trajectories too stale to use": int(trained.get("stored_too_stale", 0)),
        "trajectories of prompts that are set aside": int(trained.get("stored_set_aside", 0)),
        "episodes in all, fresh rollouts included": int(trained.get("episodes", 0)),
        "training prompts set aside, which chose the checkpoint": int(
            trained.get("validation_prompts", 0)
        ),
        "iterations until the checkpoint that was chosen": int(trained.get("best_iteration", 0)),
        "held-out prompts judged": len(rows),
    }
    report = draft(work, champion, candidate, rows, verdict, deployed, collected)
    if "reward_after_stored" in trained:
        report.gained_by_stored = trained["reward_after_stored"] - trained["reward_before"]
        report.gained_by_rerolls = trained["reward_after_rerolls"] - trained["reward_after_stored"]
    if trained.get("cut_at_window"):
        report.sections["Training was cut at its window"] = (
            f"It took {trained['seconds'] / 3600:.3g} h, which is what --hours "
            f"{work.parameters.hours:g} leaves for it, and made {int(trained['iterations'])} of "
            f"{work.parameters.ppo.iterations} iterations. With more --hours it would have gone on."
        )
    return publish(work, report)
