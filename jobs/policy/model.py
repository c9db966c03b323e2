"""The policy: a causal language model with a LoRA adapter, and a value head that reads the same
features. Works for every Hugging Face causal language model that PEFT can put adapters in.

The reference policy is the base itself, that is, the policy with its adapter disabled.
"""

import contextlib
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jinja2 import TemplateError
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model
from peft.import_utils import is_bnb_4bit_available, is_bnb_available
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    GenerationConfig,
)
from transformers.pytorch_utils import Conv1D
from transformers.utils import is_bitsandbytes_available, logging

from infra.errors import InputError
from jobs.policy.config import LoraHyperparameters, ModelConfig
from jobs.policy.data import Prompt

SMALL_MODEL = 20_000_000
"""Parameters below which a second thread costs more time than it saves."""

LEARNING_RATE_TIMES_WIDTH = 0.128
MAX_TOKENS_AT_ONCE = 8192
MAX_LOGITS = 2**26
"""256 MB as float32; a backward pass needs them about four times."""

WHOLE = "Give a folder that save_pretrained() wrote, with all its files."

logging.disable_progress_bar()


class ValueHead(nn.Module):
    """Expected return of each state, from the features that the output head reads.

    The features are detached: the value loss trains this head only and never moves the policy.
    The last layer begins at zero, so an untrained head says 0 everywhere.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(features)
        self.hidden = nn.Linear(features, features)
        self.out = nn.Linear(features, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, features: Tensor) -> Tensor:
        """[..., features] → [...]"""
        return self.out(torch.tanh(self.hidden(self.norm(features.detach().float())))).squeeze(-1)


class NoValues(nn.Module):
    """Stands where no value head is needed: 0 everywhere."""

    def forward(self, features: Tensor) -> Tensor:
        return features.new_zeros(features.shape[:-1])


@dataclass
class Policy:
    """`model` is a PeftModel, or the plain base where there is no adapter."""

    model: Any
    tokenizer: Any
    stop_ids: list[int]
    pad_id: int
    context: int | None
    value_head: nn.Module = field(default_factory=NoValues)

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def has_chat_template(self) -> bool:
        return bool(getattr(self.tokenizer, "chat_template", None))

    @property
    def width(self) -> int:
        """Features that the output head reads."""
        return output_head(self.model).weight.shape[1]

    @property
    def tokens_at_once(self) -> int:
        """Tokens of one forward pass with gradients: bounds the memory of the logits."""
        vocabulary = output_head(self.model).weight.shape[0]
        return min(MAX_TOKENS_AT_ONCE, max(1, MAX_LOGITS // vocabulary))

    def encode(self, prompt: Prompt) -> list[int]:
        """Token ids of the prompt, ready for the completion to follow. Raises InputError."""
        if isinstance(prompt.content, str):
            ids = list(self.tokenizer(prompt.content)["input_ids"])
            if len(ids) > 1 and ids[-1] in self.stop_ids:
                ids.pop()  # some tokenizers end every text
        elif not self.has_chat_template:
            raise InputError(
                f"{_place(prompt)} holds messages, but the model has no chat template",
                "Give prompts as texts, or a chat model in --model.",
            )
        else:
            try:
                ids = list(
                    self.tokenizer.apply_chat_template(
                        prompt.content, add_generation_prompt=True, tokenize=True, return_dict=False
                    )
                )
            except TemplateError as error:
                raise InputError(
                    f"{_place(prompt)} is refused by the chat template of --model: {error}",
                    "Give the roles and their order that it takes, or correct the template.",
                ) from error
        if not ids:
            raise InputError(
                f"{_place(prompt)} has no tokens for the tokenizer of --model",
                "Correct the prompt, or see that the model's folder holds its tokenizer.",
            )
        self.require_known(ids)
        return ids

    def require_known(self, ids: Sequence[int]) -> None:
        """Raises InputError for a token that the model has no embedding of."""
        known = self.model.get_input_embeddings().weight.shape[0]
        highest = max(ids, default=0)
        if highest >= known:
            token = self.tokenizer.convert_ids_to_tokens(highest)
            raise InputError(
                f"the tokenizer of --model gives {token!r} the number {highest}, but the model has "
                f"embeddings of {known} tokens",
                "Take the tokenizer that the model was trained with, or resize its embeddings.",
            )

    def encode_all(self, prompts: Sequence[Prompt], max_new_tokens: int) -> list[list[int]]:
        """As `encode`. Raises InputError where prompt and completion exceed the context."""
        encoded = [self.encode(prompt) for prompt in prompts]
        for prompt, ids in zip(prompts, encoded, strict=True):
            if self.context and len(ids) + max_new_tokens > self.context:
                raise InputError(
                    f"prompt line {prompt.line} has {len(ids)} tokens; with {max_new_tokens} of "
                    f"the completion that exceeds the model's context of {self.context}",
                    "Shorten that line of --prompts, or lower max_new_tokens.",
                )
        return encoded

    def decode(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=True)


def load_base(
    config: ModelConfig,
    folder: Path | None = None,
    *,
    weights: bool = True,
    quantised: bool = False,
) -> Policy:
    """The model and tokenizer of `folder`, else of `config.model`, without an adapter.

    Without `weights` only their shapes, on the device `meta`: those of `folder` are compared with
    the model's, of a hub id nothing but its configuration is downloaded. `quantised`: in 4 bits
    (NF4, Dettmers et al. 2023). Raises InputError naming --model.
    """
    where = str(folder or config.model)
    if not where:
        raise InputError("no model is named", "Set --model to a folder or a hub id.")
    cuda = torch.cuda.is_available()
    dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}.get(
        config.dtype, torch.bfloat16 if cuda else torch.float32
    )
    device = "cuda" if cuda else "cpu"
    try:
        shape = AutoConfig.from_pretrained(where)
        tokenizer = AutoTokenizer.from_pretrained(where)
        if weights or folder:
            model, told = _weights(where, dtype, device if weights else "meta", quantised)
        else:
            model, told = _shapes(where, shape), {}
    except Exception as error:
        first = next(iter(str(error).strip().splitlines()), "")
        if not first or not isinstance(error, OSError | ValueError):
            first = f"{type(error).__name__}: {first}"
        raise InputError(
            f"--model {config.model or where} cannot be loaded as a causal language model: {first}",
            "Name a folder with config.json, weights and tokenizer, or the hub id of a model "
            "that this machine can download.",
        ) from error
    if missing := sorted(told.get("missing_keys", ())):
        raise InputError(
            f"--model {config.model or where} lacks {len(missing)} tensors of the model that its "
            f"config.json describes, among them {missing[0]}",
            WHOLE,
        )
    if other := sorted(told.get("mismatched_keys", ())):
        name, found, wanted = other[0]
        raise InputError(
            f"--model {config.model or where} has {name} in the shape {list(found)}, its "
            f"config.json wants {list(wanted)} ({len(other)} differ)",
            WHOLE,
        )
    _use_threads(config, sum(parameter.numel() for parameter in model.parameters()))
    model.requires_grad_(False).eval()
    return Policy(model, tokenizer, *_special_ids(where, model, tokenizer), _context(model))


def _weights(where: str, dtype: torch.dtype, device: str, quantised: bool) -> tuple[Any, Any]:
    """The model, and what transformers tells of its tensors: those that the files do not hold, or
    hold in another shape, are random."""
    how: dict[str, Any] = {"dtype": dtype, "ignore_mismatched_sizes": True}
    if quantised:
        _show_bitsandbytes()
        how["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype
        )
    if quantised or device == "meta":
        how["device_map"] = {"": device}
    loaded: Any = AutoModelForCausalLM.from_pretrained(where, **how, output_loading_info=True)
    model, told = loaded
    return model if "device_map" in how else model.to(device), told


def _show_bitsandbytes() -> None:
    """Undo what `jobs` hides."""
    if "bitsandbytes" in sys.modules and not sys.modules["bitsandbytes"]:
        del sys.modules["bitsandbytes"]
        for known in (is_bnb_available, is_bnb_4bit_available, is_bitsandbytes_available):
            known.cache_clear()


def _shapes(where: str, config: Any) -> Any:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    with contextlib.suppress(OSError):
        model.generation_config = GenerationConfig.from_pretrained(where)
    return model


def new_adapter(config: LoraHyperparameters, policy: Policy) -> LoraConfig:
    """The LoRA adapter that the config asks for."""
    targets = config.lora_targets
    names = targets if targets == "all-linear" else [t.strip() for t in targets.split(",")]
    return LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,  # pyright: ignore[reportArgumentType]
        target_modules=names,
        fan_in_fan_out=any(isinstance(m, Conv1D) for m in policy.model.modules()),
        task_type="CAUSAL_LM",
    )


def add_adapter(policy: Policy, adapter: PeftConfig) -> None:
    """Put a new adapter on the base. Raises InputError where it fits none of its layers."""
    try:
        policy.model = get_peft_model(policy.model, adapter).eval()
    except ValueError as error:
        raise InputError(
            f"LoRA does not fit the model: {error}", "Name its linear layers in lora_targets."
        ) from error


def load_candidate(policy: Policy, folder: Path, trainable: bool = False) -> None:
    """Put the adapter and the value head of a candidate folder on the base."""
    try:
        policy.model = PeftModel.from_pretrained(
            policy.model, str(folder / "adapter"), is_trainable=trainable
        ).eval()
    except (ValueError, RuntimeError, OSError, KeyError) as error:
        raise InputError(
            f"the adapter in {folder} does not fit the model: {error}",
            "Name in --model the base that the champion was trained on.",
        ) from error
    # The saved name is the base's URI, where PEFT would look for a configuration.
    base = policy.model.get_base_model().name_or_path
    policy.model.peft_config["default"].base_model_name_or_path = base
    path = folder / "value_head.safetensors"
    if path.is_file():
        state = load_file(path)
        policy.value_head = ValueHead(state["out.weight"].shape[1]).to(policy.device)
        policy.value_head.load_state_dict(state)


def check_base(folder: Path, base: dict[str, str]) -> None:
    """Raises InputError where the candidate in `folder` was trained on another base."""
    path = folder / "base.json"
    before = json.loads(path.read_text()) if path.is_file() else base
    same = (
        before["sha256"] == base["sha256"]
        if before["sha256"] and base["sha256"]
        else (before["uri"] == base["uri"])
    )
    if not same:
        raise InputError(
            f"the champion was trained on {before['uri']}, not on {base['uri']}",
            "Name its base in --model, or start another model name for the new base.",
        )


def save_candidate(policy: Policy, folder: Path, base: dict[str, str]) -> None:
    """Write adapter/ in PEFT's format, value_head.safetensors and base.json."""
    adapter = folder / "adapter"
    policy.model.save_pretrained(str(adapter), selected_adapters=["default"])
    here = policy.model.peft_config["default"].base_model_name_or_path
    for name in ("adapter_config.json", "README.md"):  # a path of this job leads nowhere later
        text = (adapter / name).read_text()
        (adapter / name).write_text(text.replace(here, base["uri"]) if here else text)
    if isinstance(policy.value_head, ValueHead):
        save_file(policy.value_head.state_dict(), folder / "value_head.safetensors")
    (folder / "base.json").write_text(json.dumps(base))


def _place(prompt: Prompt) -> str:
    return f"prompt line {prompt.line}" if prompt.line else "a prompt"


def output_head(model: Any) -> nn.Linear:
    inner: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    return inner.get_output_embeddings()


def _special_ids(where: str, model: Any, tokenizer: Any) -> tuple[list[int], int]:
    """(end-of-sequence ids, padding id)"""
    stop = getattr(model.generation_config, "eos_token_id", None)
    if stop is None:
        stop = tokenizer.eos_token_id
    stop_ids = [stop] if isinstance(stop, int) else list(stop or [])
    if tokenizer.eos_token_id is not None and tokenizer.eos_token_id not in stop_ids:
        stop_ids.append(tokenizer.eos_token_id)
    if not stop_ids:
        raise InputError(
            f"--model {where} has no end-of-sequence token: its completions would never end",
            "Set eos_token in the tokenizer's configuration.",
        )
    pad = tokenizer.pad_token_id
    return stop_ids, stop_ids[0] if pad is None else pad


def _context(model: Any) -> int | None:
    config = model.config.get_text_config()
    return getattr(config, "max_position_embeddings", None)


def _use_threads(config: ModelConfig, parameters: int) -> None:
    if config.threads:
        torch.set_num_threads(config.threads)
    elif "OMP_NUM_THREADS" not in os.environ and parameters < SMALL_MODEL:
        torch.set_num_threads(1)
