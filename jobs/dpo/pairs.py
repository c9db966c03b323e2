"""A dataset of preferences as the trainer and the judges read it."""

import json
from pathlib import Path
from typing import Any

from datasets import Dataset, disable_progress_bars
from pyarrow import ArrowInvalid
from pyarrow.parquet import ParquetFile

from infra.errors import InputError
from jobs.ppo.data import Prompt
from jobs.ppo.policy import Policy

ROOM = 4
"""Tokens that a prompt must leave for an answer."""

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
    limit = limit_of(policy, max_tokens)

    def fits(batch: dict[str, list[Any]]) -> list[bool]:
        asked = map(content, batch["prompt"], batch["is_chat"])
        return [len(policy.encode(Prompt(one))) + ROOM <= limit for one in asked]

    return pairs.filter(fits, batched=True)


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
