"""How llmcompressor makes each variant of a model, in the process that calls it."""

from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from llmcompressor import oneshot
from llmcompressor.modifiers.gptq import GPTQModifier
from llmcompressor.modifiers.quantization import QuantizationModifier
from llmcompressor.modifiers.transform.awq import AWQModifier
from llmcompressor.pipelines.cache import IntermediatesCache
from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed

from jobs.quantization.config import Variant

EVERYWHERE: dict[str, Any] = {"targets": "Linear", "ignore": ["lm_head"]}
"""All linear layers but the output head, which every scheme of the field leaves as it is."""


def recipe(variant: Variant) -> list[Any]:
    """Sources: Frantar et al. 2022 (GPTQ, arXiv:2210.17323), Lin et al. 2023 (AWQ,
    arXiv:2306.00978)."""
    if variant == "int8":
        return [GPTQModifier(scheme="W8A8", **EVERYWHERE)]
    if variant == "gptq":
        return [GPTQModifier(scheme="W4A16", **EVERYWHERE)]
    if variant == "awq":
        return [AWQModifier(), QuantizationModifier(scheme="W4A16_ASYM", **EVERYWHERE)]
    return [QuantizationModifier(scheme="FP8_DYNAMIC", **EVERYWHERE)]


def quantise(
    variant: Variant, model: Path, prompts: list[list[int]], folder: Path, seed: int
) -> None:
    """Write a variant of the `model` into `folder`, calibrated on the token ids of `prompts`.

    Raises whatever llmcompressor does, for a model that it cannot quantise.
    """
    if not torch.accelerator.is_available():  # llmcompressor 0.14 pins memory without a GPU, too
        IntermediatesCache.pin_memory = lambda *_, **__: None
    set_seed(seed)
    loaded = AutoModelForCausalLM.from_pretrained(model, dtype="auto")
    tokenizer = AutoTokenizer.from_pretrained(model)
    oneshot(
        model=loaded,
        tokenizer=tokenizer,
        recipe=recipe(variant),
        dataset=None if variant == "fp8" else Dataset.from_dict({"input_ids": prompts}),
        num_calibration_samples=len(prompts),
        max_seq_length=max(map(len, prompts)),
    )
    loaded.save_pretrained(folder, save_compressed=True)
    tokenizer.save_pretrained(folder)
