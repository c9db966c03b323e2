"""Bases that a training would fail on, or learn nothing from, are refused before it is paid for."""

import json
from io import BytesIO
from itertools import count
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from infra.errors import InputError
from jobs.dpo import build, preflight
from jobs.dpo.config import BuildConfig, PreflightConfig
from jobs.policy.model import load_base

CONFIG = {"max_tokens": 48, "max_new_tokens": 8, "reward": "vowels.py:share"}
NUMBERS = count()
"""Of files and folders: what differs must not lie at one place."""
TEMPLATE = "{% for m in messages %}{{ m.role[0] }}:{{ m.content }}<eos>{% endfor %}"


def texts() -> list[dict]:
    return [
        {"prompt": f"say {n}", "chosen": "e" * (n % 5 + 1), "rejected": "k", "wanted": "e"}
        for n in range(60)
    ]


def chats() -> list[dict]:
    return [{**row, "prompt": [{"role": "user", "content": row["prompt"]}]} for row in texts()]


@pytest.fixture
def check(run_job, write_lines, reward):
    """check(base, rows, config, **inputs) → the metrics of the preflight"""

    def run(base: Path, rows: list[dict], config: dict | None = None, **inputs: Path):
        pairs = write_lines(f"pairs-{next(NUMBERS)}.jsonl", rows)
        building = {"workers": 1, "near_duplicate": 1}
        _, built = run_job(build.program, BuildConfig, "dpo.build", building, pairs=pairs)
        inputs |= {"base": base, "dataset": built.artifacts["dataset"], "reward": reward}
        program = (preflight.program, PreflightConfig, "dpo.preflight")
        return run_job(*program, CONFIG | (config or {}), **inputs)[1].metrics

    return run


@pytest.fixture
def copy(tmp_path: Path):
    """copy(base) → a copy of its folder to be spoilt"""

    def make(base: Path) -> Path:
        folder = tmp_path / f"spoilt-{next(NUMBERS)}"
        folder.mkdir()
        for path in base.iterdir():
            (folder / path.name).write_bytes(path.read_bytes())
        return folder

    return make


def test_a_base_without_padding_token_will_do(check, gpt2) -> None:
    assert check(gpt2, texts())["pairs"] > 40


def test_a_base_without_chat_template_takes_no_chats(check, copy, llama, write_lines) -> None:
    with pytest.raises(InputError, match=r"^the pairs hold chat .*\n.*--dataset.*--model"):
        check(llama, chats())
    held_out = write_lines("held_out.jsonl", [{**row, "wanted": "e"} for row in chats()[:3]])
    with pytest.raises(InputError, match=r"prompt line 1 holds messages.*\n.*--model"):
        check(llama, texts(), prompts=held_out)
    chat = copy(llama)
    (chat / "chat_template.jinja").write_text(TEMPLATE)
    assert check(chat, chats(), {"reward": None})["pairs"] > 40


def test_a_template_that_never_ends_an_answer_is_refused(check, copy, llama) -> None:
    chat = copy(llama)
    (chat / "chat_template.jinja").write_text(TEMPLATE.replace("<eos>", ";"))
    with pytest.raises(InputError, match=r"chat template of --model does not end .* <eos>"):
        check(chat, chats(), {"reward": None})


def test_calls_of_tools_need_a_template_that_shows_them(check, copy, llama) -> None:
    chat = copy(llama)
    (chat / "chat_template.jinja").write_text(TEMPLATE)
    call = {"type": "function", "function": {"name": "look", "arguments": "{}"}}
    said = {"role": "assistant", "content": None, "tool_calls": [call]}
    rows = [{**row, "prompt": [*row["prompt"], said, row["prompt"][0]]} for row in chats()]
    with pytest.raises(InputError, match=r"calls of tools.* chat template of --model"):
        check(chat, rows, {"reward": None})


def long_answers(cut: int) -> list[dict]:
    """Sixty pairs, of which about so many have an answer over 16 tokens."""
    return [{**row, "chosen": "e" * (40 if n < cut else 4)} for n, row in enumerate(texts())]


def test_answers_that_are_cut_are_counted_and_too_many_are_refused(check, llama) -> None:
    assert check(llama, long_answers(0), {"max_tokens": 20})["cut_share"] == 0
    assert 0.05 < check(llama, long_answers(15), {"max_tokens": 20})["cut_share"] < 0.5
    with pytest.raises(InputError, match=r"--max-tokens 20 cuts .*\n.*--max-tokens to 4[0-9]"):
        check(llama, long_answers(55), {"max_tokens": 20})


@pytest.mark.parametrize("template", ["{{ raise_exception('system first') }}", "{% for %}"])
def test_a_chat_template_that_refuses_is_said(check, copy, llama, template: str) -> None:
    chat = copy(llama)
    (chat / "chat_template.jinja").write_text(template)
    with pytest.raises(InputError, match=r"chat template of --model"):
        check(chat, chats())


def test_tokens_that_the_base_has_no_embedding_for(check, copy, llama) -> None:
    larger = copy(llama)
    tokenizer = AutoTokenizer.from_pretrained(llama)
    tokenizer.add_tokens(["eee", "say"])
    tokenizer.save_pretrained(larger)
    with pytest.raises(InputError, match=r"tokenizer .*--model.* 258"):
        check(larger, texts())
    unused = [{**row, "prompt": f"tell {row['prompt'][4:]}"} for row in texts()]
    with pytest.raises(InputError, match=r"tokenizer .*--model.* 258"):
        check(larger, unused)
    unused = [{**row, "chosen": row["chosen"][:2]} for row in unused]
    assert check(larger, unused)["pairs"] > 40
    padded = copy(llama)
    AutoTokenizer.from_pretrained(llama, pad_token="<more>").save_pretrained(padded)
    with pytest.raises(InputError, match=r"tokenizer .*--model.* 258"):
        check(padded, unused)


def test_a_tokenizer_that_is_missing(check, copy, gpt2) -> None:
    bare = copy(gpt2)
    for path in bare.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(InputError, match=r"tokenizer of --model"):
        check(bare, texts())


def test_weights_that_are_missing_or_cut_off(check, copy, llama) -> None:
    cut, missing, part = (copy(llama) for _ in range(3))
    weights = cut / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"--model.* cannot be loaded.* not fully covered"):
        check(cut, texts())
    (missing / weights.name).unlink()
    with pytest.raises(
        InputError, match=r"--model.* cannot be loaded.* no file named model\.safetensors"
    ):
        check(missing, texts())
    index = {
        "metadata": {},
        "weight_map": {"model.norm.weight": "model-00001-of-00002.safetensors"},
    }
    (part / "model.safetensors.index.json").write_text(json.dumps(index))
    (part / weights.name).unlink()
    with pytest.raises(
        InputError, match=r"--model.* cannot be loaded.*00001-of-00002\.safetensors"
    ):
        check(part, texts())


def test_a_base_is_named_as_the_user_did(check, copy, llama) -> None:
    spoilt = copy(llama)
    config = json.loads((spoilt / "config.json").read_text())
    (spoilt / "config.json").write_text(json.dumps(config | {"model_type": "no_such"}))
    with pytest.raises(InputError, match=r"--model my-model cannot be loaded"):
        check(spoilt, texts(), {"model": "my-model"})


def test_a_dataset_that_is_spoilt(run_job, llama, tmp_path, write_lines) -> None:
    pairs = write_lines("pairs.jsonl", texts())
    _, built = run_job(build.program, BuildConfig, "dpo.build", {"workers": 1}, pairs=pairs)
    whole = built.artifacts["dataset"]
    parquet = (whole / "train.parquet").read_bytes()
    few = BytesIO()
    pq.write_table(pa.table({"prompt": ["say"], "chosen": ["e"]}), few)
    spoilt = {
        r"train\.parquet cannot be read": {"train.parquet": parquet[: len(parquet) // 2]},
        r"train\.parquet lacks confidence, group": {"train.parquet": few.getvalue()},
    }
    for said, files in spoilt.items():
        folder = tmp_path / f"dataset-{next(NUMBERS)}"
        folder.mkdir()
        for path in whole.iterdir():
            (folder / path.name).write_bytes(files.get(path.name, path.read_bytes()))
        run = (preflight.program, PreflightConfig, "dpo.preflight", CONFIG)
        with pytest.raises(InputError, match=rf"(.|\n)*{said}") as caught:
            run_job(*run, base=llama, dataset=folder)
        assert "--dataset" in str(caught.value)


def spoil(base: Path, change) -> None:
    tensors = load_file(base / "model.safetensors")
    change(tensors)
    save_file(tensors, base / "model.safetensors", {"format": "pt"})


def test_a_base_of_another_model_is_not_filled_with_random_tensors(
    check, copy, llama, gpt2
) -> None:
    gone = "model.layers.1.mlp.up_proj.weight"
    less, smaller, other = copy(llama), copy(llama), copy(llama)
    spoil(less, lambda tensors: tensors.pop(gone))
    spoil(smaller, lambda tensors: tensors.update({gone: torch.zeros(3, 4)}))
    (other / "config.json").write_bytes((gpt2 / "config.json").read_bytes())
    for base, said in (
        (less, f"lacks 1 tensors .* {gone}"),
        (smaller, rf"has {gone} in the shape \[3, 4\], .* wants \[64, 32\] \(1 differ\)"),
        (other, r"lacks \d+ tensors .* transformer\.h\.0"),
    ):
        with pytest.raises(InputError, match=rf"--model \S+ {said}"):
            check(base, texts())
        with pytest.raises(InputError, match=said):
            load_base(PreflightConfig.model_validate(CONFIG), base)
    for whole in (llama, gpt2):
        load_base(PreflightConfig.model_validate(CONFIG), whole)


def test_an_index_matters_where_there_is_no_whole_file(check, copy, llama) -> None:
    for index, whole, said in (
        ('{"weight_map": {"a": "model-00001-of-00002.safetensors"}}', True, None),
        ("{", False, "cannot be loaded.* Expecting property name"),
        ("[]", False, "cannot be loaded.*: TypeError: list indices"),
        ('{"weight_map": 1}', False, "cannot be loaded.*: AttributeError: 'int'"),
        (None, False, "no file named"),
    ):
        base = copy(llama)
        if index is not None:
            (base / "model.safetensors.index.json").write_text(index)
        if not whole:
            (base / "model.safetensors").rename(base / "adapter_model.safetensors")
        if said is None:
            assert check(base, texts())["pairs"] > 0
            continue
        with pytest.raises(InputError, match=said):
            check(base, texts())


def test_what_tells_success_is_tried_too(check, llama, tmp_path, reward) -> None:
    sick = tmp_path / "sick.py"
    sick.write_text("def solved(completions, wanted): return [None for _ in completions]")
    for config, inputs, said in (
        ({"success": "json:nofunc"}, {}, r"--success json:nofunc: there is no function"),
        ({"success": "sick.py:solved"}, {"success": sick}, r"--success sick\.py:solved returned"),
        ({"success": "vowels.py:none"}, {}, r"--success vowels\.py:none: there is no function"),
    ):
        with pytest.raises(InputError, match=said):
            check(llama, texts(), config, **inputs)
    assert check(llama, texts(), {"success": "vowels.py:share"})["pairs"] > 40
