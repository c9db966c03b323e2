"""A dataset of preferences as the trainer and the judges read it."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, disable_progress_bars
from pyarrow import ArrowInvalid
from pyarrow.parquet import ParquetFile
from trl.chat_template_utils import supports_tool_calling
from trl.data_utils import common_prefix_length

from infra.errors import InputError
from jobs.policy.data import Message, Prompt, Trajectory
from jobs.policy.model import Policy
from jobs.policy.scoring import chunks, score
from jobs.runtime import Job, stop_when_told

ROOM = 4
"""Tokens that a prompt must leave for an answer."""
MOST_CUT = 0.5
"""Share of pairs with an answer that is cut beyond which no policy is trained."""

COLUMNS = {"prompt", "chosen", "rejected", "source", "is_chat", "group", "confidence"}
MAKE_ANEW = "Make the dataset anew with build-preferences."

disable_progress_bars()


def load(path: Path, cache: Path) -> Dataset:
    """A split, memory-mapped: rows with prompt, chosen, rejected, is_chat, confidence ...

    Raises InputError naming --dataset for a file that build-preferences did not write.
    """
    try:
        file = ParquetFile(path)
        missing = sorted(COLUMNS - set(file.schema_arrow.names))
    except ArrowInvalid as error:
        raise InputError(f"--dataset: {path.name} cannot be read: {error}", MAKE_ANEW) from error
    if missing:
        raise InputError(f"--dataset: {path.name} lacks {', '.join(missing)}", MAKE_ANEW)
    if file.metadata.num_rows == 0:
        return Dataset(file.read())
    found: Any = Dataset.from_parquet(str(path), cache_dir=str(cache))
    return found


def limit_of(policy: Policy, max_tokens: int) -> int:
    """Tokens of prompt and answer at most."""
    return min(max_tokens, policy.context or max_tokens)


def fitting(pairs: Dataset, policy: Policy, max_tokens: int) -> Dataset:
    """The pairs that have room. Raises InputError naming --max-tokens where none has."""
    kept = with_room(pairs, policy, max_tokens)
    if not len(kept):
        raise InputError(
            f"none of {len(pairs):,} prompts leaves room for an answer in "
            f"{limit_of(policy, max_tokens)} tokens",
            "Raise --max-tokens, shorten the prompts, or take a model with a longer context.",
        )
    return kept


def with_room(pairs: Dataset, policy: Policy, max_tokens: int) -> Dataset:
    """The pairs whose prompt leaves room for an answer.

    Raises InputError naming --model for chats without a template.
    """
    if len(pairs) and pairs[0]["is_chat"] and not policy.has_chat_template:
        raise InputError(
            "the pairs hold chat messages, but the model has no chat template",
            "Write the prompts of --dataset as texts, or name a chat model in --model.",
        )
    if len(pairs) and pairs[0]["is_chat"]:
        _require_end(policy, pairs[0])
        _require_calls_shown(policy, pairs["prompt"])
    limit = limit_of(policy, max_tokens)

    def fits(batch: dict[str, list[Any]]) -> list[bool]:
        asked = map(content, batch["prompt"], batch["is_chat"])
        return [len(policy.encode(Prompt(one))) + ROOM <= limit for one in asked]

    return pairs.filter(fits, batched=True)


def _require_end(policy: Policy, pair: dict[str, Any]) -> None:
    """Raises InputError for a template under which answers have no end: TRL adds one to texts."""
    messages = content(pair["prompt"], True)
    asked, answered = policy.encode(Prompt(messages)), _answered(policy, messages, pair["chosen"])
    answer = answered[common_prefix_length(asked, answered) :]
    if not set(answer) & set(policy.stop_ids):
        raise InputError(
            "the chat template of --model does not end an answer with "
            f"{policy.tokenizer.eos_token}: the policy would never learn to stop",
            "Let its template write the end-of-sequence token after each message of the assistant, "
            "or name the token that it does write in eos_token or in generation_config.json.",
        )


def _require_calls_shown(policy: Policy, prompts: Sequence[str]) -> None:
    """Raises InputError where prompts hold calls of tools that the template would drop."""
    called = any('"tool_calls"' in prompt for prompt in prompts)
    if called and not supports_tool_calling(policy.tokenizer):
        raise InputError(
            "prompts of --dataset hold calls of tools, which the chat template of --model drops",
            "Name a model whose template writes them, or leave these prompts out.",
        )


def _answered(policy: Policy, messages: list[Message], answer: str) -> list[int]:
    """Token ids of prompt and answer, as TRL renders chats."""
    whole = [*messages, {"role": "assistant", "content": answer}]
    return list(policy.tokenizer.apply_chat_template(whole, tokenize=True, return_dict=False))


def lengths(pairs: Iterable[Any], policy: Policy) -> list[int]:
    """Tokens of each pair's prompt with the longer of its answers, the end token included."""
    found = []
    for row in pairs:
        asked = content(row["prompt"], row["is_chat"])
        if row["is_chat"]:
            both = [_answered(policy, asked, row[side]) for side in ("chosen", "rejected")]
            found.append(max(map(len, both)))
            continue
        answers = policy.tokenizer([row["chosen"], row["rejected"]], add_special_tokens=False)
        longer = max(map(len, answers["input_ids"]))
        found.append(len(policy.encode(Prompt(asked))) + longer + 1)
    return found


def cut_answers(tokens: Sequence[int], limit: int) -> int:
    """How many pairs of these lengths have an answer that is cut.

    Raises InputError naming --max-tokens where more than half have.
    """
    cut = sum(length > limit for length in tokens)
    if cut > MOST_CUT * len(tokens):
        raise InputError(
            f"--max-tokens {limit} cuts an answer of {cut:,} of {len(tokens):,} pairs",
            f"Raise --max-tokens to {int(np.quantile(tokens, 0.95))}, which cuts one pair of 20, "
            "with a model of that context, or leave long answers out.",
        )
    return cut


def fitting_prompts(prompts: list[Prompt], policy: Policy, max_new_tokens: int) -> list[Prompt]:
    """The prompts that leave room for an answer of `max_new_tokens`.

    Raises InputError naming --max-new-tokens where none does.
    """
    context = policy.context or float("inf")
    kept = [one for one in prompts if len(policy.encode(one)) + max_new_tokens <= context]
    if not kept:
        raise InputError(
            f"none of {len(prompts):,} held-out prompts leaves room for {max_new_tokens} tokens "
            f"in the model's context of {context}",
            "Lower --max-new-tokens, or give shorter ones with --held-out.",
        )
    return kept


def for_trainer(pairs: Dataset) -> Dataset:
    """The columns that TRL reads: texts, or lists of messages."""
    kept = pairs.select_columns(["prompt", "chosen", "rejected", "is_chat"])

    def messages(row: dict[str, Any]) -> dict[str, Any]:
        return {
            "prompt": json.loads(row["prompt"]),
            "chosen": [{"role": "assistant", "content": row["chosen"]}],
            "rejected": [{"role": "assistant", "content": row["rejected"]}],
        }

    if len(kept) and kept[0]["is_chat"]:
        return kept.map(messages, remove_columns=kept.column_names)
    return kept.remove_columns("is_chat")


def content(prompt: str, is_chat: bool) -> Any:
    """The prompt as a text or as messages."""
    return json.loads(prompt) if is_chat else prompt


@torch.no_grad()
def log_probabilities(
    job: Job[Any], policy: Policy, pairs: Sequence[dict[str, Any]]
) -> list[list[float]]:
    """[chosen, rejected, tokens of chosen, tokens of rejected] of each pair, nats."""
    limit = limit_of(policy, job.config.max_tokens)
    texts: list[Trajectory] = []
    for pair in pairs:
        asked = policy.encode(Prompt(content(pair["prompt"], pair["is_chat"])))
        for side in ("chosen", "rejected"):
            ids = policy.tokenizer(pair[side], add_special_tokens=False)["input_ids"]
            answer = [*ids, policy.tokenizer.eos_token_id][: limit - len(asked)]
            texts.append(
                Trajectory.model_construct(prompt_token_ids=asked, completion_token_ids=answer)
            )
    found = [0.0] * len(texts)
    for part in chunks([t.length for t in texts], policy.tokens_at_once):
        stop_when_told(job)
        batch = [texts[i] for i in part]
        logprobs = score(policy, batch, 1.0).logprobs
        lengths = [len(t.completion_token_ids) for t in batch]
        for index, each in zip(part, logprobs.split(lengths), strict=True):
            found[index] = float(each.double().sum())
    counts = [float(len(t.completion_token_ids)) for t in texts]
    return [[found[n], found[n + 1], counts[n], counts[n + 1]] for n in range(0, len(texts), 2)]
