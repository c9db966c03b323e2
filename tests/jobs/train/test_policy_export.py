"""An exported model is the policy: plain transformers, without PEFT, say the same with it."""

import json
from pathlib import Path

import pytest
import torch
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer

from infra.errors import InputError
from jobs.policy.config import ModelConfig
from jobs.policy.export import merge
from jobs.policy.model import add_adapter, load_base, save_candidate


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("kept", [torch.float32, torch.bfloat16])
def test_merged_weights_say_what_base_and_adapter_say(
    family: str, kept: torch.dtype, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    base, folder, output = tmp_path / "base", tmp_path / "candidate", tmp_path / "merged"
    source = request.getfixturevalue(family)
    AutoModelForCausalLM.from_pretrained(source, dtype=kept).save_pretrained(base)
    AutoTokenizer.from_pretrained(source).save_pretrained(base)
    policy = load_base(ModelConfig(model=str(base), dtype="float32"), base)
    adapter = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)
    adapter.fan_in_fan_out = family == "gpt2"
    add_adapter(policy, adapter)
    folder.mkdir()
    save_candidate(policy, folder, {"uri": "file:///gone", "sha256": "x"})
    ids = torch.tensor([[5, 6, 7, 8, 9]])
    with torch.no_grad():
        expected = policy.model(ids).logits
        with policy.model.disable_adapter():
            untrained = policy.model(ids).logits
    merge(folder, base, output)
    merged = AutoModelForCausalLM.from_pretrained(output)
    assert merged.dtype == kept
    assert not (output / "value_head.safetensors").exists()
    near = 1e-4 if kept == torch.float32 else 0.1
    with torch.no_grad():
        said = merged.float()(ids).logits
    scale = expected.abs().max()
    assert (said - expected).abs().max() < near * scale < (untrained - expected).abs().max() * 2
    tokenizer = AutoTokenizer.from_pretrained(output)
    assert tokenizer("abc")["input_ids"] == policy.tokenizer("abc")["input_ids"]
    assert json.loads((output / "config.json").read_text())["model_type"] == family


def test_an_adapter_of_another_base_is_refused(llama: Path, gpt2: Path, tmp_path: Path) -> None:
    policy = load_base(ModelConfig(model=str(llama)), llama)
    add_adapter(policy, LoraConfig(r=4, target_modules="all-linear"))
    save_candidate(policy, tmp_path, {"uri": "file:///gone", "sha256": "x"})
    with pytest.raises(InputError, match="does not fit"):
        merge(tmp_path, gpt2, tmp_path / "merged")
