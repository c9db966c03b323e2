"""LoRA adapters of a language model: only they travel; whoever trains has the base.

Supervised: the loss is that of the answer's tokens. The optimiser begins anew in each round, and
both matrices of the adapters are averaged (FedIT, Zhang et al. 2023, arXiv:2305.05644). A held-out
text is right where the greedy answer is its completion, letter by letter: by teacher forcing that
is where every token of it is the likeliest.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # its threads would not outlive a fork

import numpy as np
import torch
from peft import get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.numpy import load_file
from torch import Tensor
from torch.nn import functional

from infra.errors import InputError
from jobs.federated import local, texts
from jobs.federated.config import TEXTS, FederatedConfig
from jobs.federated.model import Weights
from jobs.federated.texts import REMEDY, Text, Texts
from jobs.policy.config import LoraHyperparameters, ModelConfig
from jobs.policy.inputs import base_identity
from jobs.policy.model import (
    LEARNING_RATE_TIMES_WIDTH,
    Policy,
    add_adapter,
    check_base,
    load_base,
    new_adapter,
    save_candidate,
)
from jobs.policy.scoring import chunks, head_features
from jobs.runtime import Job, optional_input

ADAPTER, SHAPE = Path("adapter", "adapter_model.safetensors"), Path("adapter/adapter_config.json")
LORA = LoraHyperparameters()
"""Alpha and layers of every adapter; a run chooses the rank."""
LARGEST_GRADIENT_NORM = 1.0


@dataclass(frozen=True)
class Row:
    """A text in tokens."""

    prompt: list[int]
    answer: list[int]

    @property
    def length(self) -> int:
        return len(self.prompt) + len(self.answer)


class AdapterLearner:
    """One tenant with its texts, and the base with a new adapter on it. Raises InputError."""

    def __init__(self, config: FederatedConfig, base: str, data: Texts) -> None:
        self.config, self.policy = config, _policy(config, base)
        self.initial = _weights_of(self.policy)
        self.train = [_encoded(self.policy, text) for text in data.train]
        self.held_out = [_encoded(self.policy, text) for text in data.held_out]

    @property
    def rows(self) -> int:
        return len(self.train)

    @property
    def groups(self) -> None:
        """Each text stands by itself."""
        return None

    def improve(self, weights: Weights, number: int) -> Weights:
        """Texts are drawn by the seed and the round."""
        config, rounds = self.config, self.config.rounds
        _put(self.policy, weights)
        trained = [p for p in self.policy.model.parameters() if p.requires_grad]
        begun = [parameter.detach().clone() for parameter in trained]
        rate = rounds.learning_rate or LEARNING_RATE_TIMES_WIDTH / self.policy.width
        optimiser = torch.optim.AdamW(trained, rate, weight_decay=rounds.decay)
        random = Random(f"{config.seed} {number}")
        for _ in range(rounds.local_steps):
            rows = random.sample(self.train, min(config.adapters.batch, len(self.train)))
            optimiser.zero_grad()
            tokens = sum(len(row.answer) for row in rows)
            for part in self._parts(rows):
                logits, targets = self._answers([rows[place] for place in part])
                (functional.cross_entropy(logits, targets, reduction="sum") / tokens).backward()
            torch.nn.utils.clip_grad_norm_(trained, LARGEST_GRADIENT_NORM)
            local.add_proximal(trained, begun, rounds)
            optimiser.step()
        return _weights_of(self.policy)

    @torch.no_grad()
    def judge(self, weights: Weights) -> tuple[np.ndarray, dict[str, float]]:
        """Right where the greedy answer is the completion; `loss` in nats a token."""
        _put(self.policy, weights)
        right = np.zeros(len(self.held_out), bool)
        total = 0.0
        for part in self._parts(self.held_out):
            rows = [self.held_out[place] for place in part]
            logits, targets = self._answers(rows)
            total += float(functional.cross_entropy(logits, targets, reduction="sum"))
            hits = (logits.argmax(-1) == targets).split([len(row.answer) for row in rows])
            right[part] = [bool(each.all()) for each in hits]
        return right, {"loss": total / sum(len(row.answer) for row in self.held_out)}

    def alone(self) -> Weights:
        return local.improve_alone(self.improve, self.initial, self.config.rounds.rounds)

    def _parts(self, rows: list[Row]) -> list[list[int]]:
        """Indices of rows that are computed at once."""
        return chunks([row.length for row in rows], self.policy.tokens_at_once)

    def _answers(self, rows: list[Row]) -> tuple[Tensor, Tensor]:
        """Logits [N, vocabulary] and tokens [N] of all answers, one row after another."""
        device, width = self.policy.device, max(row.length for row in rows)
        ids = torch.full((len(rows), width), self.policy.pad_id, device=device)
        real, before = torch.zeros_like(ids), torch.zeros_like(ids, dtype=torch.bool)
        for place, row in enumerate(rows):
            ids[place, : row.length] = torch.tensor(row.prompt + row.answer, device=device)
            real[place, : row.length] = 1
            before[place, len(row.prompt) - 1 : row.length - 1] = True
        with head_features(self.policy.model, before):
            logits = self.policy.model(input_ids=ids, attention_mask=real, use_cache=False).logits
        targets = torch.tensor([t for row in rows for t in row.answer], device=device)
        return logits.float(), targets


def begin(job: Job[FederatedConfig]) -> Weights:
    """The champion's adapter, or a new one, which changes nothing yet. Raises InputError."""
    new = _weights_of(_policy(job.config, base_of(job)))
    given = optional_input(job, "champion")
    if given is None:
        return new
    check_base(given, base_identity(job))
    found: Weights = load_file(given / ADAPTER)
    same = {name: v.shape for name, v in found.items()} == {n: v.shape for n, v in new.items()}
    if not same or json.loads((given / SHAPE).read_text())["lora_alpha"] != LORA.lora_alpha:
        raise InputError(
            "--lora-rank: the champion's adapter has another rank or alpha, or is of other layers",
            "Give the rank that it has, or take another --name for a new line of versions.",
        )
    return {name: found[name] for name in new}


champion = begin
"""Without one a new adapter stands for the base."""


def load(_config: FederatedConfig, folder: Path) -> Texts:
    """A tenant's texts. Raises InputError."""
    return texts.read(folder / TEXTS)


def together(data: list[Texts]) -> Texts:
    """The texts of all."""
    return Texts([t for each in data for t in each.train], [t for e in data for t in e.held_out])


def learner(config: FederatedConfig, base: str, data: Texts) -> AdapterLearner:
    """Who learns from it. Raises InputError."""
    return AdapterLearner(config, base, data)


def write(job: Job[FederatedConfig], weights: Weights, folder: Path) -> Path:
    """The folder, as every training of a language model writes its candidate."""
    policy = _policy(job.config, base_of(job))
    _put(policy, weights)
    folder.mkdir(parents=True, exist_ok=True)
    save_candidate(policy, folder, base_identity(job))
    return folder


def base_of(job: Job[FederatedConfig]) -> str:
    """Where the language model is: the folder of the job's input, else its name on a hub."""
    return str(optional_input(job, "base") or job.config.model)


def _policy(config: FederatedConfig, base: str) -> Policy:
    """The base with a new adapter, by the seed."""
    policy = load_base(ModelConfig(model=base))
    torch.manual_seed(config.seed)
    rank = {"lora_rank": config.adapters.lora_rank}
    add_adapter(policy, new_adapter(LORA.model_copy(update=rank), policy))
    return policy


def _weights_of(policy: Policy) -> Weights:
    state: dict[str, Any] = get_peft_model_state_dict(policy.model)
    return {name: value.float().cpu().numpy().copy() for name, value in state.items()}


def _put(policy: Policy, weights: Weights) -> None:
    state = {name: torch.from_numpy(value.astype(np.float32)) for name, value in weights.items()}
    set_peft_model_state_dict(policy.model, state)


def _encoded(policy: Policy, text: Text) -> Row:
    """Raises InputError where it does not fit the model; it names the line."""
    line = text.prompt.line
    prompt = policy.encode(text.prompt)
    answer = list(policy.tokenizer(text.completion, add_special_tokens=False)["input_ids"])
    end = policy.tokenizer.eos_token_id
    row = Row(prompt, [*answer, policy.stop_ids[0] if end is None else end])
    policy.require_known(row.answer)
    if policy.context and row.length > policy.context:
        raise InputError(
            f"line {line} has {row.length} tokens, the model reads {policy.context}", REMEDY
        )
    return row
