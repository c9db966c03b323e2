"""A cheap check before a machine is rented: tokens, shapes and the judge, without the weights.

    python -m jobs.dpo.preflight JOB_FOLDER

Takes the config and the inputs of `jobs.dpo.train`, and `prompts` (held out), `success`, and
`reward` or `judge` (the user's file or folder). Sees that the base has what training needs (files
of the weights that its configuration describes, embeddings of all its tokenizer's tokens, an
end-of-sequence token, where there are chats a template that ends answers with it), that prompts
leave room and no more than half of the pairs have an answer that is cut, that no prompt is
both trained on and judged on (case and white space aside), that LoRA and the champion's adapter fit
the base, and that the reward or judge, and what tells success, give numbers.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

from datasets import Dataset
from peft import LoraConfig, get_peft_model_state_dict
from safetensors import safe_open

from infra.errors import InputError
from jobs.dpo.config import PreflightConfig
from jobs.dpo.data import normalised
from jobs.dpo.fit import fit, machine, shape_of
from jobs.dpo.judge import Judge
from jobs.dpo.pairs import cut_answers, fitting, fitting_prompts, lengths, limit_of, load
from jobs.dpo.train import require_special_tokens
from jobs.policy.data import Prompt, read_prompts
from jobs.policy.inputs import base_identity, job_success
from jobs.policy.model import Policy, add_adapter, check_base, load_base, new_adapter
from jobs.policy.reward import load_reward
from jobs.runtime import Job, Outcome, main, optional_input

TRIED_PROMPTS = 4
MOST_PAIRS = 20_000
"""Pairs whose prompts are tried: training counts all."""


def program(job: Job[PreflightConfig]) -> Outcome:
    config = job.config
    base, dataset = optional_input(job, "base"), job.input("dataset")
    policy = load_base(config, base, weights=False)
    require_special_tokens(policy)
    stored = load(dataset / "train.parquet", job.scratch / "cache")
    prompts = read_prompts(
        optional_input(job, "prompts") or dataset / "prompts.jsonl", "--held-out"
    )
    _check_apart(stored["prompt"], prompts)
    stored = stored.select(range(min(MOST_PAIRS, len(stored))))
    pairs = fitting(stored, policy, config.max_tokens)
    held_out = load(dataset / "held_out.parquet", job.scratch / "cache")
    for answered in (stored, held_out.select(range(min(MOST_PAIRS, len(held_out))))):
        _check_answers(policy, answered)
    judged = fitting_prompts(prompts, policy, config.max_new_tokens)
    tried, success = judged[:TRIED_PROMPTS], job_success(job)
    for text in ("", "nonsense", '{"a": 1}'):
        texts = [text] * len(tried)
        ids = [policy.tokenizer(text, add_special_tokens=False)["input_ids"]] * len(tried)
        if config.judge:
            Judge(config.judge, optional_input(job, "judge")).wins(tried, texts, texts)
        elif config.reward:
            load_reward(config.reward, optional_input(job, "reward"))(tried, texts, ids)
        if success:
            success(tried, texts, ids)
    champion = optional_input(job, "champion")
    if champion:
        check_base(champion, base_identity(job))
        _check_adapter(policy, champion / "adapter")
    cut = cut_answers(lengths(pairs, policy), limit_of(policy, config.max_tokens))
    plan = fit(machine(), shape_of(policy.model), config, limit_of(policy, config.max_tokens))
    if not champion:
        add_adapter(policy, new_adapter(config, policy))
    return Outcome(
        {
            "parameters": float(sum(p.numel() for p in policy.model.parameters())),
            "pairs": float(len(pairs)),
            "too_long": float(len(stored) - len(pairs)),
            "cut_share": cut / len(pairs),
            "held_out_prompts": float(len(judged)),
            "held_out_too_long": float(len(prompts) - len(judged)),
            "micro_batch_here": float(plan.micro_batch),
        }
    )


def _check_apart(trained: Iterable[str], held_out: list[Prompt]) -> None:
    """Raises InputError where a held-out prompt is also one of the pairs that are trained on."""
    judged = {normalised(prompt.text): prompt.line for prompt in held_out}
    lines = sorted({judged[text] for text in map(normalised, trained) if text in judged})
    if lines:
        raise InputError(
            f"{len(lines)} held-out prompts are trained on, the first is that of line {lines[0]}",
            "Remove them from --held-out or from the pairs, or make a dataset of before anew: a "
            "policy is not judged on what it trained.",
        )


def _check_answers(policy: Policy, pairs: Dataset) -> None:
    """Raises InputError where an answer has a token that the base does not know."""
    for side in ("chosen", "rejected"):
        for batch in cast(Iterable[dict[str, Any]], pairs.select_columns([side]).iter(1000)):
            for ids in policy.tokenizer(batch[side], add_special_tokens=False)["input_ids"]:
                policy.require_known(ids)


def _check_adapter(policy: Policy, folder: Path) -> None:
    """Raises InputError where the names or shapes of an adapter are not those of this base."""
    adapter = LoraConfig.from_pretrained(str(folder))
    adapter.base_model_name_or_path = None
    add_adapter(policy, adapter)
    wanted = {n: list(v.shape) for n, v in get_peft_model_state_dict(policy.model).items()}
    with safe_open(folder / "adapter_model.safetensors", "pt") as tensors:
        found = {name: tensors.get_slice(name).get_shape() for name in tensors.keys()}  # noqa: SIM118
    differing = sorted(n for n in wanted | found if wanted.get(n) != found.get(n))
    if differing:
        raise InputError(
            f"the champion's adapter does not fit the model: {differing[0]} has the shape "
            f"{found.get(differing[0])}, the model wants {wanted.get(differing[0])} "
            f"({len(differing)} differ)",
            "Name in --model the base that the champion was trained on, or take another --name.",
        )


if __name__ == "__main__":
    main(PreflightConfig, program)
