"""Tiny models for the tests: a Llama of random weights with a tokenizer of bytes, and adapters.

python -m tests.jobs.serve.models FOLDER
"""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

CONTEXT, RANK = 256, 8
TARGETS = ("q_proj", "v_proj", "gate_proj", "down_proj")
TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


def make_base(folder: Path) -> Path:
    """0.1 million parameters."""
    torch.manual_seed(0)
    letters = ["<pad>", "<eos>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(BPE({letter: number for number, letter in enumerate(letters)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>")
    fast.chat_template = TEMPLATE
    fast.save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=len(letters),
        hidden_size=128,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=CONTEXT,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=None,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def make_adapter(base: Path, folder: Path, seed: int) -> Path:
    """A LoRA adapter, as PEFT saves them, that changes what the base says a lot."""
    torch.manual_seed(seed)
    tensors = {}
    for name, weight in load_file(base / "model.safetensors").items():
        module = name.removesuffix(".weight")
        if module.endswith(TARGETS):
            outputs, inputs = weight.shape
            tensors[f"base_model.model.{module}.lora_A.weight"] = torch.randn(RANK, inputs) / 10
            tensors[f"base_model.model.{module}.lora_B.weight"] = torch.randn(outputs, RANK) / 10
    adapter = folder / "adapter"
    adapter.mkdir(parents=True)
    save_file(tensors, adapter / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": RANK, "lora_alpha": RANK}
    config |= {"target_modules": list(TARGETS), "bias": "none"}
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    return folder


def merged(base: Path, folder: Path) -> LlamaForCausalLM:
    """The base with the adapter of `folder` added to its weights, W + B A."""
    model = LlamaForCausalLM.from_pretrained(base, dtype=torch.float32)
    tensors = load_file(folder / "adapter" / "adapter_model.safetensors")
    with torch.no_grad():
        for name, down in tensors.items():
            if name.endswith("lora_A.weight"):
                module = name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
                up = tensors[name.replace("lora_A", "lora_B")]
                model.get_submodule(module).weight += up @ down
    return model


if __name__ == "__main__":
    place = Path(sys.argv[1])
    base = make_base(place / "base")
    for number in (1, 2):
        make_adapter(base, place / f"adapter-{number}", number)
