"""Toy models of two families, and jobs on them, for the tests of the job environment `train`.

pytest --confcutdir=tests/jobs/train tests/jobs/train
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from infra.objects import put
from jobs.runtime import Job

IGNORED = (
    "ignore:.*gradient_checkpointing.*:FutureWarning",  # PEFT and TRL against this transformers
)


def pytest_configure(config: pytest.Config) -> None:
    for line in IGNORED:
        config.addinivalue_line("filterwarnings", line)
    torch.set_num_threads(1)


def _tokenizer(pad: bool) -> PreTrainedTokenizerFast:
    letters = ["<eos>", "<pad>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(BPE({letter: n for n, letter in enumerate(letters)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = {"eos_token": "<eos>", **({"pad_token": "<pad>"} if pad else {})}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Grouped-query attention, rotary positions, a padding token."""
    folder = tmp_path_factory.mktemp("llama")
    tokenizer = _tokenizer(pad=True)
    torch.manual_seed(1)
    LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=64,
            initializer_range=0.2,
            eos_token_id=0,
            bos_token_id=None,
            pad_token_id=1,
        )
    ).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Learned positions, Conv1D layers, dropout, tied embeddings, no padding token."""
    folder = tmp_path_factory.mktemp("gpt2")
    tokenizer = _tokenizer(pad=False)
    torch.manual_seed(2)
    GPT2LMHeadModel(
        GPT2Config(
            vocab_size=len(tokenizer),
            n_embd=32,
            n_layer=2,
            n_head=2,
            n_positions=64,
            initializer_range=0.2,
            eos_token_id=0,
            bos_token_id=0,
        )
    ).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(params=["llama", "gpt2"])
def base(request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="session")
def write_lines(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    def write(name: str, rows: list[dict[str, Any]]) -> Path:
        path = tmp_path_factory.mktemp("lines") / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    return write


@pytest.fixture(scope="session")
def prompts(write_lines: Callable[..., Path]) -> Path:
    return write_lines("prompts.jsonl", [{"prompt": f"say {n}", "wanted": "e"} for n in range(24)])


VOWELS = '''
def share(completions, wanted, **columns):
    """How much of a completion is the wanted letter or a digit."""
    return [
        sum(letter in letters + "0123456789" for letter in text) / 8
        for text, letters in zip(completions, wanted)
    ]
'''


@pytest.fixture(scope="session")
def reward(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("reward") / "vowels.py"
    path.write_text(VOWELS)
    return path


@pytest.fixture(scope="session")
def make_job(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Make a job's folder: make_job(name, config, **inputs), inputs being local paths."""
    stored = tmp_path_factory.mktemp("objects").as_uri()

    def make(name: str, config: dict[str, Any], **inputs: Path) -> Path:
        folder = tmp_path_factory.mktemp("job")
        spec = {
            "name": name,
            "environment": "train",
            "config": config,
            "inputs": {
                key: put(path, f"{stored}/{key}-{abs(hash(str(path)))}").uri
                for key, path in inputs.items()
            },
            "output": f"{stored}/{folder.name}",
            "max_hours": 1,
            "key": folder.name,
        }
        (folder / "spec.json").write_text(json.dumps(spec))
        return folder

    return make


@pytest.fixture(scope="session")
def run_job(make_job: Callable[..., Path]) -> Callable[..., Any]:
    """Run a program here: run_job(program, model of its config, name, config, **inputs)."""

    def run(program: Any, model: Any, name: str, config: dict[str, Any], **inputs: Path) -> Any:
        job = Job(make_job(name, config, **inputs), model)
        return job, program(job)

    return run
