"""The best checkpoint of a training on preferences, by the loss on pairs that are set aside."""

import json
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from safetensors.torch import load_file, save_file
from torch.nn.functional import logsigmoid
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from typing_extensions import override

from jobs.dpo.config import DPOConfig
from jobs.dpo.pairs import log_probabilities
from jobs.policy.best import Best, by_hash
from jobs.policy.model import Policy
from jobs.runtime import Job

LARGEST_SHARE = 10
"""At most every tenth prompt or group is set aside."""
FEWEST = 8
"""Prompts or groups; the loss of fewer says nothing."""
LEAST_LOOKS = 8
STATE, WEIGHTS = "validation.json", "best.safetensors"


def split(pairs: Dataset, count: int) -> tuple[Dataset, list[dict[str, Any]]]:
    """(pairs to train on, up to `count` pairs to validate with): no prompt or group is in both.

    By the hash of their text, so that no training learns what another one validated with. None is
    set aside where FEWEST prompts or groups would be more than a tenth of them.
    """
    texts = [row["group"] or row["prompt"] for row in pairs.select_columns(["group", "prompt"])]
    order = by_hash(texts)
    chosen = set(order[: min(count, len(order) // LARGEST_SHARE)])
    if len(chosen) < FEWEST:
        return pairs, []
    rows = [number for number, text in enumerate(texts) if text in chosen][:count]
    kept = [number for number, text in enumerate(texts) if text not in chosen]
    return pairs.select(kept), pairs.select(rows).to_list()


class Validation(TrainerCallback):
    """Looks at each checkpoint, and LEAST_LOOKS times in a short training. The loss is that of DPO
    (Rafailov et al. 2023, eq. 7), against the policy before the first step, and the likelihood's
    with its weight."""

    def __init__(
        self, job: Job[DPOConfig], policy: Policy, pairs: list[dict[str, Any]], weight: float
    ) -> None:
        self.job, self.policy, self.pairs, self.weight = job, policy, pairs, weight
        self.best = Best(job.config.patience)
        self.every = job.config.checkpoint_interval
        self.reference: list[list[float]] = []
        found = job.latest_checkpoint()
        if found and (found[1] / STATE).is_file():
            known = json.loads((found[1] / STATE).read_text())
            self.reference = known.pop("reference")
            weights = found[1] / WEIGHTS
            self.best = Best(**known, weights=load_file(weights) if weights.is_file() else {})

    @property
    def metrics(self) -> dict[str, float]:
        """What the result tells; nothing before the first look."""
        if not self.best.weights:
            return {}
        return {"validation_loss": -self.best.reward, "best_step": float(self.best.iteration)}

    @override
    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self.every = min(self.every, max(1, state.max_steps // LEAST_LOOKS))
        self.best.patience = self.job.config.patience * self.every
        if not self.reference:
            self.reference = self._score()

    @override
    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        is_last = state.global_step >= state.max_steps
        if state.global_step % self.every and not is_last:
            return
        loss = self._loss()
        self.best.see(state.global_step, -loss, self.policy)
        if state.is_world_process_zero:
            self.job.progress(state.global_step, state.max_steps, "steps", validation_loss=loss)
        if self.best.exhausted:
            control.should_training_stop = True

    @override
    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        if not state.is_world_process_zero:
            return
        folder = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
        known = {**self.best.state(), "reference": self.reference}
        weights = known.pop("weights")
        (folder / STATE).write_text(json.dumps(known))
        if weights:
            save_file(weights, folder / WEIGHTS)

    def _loss(self) -> float:
        beta, only_likelihood = self.job.config.beta, self.job.config.loss == "sft"
        found = []
        for now, before in zip(self._score(), self.reference, strict=True):
            margin = (now[0] - before[0]) - (now[1] - before[1])
            ranked = -float(logsigmoid(torch.tensor(beta * margin)))
            unlikely = -now[0] / now[2]
            found.append(unlikely if only_likelihood else ranked + self.weight * unlikely)
        return sum(found) / len(found)

    def _score(self) -> list[list[float]]:
        """As log_probabilities has them."""
        self.policy.model.eval()
        try:
            return log_probabilities(self.job, self.policy, self.pairs)
        finally:
            self.policy.model.train()
