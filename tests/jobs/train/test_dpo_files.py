"""Files that only a job can read, hubs, the user's own held-out pairs; and that our shapes are what
TRL's helpers make of the same rows."""

import copy
import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from trl.data_utils import maybe_convert_to_chatml, maybe_extract_prompt, unpair_preference_dataset

from infra.errors import InputError
from jobs.dpo import build
from jobs.dpo.config import BuildConfig
from jobs.dpo.data import Feedback, Reading, parse


def pair(number: int, **more) -> dict:
    return {"prompt": f"prompt {number}", "chosen": "good", "rejected": "bad", **more}


def chat(number: int) -> dict:
    asked = [{"role": "user", "content": f"prompt {number}"}]
    answers = {"chosen": "good", "rejected": "bad"}
    return {
        name: [*asked, {"role": "assistant", "content": text}] for name, text in answers.items()
    }


def same(text: str) -> str:
    return text


@pytest.fixture
def dataset(run_job):
    """dataset(config, **inputs) → (card, its Markdown, rows by split)"""

    def make(config=None, **inputs):
        config = {"workers": 1, **(config or {})}
        _, outcome = run_job(build.program, BuildConfig, "dpo.build", config, **inputs)
        folder = outcome.artifacts["dataset"]
        splits = {
            name: pq.read_table(folder / f"{name}.parquet").to_pylist()
            for name in ("train", "held_out")
        }
        card = json.loads((folder / "card.json").read_text())
        return card, (folder / "card.md").read_text(), splits

    return make


@pytest.mark.parametrize("kind", ["parquet", "zst", "gz"])
@pytest.mark.parametrize("make", [pair, chat])
def test_parquet_and_compressed_files_are_read_and_told(dataset, tmp_path, kind, make):
    path, rows = tmp_path / "pairs", [make(n) for n in range(40)]
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif kind == "zst":
        with pa.CompressedOutputStream(str(path), "zstd") as stream:
            stream.write(lines)
    else:
        path.write_bytes(gzip.compress(lines))
    card, text, splits = dataset(pairs=path)
    assert len(splits["train"]) + len(splits["held_out"]) == 40
    shape = "pairs" if make is pair else "whole conversations"
    assert card["files"][0]["shapes"] == {shape: 40} and len(card["files"][0]["shown"]) == 2
    assert f"Of 40 rows 40 as {shape}; left out: none." in text
    assert text.count(f"\n- {shape}\n") == 2 and "prompt 1" in text


@pytest.mark.parametrize("damage", [b"PAR1 and no more", b"\x28\xb5\x2f\xfd and no more"])
def test_damaged_files_name_the_option(dataset, tmp_path, damage):
    (tmp_path / "pairs").write_bytes(damage)
    with pytest.raises(InputError, match=r"cannot be read(.|\n)*--dataset"):
        dataset(pairs=tmp_path / "pairs")


def test_pairs_of_ones_own_judge_and_nothing_like_them_is_trained_on(dataset, write_lines):
    own = write_lines("own.jsonl", [pair(n, group=f"g{n}") for n in range(10)])
    rows = [pair(n, chosen="better") for n in range(40)] + [pair(99, group="g3")]
    card, text, splits = dataset(held_out=own, pairs=write_lines("pairs.jsonl", rows))
    assert {row["prompt"] for row in splits["held_out"]} == {f"prompt {n}" for n in range(10)}
    assert {row["prompt"] for row in splits["train"]} == {f"prompt {n}" for n in range(10, 40)}
    assert card["left_out"]["of prompts or groups that are held out"] == 11
    assert card["read"] == 51 == sum(card["left_out"].values()) + 40
    assert "How --held-out was read" in text and "How --dataset was read" in text


def test_fields_are_mapped(dataset, write_lines):
    rows = [{"q": f"prompt {n}", "a": "good", "b": "bad"} for n in range(40)]
    mapped = {"map": "prompt=q chosen=a rejected=b"}
    _, _, splits = dataset(mapped, pairs=write_lines("pairs.jsonl", rows))
    assert splits["train"][0]["chosen"] == "good"


def test_a_dataset_of_the_hub(dataset, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # `datasets` takes a folder of this name for the hub's
    folder = tmp_path / "org" / "pairs"
    folder.mkdir(parents=True)
    for split, count in (("train", 40), ("test", 30)):
        rows = [pair(n) for n in range(count)]
        pq.write_table(pa.Table.from_pylist(rows), folder / f"{split}-00000-of-00001.parquet")
    for spec, count in (("org/pairs", 40), ("org/pairs:test", 30)):
        card, _, _ = dataset({"hub": spec})
        assert card["files"][0]["shapes"] == {"pairs": count}
    with pytest.raises(InputError, match=r"--dataset: org/pairs:no(.|\n)*ORG/NAME:SPLIT"):
        dataset({"hub": "org/pairs:no"})


def test_whole_conversations_are_split_as_trl_does():
    row = chat(1)
    ((found,), expected) = (parse(row, same)[1], maybe_extract_prompt(copy.deepcopy(row)))
    assert json.loads(found.prompt) == expected["prompt"]
    for name in ("chosen", "rejected"):
        assert [{"role": "assistant", "content": getattr(found, name)}] == expected[name]


def test_sharegpt_is_chatml_as_trl_makes_it():
    row = {
        "conversations": [{"from": "user", "value": "Hi"}],
        "chosen": [{"from": "assistant", "value": "Hi!"}],
        "rejected": [{"from": "assistant", "value": "What?"}],
    }
    (found,) = parse(row, same)[1]
    expected = maybe_convert_to_chatml(copy.deepcopy(row))
    assert json.loads(found.prompt) == expected["messages"]
    assert [{"role": "assistant", "content": found.chosen}] == expected["chosen"]


def test_what_trl_unpairs_for_kto_becomes_the_same_pairs():
    rows = [pair(n) for n in range(5)]
    unpaired = unpair_preference_dataset(Dataset.from_list(rows))
    found = [one for row in unpaired for one in parse(row, same)[1]]
    assert all(isinstance(one, Feedback) for one in found)
    made = list(build.opinions.pairs(found, BuildConfig.model_validate({}), build.Counter()))
    assert [(p.prompt, p.chosen, p.rejected) for p in made] == [tuple(row.values()) for row in rows]


ROWS = st.lists(
    st.one_of(
        st.builds(pair, st.integers(0, 4), user=st.sampled_from(["", "u"])),
        st.builds(pair, st.integers(0, 4), chosen=st.sampled_from(["bad", "worse"])),
        st.builds(pair, st.integers(0, 9), confidence=st.sampled_from([0.5, 0.9])),
        st.builds(
            lambda n, text, value: {
                "kind": "thumb", "prompt": f"prompt {n}", "completion": text, "value": value
            },
            st.integers(0, 4), st.sampled_from("ab"), st.sampled_from([1, -1]),
        ),
        st.just({"prompt": "prompt 1", "chosen": "x"}),
    ),
    min_size=1, max_size=12,
)  # fmt: skip


@given(ROWS, st.booleans())
@settings(max_examples=15, deadline=None)
def test_all_sums_of_the_card_hold(run_job, write_lines, rows, own):
    whole = [pair(100 + n) for n in range(120)]  # so that some broken lines are allowed
    inputs = {"pairs": write_lines("pairs.jsonl", whole + rows)}
    if own:
        inputs["held_out"] = write_lines("own.jsonl", [pair(n) for n in range(3)])
    try:
        _, outcome = run_job(build.program, BuildConfig, "dpo.build", {"workers": 1}, **inputs)
    except InputError as error:
        assert "lines are broken" in str(error)
        return
    card = json.loads((outcome.artifacts["dataset"] / "card.json").read_text())
    files, votes = card["files"], card["votes"]
    assert sum(file["rows"] for file in files) == len(rows) + 120 + 3 * own
    for file in files:
        assert file["rows"] == file["taken"] + file["broken"] + sum(file["left_out"].values())
        assert file["taken"] == sum(file["shapes"].values())
    assert votes.get("read", 0) * 2 == sum(votes.values())
    kept = sum(split["pairs"] for split in card["splits"].values())
    assert card["read"] == kept + sum(card["left_out"].values())
    assert card["read"] == sum(card["sources_read"].values())


def test_a_reading_says_what_only_a_job_finds(tmp_path):
    path = tmp_path / "pairs"
    pq.write_table(pa.table({"text_a": ["x"], "text_b": ["y"]}), path)
    with pytest.raises(InputError, match=r"the fields text_a, text_b(.|\n)*--map"):
        list(Reading(path, "--dataset").rows())
