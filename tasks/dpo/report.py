"""The report of a training from preferences."""

from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from infra.contract import Artifact, JobResult
from infra.models.registry import ModelVersion
from infra.models.verdicts import Verdict
from tasks.champions import publish
from tasks.champions.candidate import Deployed, read_lines
from tasks.champions.report import Report
from tasks.dpo import preferences
from tasks.dpo.pair_scores import pair_scores
from tasks.dpo.winrate import win_rate
from tasks.runs.run import Work

MUCH_CUT = 0.05
"""Share of pairs with an answer that is cut beyond which it is warned of."""


@task(name="report", cache_policy=NO_CACHE)
def publish_training(
    work: Work[Any],
    champion: ModelVersion,
    candidate: ModelVersion,
    dataset: Artifact,
    evaluation: JobResult,
    verdict: Verdict,
    deployed: Deployed | None,
) -> Report:
    """The report of a training: verdict, win rate, pairs, data card, cost."""
    rows, pairs = (
        read_lines(evaluation.artifacts["evaluation"]),
        read_lines(evaluation.artifacts["pairs"]),
    )
    card, card_text = preferences.read_card(dataset)
    metrics, trained = evaluation.metrics, candidate.metrics
    collected = {
        **trained_on(card, trained),
        "simulated pairs among them, at most": card["simulated"],
        "held-out pairs": len(pairs),
        "held-out pairs with an answer that is cut": int(metrics.get("held_out_cut", 0)),
        "prompts or groups that they are of": len({pair["group"] for pair in pairs}),
        "held-out prompts judged": len(rows),
    }
    report = publish.draft(work, champion, candidate, rows, verdict, deployed, collected)
    if pairs:
        report.scores += pair_scores(pairs, work.parameters.dpo.beta)
    if "candidate_rouge_l" in metrics:
        with_reference = [row for row in rows if "rouge_l" in row["candidate"]]
        report.scores.append(publish.score(with_reference, "rouge_l"))
    wins = win_rate(rows)
    told = [
        f"Against the champion the candidate's answers win {wins.rate:.1%} of the held-out prompts "
        f"(95 % interval {wins.low:.1%} to {wins.high:.1%}), {wins.length_controlled:.1%} at equal "
        f"length. KL to the base {metrics['kl']:.3f} nats a completion."
    ]
    if pairs:
        told.append(
            f"Held-out pairs: the implicit reward ranks {metrics['candidate_reward_accuracy']:.1%} "
            f"right, by a margin of {metrics['candidate_reward_margin']:.3f}; always taking the "
            f"longer answer would {metrics['longer_accuracy']:.1%}, chance 50 %."
        )
    if "candidate_bleu" in metrics:
        told.append(
            f"BLEU against the references: champion {metrics['champion_bleu']:.1f}, candidate "
            f"{metrics['candidate_bleu']:.1f}."
        )
    report.sections = {
        "Against the champion": "\n\n".join(told),
        "How it was trained": _how(trained),
        "The data": card_text.replace("# Data card\n", "").replace("\n## ", "\n### ").strip(),
    }
    return publish.publish(
        work,
        report,
        ("accuracy", "share of a batch's pairs ranked right"),
        ("margin", "margin of the implicit reward"),
    )


def trained_on(card: dict[str, Any], trained: dict[str, float]) -> dict[str, int]:
    """What became of the pairs to train on: the last four counts are the first one."""
    seen = int(trained.get("trained", trained["pairs"]))
    return {
        "pairs to train on": card["splits"]["train"]["pairs"],
        "pairs trained on": seen,
        "pairs that training ended before": int(trained["pairs"]) - seen,
        "pairs set aside to choose the checkpoint": int(trained.get("validation", 0)),
        "pairs whose prompt leaves no room for an answer": int(trained["too_long"]),
    }


def cut_warning(share: float) -> str:
    """What is said where more than 5 % of the pairs have an answer that --max-tokens cuts."""
    if share <= MUCH_CUT:
        return ""
    return (
        f"Warning: {share:.0%} of the pairs had an answer that was cut; what stands behind the cut "
        "is not learned. Raise --max-tokens."
    )


def _how(trained: dict[str, float]) -> str:
    cut = int(trained.get("cut", 0))
    told = f"{cut:,} pairs had an answer that was cut at --max-tokens. "
    told += cut_warning(cut / max(1.0, trained["pairs"]))
    where = "in 4 bits, " if trained["quantised"] else ""
    checkpointed = "with" if trained["gradient_checkpointing"] else "without"
    return (
        f"{trained['steps']:.0f} steps of {trained['micro_batch']:.0f} × "
        f"{trained['accumulation']:.0f} × {trained['processes']:.0f} pairs (at a time, "
        f"accumulated, processes), base {where}{'bfloat16' if trained['bfloat16'] else 'float32'}, "
        f"{checkpointed} gradient checkpointing, final loss {trained['loss']:.4f}. The log of the "
        "training says why." + _chosen(trained) + "\n\n" + told.strip()
    )


def _chosen(trained: dict[str, float]) -> str:
    if "best_step" not in trained:
        return " What it ended with is the candidate."
    return (
        f" The policy after step {trained['best_step']:.0f} is the candidate: its loss on "
        f"{trained['validation']:.0f} pairs that were set aside, {trained['validation_loss']:.4f}, "
        "is the lowest."
    )
