"""Candidate against champion on held-out prompts and held-out pairs.

    python -m jobs.dpo.evaluate JOB_FOLDER

Inputs: `dataset`, and as jobs.policy.evaluate; without `prompts` those of the dataset; `judge` is
the user's file. Artefacts: `evaluation` as there, with `win` in each row, the probability that the
candidate's answer beats the champion's, and, where prompts have a `reference`, ROUGE-L of each
policy's answer; `pairs`, JSON lines with the log-probabilities of the held-out pairs under each
policy, nats, answers cut at the training's length:

    {"group", "chosen_length", "rejected_length", "base": [chosen, rejected], "tokens": [n, n], ...}

Metrics beside those of jobs.policy.evaluate: how often each policy finds the chosen answer
likelier, in all and a token; the accuracy and margin of its implicit reward; corpus BLEU.
"""

import json
from collections.abc import Iterable
from typing import Any

from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics.bleu import BLEU

from jobs.dpo.config import PairEvaluateConfig
from jobs.dpo.data import normalised
from jobs.dpo.judge import Judge
from jobs.dpo.pairs import (
    fitting_prompts,
    lengths,
    limit_of,
    load,
    log_probabilities,
    with_room,
)
from jobs.policy.data import Prompt, read_prompts, stored_content
from jobs.policy.evaluate import POLICIES, evaluate, write_rows
from jobs.policy.model import Policy, load_base
from jobs.runtime import Job, Outcome, main, optional_input


def program(job: Job[PairEvaluateConfig]) -> Outcome:
    config, dataset = job.config, job.input("dataset")
    shapes = load_base(config, optional_input(job, "base"), weights=False)
    path = optional_input(job, "prompts") or dataset / "prompts.jsonl"
    prompts = fitting_prompts(read_prompts(path, "--held-out"), shapes, config.max_new_tokens)
    stored = load(dataset / "held_out.parquet", job.scratch / "cache")
    pairs: list[Any] = []
    if len(stored):  # simulated pairs are never held out
        kept = with_room(stored, shapes, config.max_tokens)
        drawn = kept.shuffle(seed=config.seed)  # a file may begin with many pairs of one group
        pairs = drawn.select(range(min(config.pair_limit, len(drawn)))).to_list()
    scored: dict[str, list[list[float]]] = {}

    def score_pairs(name: str, policy: Policy) -> None:
        scored[name] = log_probabilities(job, policy, pairs)

    metrics, rows = evaluate(job, prompts[: config.limit], score_pairs, quantised=config.quantised)
    for name in POLICIES:
        scored.setdefault(name, scored["base"])
        if pairs:
            metrics |= _pair_metrics(name, scored, config.beta)
    _add_wins(job, rows, metrics)
    _add_references(rows, metrics)
    if pairs:
        metrics["longer_accuracy"] = _share(len(p["chosen"]) - len(p["rejected"]) for p in pairs)
    metrics["held_out_pairs"] = float(len(pairs))
    limit = limit_of(shapes, config.max_tokens)
    metrics["held_out_cut"] = float(sum(length > limit for length in lengths(pairs, shapes)))
    path = job.scratch / "pairs.jsonl"
    with path.open("w") as stream:
        for n, pair in enumerate(pairs):
            row = {"group": pair["group"] or normalised(pair["prompt"])}
            row |= {"tokens": scored["base"][n][2:]}
            row |= {f"{side}_length": len(pair[side]) for side in ("chosen", "rejected")}
            row |= {name: scored[name][n][:2] for name in POLICIES}
            stream.write(json.dumps(row) + "\n")
    return Outcome(metrics, {"evaluation": write_rows(job, rows), "pairs": path})


def _pair_metrics(name: str, scored: dict[str, list[list[float]]], beta: float) -> dict[str, float]:
    """The implicit reward is β times the log-ratio to the base (Rafailov et al. 2023, eq. 5)."""
    ours, base = scored[name], scored["base"]
    margins = [beta * ((o[0] - b[0]) - (o[1] - b[1])) for o, b in zip(ours, base, strict=True)]
    return {
        f"{name}_likelihood_accuracy": _share(o[0] - o[1] for o in ours),
        f"{name}_token_accuracy": _share(o[0] / o[2] - o[1] / o[3] for o in ours),
        f"{name}_reward_accuracy": _share(margins),
        f"{name}_reward_margin": sum(margins) / len(margins),
    }


def _add_wins(
    job: Job[PairEvaluateConfig], rows: list[dict[str, Any]], metrics: dict[str, float]
) -> None:
    """`win` in each row; with a judge it is the reward too, and its mirror the champion's."""
    if job.config.judge:
        judge = Judge(job.config.judge, optional_input(job, "judge"))
        prompts = [Prompt(stored_content(row["prompt"]), row["columns"]) for row in rows]
        ours = [row["candidate"]["completion"] for row in rows]
        theirs = [row["champion"]["completion"] for row in rows]
        for row, win in zip(rows, judge.wins(prompts, ours, theirs), strict=True):
            row["candidate"] = {**row["candidate"], "reward": win}
            row["champion"] = {**row["champion"], "reward": 1 - win}
            row["base"] = {**row["base"], "reward": 0.5}
        for name in POLICIES:
            metrics[f"{name}_reward"] = sum(row[name]["reward"] for row in rows) / len(rows)
    for row in rows:
        row["win"] = (
            row["candidate"]["reward"]
            if job.config.judge
            else _win(row["candidate"]["reward"] - row["champion"]["reward"])
        )


def _add_references(rows: list[dict[str, Any]], metrics: dict[str, float]) -> None:
    with_reference = [row for row in rows if isinstance(row["columns"].get("reference"), str)]
    if not with_reference:
        return
    scorer, bleu = RougeScorer(["rougeL"]), BLEU(effective_order=True)
    references = [row["columns"]["reference"] for row in with_reference]
    for name in POLICIES:
        answers = [row[name]["completion"] for row in with_reference]
        scores = [
            scorer.score(reference, answer)["rougeL"].fmeasure
            for reference, answer in zip(references, answers, strict=True)
        ]
        for row, value in zip(with_reference, scores, strict=True):
            row[name] = {**row[name], "rouge_l": value}
        metrics[f"{name}_rouge_l"] = sum(scores) / len(scores)
        metrics[f"{name}_bleu"] = float(bleu.corpus_score(answers, [references]).score)


def _share(differences: Iterable[float]) -> float:
    """Share above 0; a tie is half."""
    wins = [_win(difference) for difference in differences]
    return sum(wins) / len(wins)


def _win(difference: float) -> float:
    return 0.5 if difference == 0 else float(difference > 0)


if __name__ == "__main__":
    main(PairEvaluateConfig, program)
