"""Train a reward model on preferences, with TRL's RewardTrainer (Bradley-Terry loss).

    python -m jobs.policy.reward_model JOB_FOLDER

Inputs: `preferences` (JSON lines {"prompt", "chosen", "rejected"}), and optionally `base`.
Artefact: `reward_model`, a sequence classification model of one label with its tokenizer, which
`--reward-model` takes. The adapter that is trained is merged into it. Metric: the share of
held-out pairs that it ranks right.
"""

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from transformers.pytorch_utils import Conv1D
from trl import RewardConfig, RewardTrainer

from infra.errors import InputError
from jobs.policy.config import RewardModelConfig
from jobs.policy.data import Message, Preference, read_preferences
from jobs.policy.trainer import run, trainer_arguments
from jobs.runtime import Job, Outcome, main, optional_input

BATCH = 64


def program(job: Job[RewardModelConfig]) -> Outcome:
    return train(job, read_preferences(job.input("preferences")))


def train(job: Job[RewardModelConfig], pairs: list[Preference]) -> Outcome:
    """Train on these pairs, some of them held out."""
    config = job.config
    random.Random(config.seed).shuffle(pairs)
    tested = max(1, round(config.held_out * len(pairs)))
    torch.manual_seed(config.seed)
    model, tokenizer = load_classifier(optional_input(job, "base") or config.model, "--model")
    lora = LoraConfig(
        r=config.lora_rank,
        lora_alpha=2 * config.lora_rank,
        target_modules="all-linear",
        modules_to_save=["score"],
        fan_in_fan_out=any(isinstance(m, Conv1D) for m in model.modules()),
        task_type="SEQ_CLS",
    )
    trainer = RewardTrainer(
        model=model,
        args=RewardConfig(
            per_device_train_batch_size=config.batch,
            num_train_epochs=config.epochs,
            max_steps=config.max_steps or -1,
            max_length=min(config.max_tokens, _context(model) or config.max_tokens),
            save_steps=config.checkpoint_interval,
            **trainer_arguments(job, config.learning_rate),
        ),
        train_dataset=Dataset.from_list([_texts(tokenizer, pair) for pair in pairs[tested:]]),
        processing_class=tokenizer,
        peft_config=lora,
    )
    kept = len(cast(Dataset, trainer.train_dataset))
    if not kept:
        raise InputError(
            f"none of {len(pairs):,} pairs has {config.max_tokens} tokens or fewer",
            "Raise --max-tokens: the judge's reward model learns from no pair that is cut.",
        )
    run(job, trainer, config.seed)
    trained: Any = trainer.model
    merged = trained.merge_and_unload().eval()
    folder = job.scratch / "reward_model"
    merged.save_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))
    texts = [_texts(tokenizer, pair) for pair in pairs[:tested]]
    chosen, rejected = (
        _scores(merged, tokenizer, [text[name] for text in texts])
        for name in ("chosen", "rejected")
    )
    right = sum(better > worse for better, worse in zip(chosen, rejected, strict=True))
    return Outcome(
        {
            "accuracy": right / tested,
            "pairs": float(kept),
            "too_long": float(len(pairs) - tested - kept),
        },
        {"reward_model": folder},
    )


def load_classifier(where: Path | str, option: str) -> tuple[Any, Any]:
    """(model with one label, tokenizer with a padding token). Raises InputError."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(where)
        model = AutoModelForSequenceClassification.from_pretrained(where, num_labels=1)
    except Exception as error:
        raise InputError(
            f"{option} {where} cannot be loaded as a sequence classification model: {error}",
            "Name a folder or hub id of a reward model, or module:function for a function.",
        ) from error
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    model.config.get_text_config().pad_token_id = tokenizer.pad_token_id
    return model, tokenizer


def load_scorer(where: Path, option: str) -> Callable[..., list[float]]:
    """The reward model as a reward function."""
    model, tokenizer = load_classifier(where, option)
    model.eval().to("cuda" if torch.cuda.is_available() else "cpu")

    def scores(prompts: Sequence[Any], completions: Sequence[Any]) -> list[float]:
        texts = [
            render(tokenizer, prompt, text if isinstance(text, str) else text[0]["content"])
            for prompt, text in zip(prompts, completions, strict=True)
        ]
        return _scores(model, tokenizer, texts)

    return scores


def render(tokenizer: Any, prompt: str | list[Message], completion: str) -> str:
    """Prompt and completion as the one text that the reward model reads."""
    if isinstance(prompt, str):
        return prompt + completion + (tokenizer.eos_token or "")
    messages = [*prompt, {"role": "assistant", "content": completion}]
    return tokenizer.apply_chat_template(messages, tokenize=False)


def _texts(tokenizer: Any, pair: Preference) -> dict[str, str]:
    return {
        "chosen": render(tokenizer, pair.prompt, pair.chosen),
        "rejected": render(tokenizer, pair.prompt, pair.rejected),
    }


def _context(model: Any) -> int | None:
    return getattr(model.config.get_text_config(), "max_position_embeddings", None)


@torch.inference_mode()
def _scores(model: Any, tokenizer: Any, texts: list[str]) -> list[float]:
    found: list[float] = []
    limit = _context(model)
    for first in range(0, len(texts), BATCH):
        inputs = tokenizer(
            texts[first : first + BATCH],
            padding=True,
            padding_side="right",
            truncation=limit is not None,
            max_length=limit,
            return_tensors="pt",
        ).to(model.device)
        inputs.pop("token_type_ids", None)
        found += model(**inputs).logits.squeeze(-1).float().tolist()
    return found


if __name__ == "__main__":
    main(RewardModelConfig, program)
