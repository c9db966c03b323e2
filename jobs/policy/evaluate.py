"""Candidate against champion on the same held-out prompts with the same decoding.

    python -m jobs.policy.evaluate JOB_FOLDER

Inputs: `prompts` (held out), and optionally `candidate`, `champion` (without one: the base),
`base`, `reward`, `success` (the user's file or folder), `reference` (JSON lines with `text`, on
which the perplexity is measured; else on the base's own answers). Artefact: `evaluation`, JSON
lines, one a prompt:

    {"prompt", "columns", "kl", "candidate": {...}, "champion": {...}, "base": {...}}

where each policy has {"completion", "reward", "success", "length", "unfinished", "invalid"}: length
in tokens, unfinished where it was cut, invalid where it is empty or unfinished; `kl` is the
candidate's to the base in nats a completion, exact at each state of the candidate's own answer.
Metrics: the means of all these, each policy's perplexity, and what jobs.policy.diversity measures.
"""

import gc
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from infra.errors import InputError
from jobs.policy.config import EvaluateConfig
from jobs.policy.data import Prompt, Trajectory, read_prompts, read_texts
from jobs.policy.diversity import diversity
from jobs.policy.inputs import base_identity, job_reward, job_success
from jobs.policy.model import NoValues, Policy, check_base, load_base, load_candidate
from jobs.policy.reward import Reward
from jobs.policy.rollout import roll_out
from jobs.policy.scoring import chunks, score
from jobs.runtime import Job, Outcome, main, optional_input, stop_when_told

POLICIES = ("base", "champion", "candidate")
MEASURES = ("reward", "length", "unfinished", "invalid")

Also = Callable[[str, Policy], None]


def program(job: Job[EvaluateConfig]) -> Outcome:
    prompts = read_prompts(job.input("prompts"), "--held-out")
    metrics, rows = evaluate(job, prompts[: job.config.limit])
    return Outcome(metrics, {"evaluation": write_rows(job, rows)})


def evaluate(
    job: Job[Any],
    prompts: list[Prompt],
    also: Also = lambda _name, _policy: None,
    *,
    quantised: bool = False,
) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """(metrics, rows) of all policies, with the base in 4 bits where it is `quantised`; `also` is
    called with the name of each and the policy, and must not keep it."""
    reward, success = job_reward(job), job_success(job)
    folders = {name: optional_input(job, name) for name in POLICIES[1:]}
    for folder in filter(None, folders.values()):
        check_base(folder, base_identity(job))
    rows: dict[str, list[dict[str, Any]]] = {}
    metrics: dict[str, float] = {}
    reference: list[Trajectory] = []
    kls, alone = [0.0] * len(prompts), dict[str, float]()
    for step, name in enumerate(POLICIES):
        folder = folders.get(name)
        if folder or name == "base":
            policy = _load(job, folder, quantised)
            answers, rows[name] = _answer(job, policy, prompts, reward, success)
            reference = reference or _reference(job, policy, answers)
            alone = _alone(answers) | {"perplexity": _perplexity(policy, reference)}
            if folder and name == "candidate":
                kls = _kl_to_base(policy, answers)
            also(name, policy)
            policy = None  # before the next one is loaded beside it
            _release()
        else:
            rows[name] = rows["base"]
            alone = {measure: metrics[f"base_{measure}"] for measure in alone}
        metrics |= {f"{name}_{measure}": value for measure, value in alone.items()}
        for measure in (*MEASURES, *(["success"] if success else [])):
            metrics[f"{name}_{measure}"] = sum(row[measure] for row in rows[name]) / len(prompts)
        job.progress(step + 1, len(POLICIES), name, reward=metrics[f"{name}_reward"])
    found = [
        {"prompt": prompt.text, "columns": prompt.columns, "kl": kls[n]}
        | {name: rows[name][n] for name in rows}
        for n, prompt in enumerate(prompts)
    ]
    return {"kl": sum(kls) / len(kls), **metrics}, found


def write_rows(job: Job[Any], rows: list[dict[str, Any]]) -> Path:
    """The rows as JSON lines."""
    path = job.scratch / "evaluation.jsonl"
    with path.open("w") as stream:
        for row in rows:
            stream.write(json.dumps(row) + "\n")
    return path


def _release() -> None:
    """Give back the memory of models that nothing names any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _load(job: Job[Any], folder: Path | None, quantised: bool) -> Policy:
    policy = load_base(job.config, optional_input(job, "base"), quantised=quantised)
    if folder:
        load_candidate(policy, folder)
    policy.value_head = NoValues()
    return policy


def _answer(
    job: Job[Any],
    policy: Policy,
    prompts: list[Prompt],
    reward: Reward,
    success: Reward | None,
) -> tuple[list[Trajectory], list[dict[str, Any]]]:
    """The policy's answers, as trajectories and as rows of the artefact."""
    config = job.config
    answers, completions = roll_out(
        policy,
        prompts,
        reward,
        model_version="",
        max_new_tokens=config.max_new_tokens,
        temperature=config.temperature,
        seed=config.seed,
        batch=config.rollout_batch,
        check=lambda: stop_when_told(job),
    )
    texts = [answer.completion for answer in answers]
    ids = [answer.completion_token_ids for answer in answers]
    solved = success(prompts, texts, ids) if success else [None] * len(texts)
    return answers, [
        {
            "completion": answer.completion,
            "reward": answer.reward,
            "success": solved[n],
            "length": len(answer.completion_token_ids),
            "unfinished": not completions[n].ended,
            "invalid": not completions[n].ended or not answer.completion.strip(),
        }
        for n, answer in enumerate(answers)
    ]


def _alone(answers: list[Trajectory]) -> dict[str, float]:
    """What is measured of all answers of a policy together."""
    return diversity([t.completion for t in answers], [t.completion_token_ids for t in answers])


@torch.no_grad()
def _kl_to_base(policy: Policy, answers: list[Trajectory]) -> list[float]:
    """Σ over the states of each completion of KL(policy ‖ base), in nats."""
    found = [0.0] * len(answers)
    for part in chunks([t.length for t in answers], policy.tokens_at_once):
        batch = [answers[i] for i in part]
        ours = score(policy, batch, 1.0).log_all
        with policy.model.disable_adapter():
            base = score(policy, batch, 1.0).log_all
        kl = (ours.exp() * (ours - base)).sum(-1)
        lengths = [len(t.completion_token_ids) for t in batch]
        for index, each in zip(part, kl.split(lengths), strict=True):
            found[index] = max(0.0, float(each.sum()))
    return found


def _reference(job: Job[Any], policy: Policy, answers: list[Trajectory]) -> list[Trajectory]:
    path = optional_input(job, "reference")
    if path is None:
        return answers
    texts = [list(policy.tokenizer(text)["input_ids"]) for text in read_texts(path)]
    texts = [ids[: policy.context] for ids in texts if len(ids) > 1]
    if not texts:
        raise InputError(f"{path} has no text of two tokens", "Correct the reference texts.")
    return [
        Trajectory.model_construct(prompt_token_ids=ids[:1], completion_token_ids=ids[1:])
        for ids in texts
    ]


@torch.no_grad()
def _perplexity(policy: Policy, texts: list[Trajectory]) -> float:
    """exp of the mean negative log-probability a token."""
    total, tokens = 0.0, 0
    for part in chunks([t.length for t in texts], policy.tokens_at_once):
        logprobs = score(policy, [texts[i] for i in part], 1.0).logprobs
        total, tokens = total - float(logprobs.double().sum()), tokens + len(logprobs)
    return math.exp(min(total / tokens, 700.0))


if __name__ == "__main__":
    main(EvaluateConfig, program)
