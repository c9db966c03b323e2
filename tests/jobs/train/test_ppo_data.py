import gzip
import json
import subprocess
import sys

import pytest

from infra.errors import InputError
from jobs.policy.data import (
    Prompt,
    Trajectory,
    check_apart,
    read_preferences,
    read_prompts,
    read_trajectories,
    write_trajectories,
)

ASKED = {"role": "user", "content": "b"}


def test_texts_messages_columns_and_gzip(tmp_path):
    rows = [
        {"prompt": "a", "teeth": 20},
        {"messages": [{"role": "user", "content": "b"}]},
        {"prompt": "a", "teeth": 20},
        {"prompt": "a", "teeth": 21},
    ]
    path = tmp_path / "prompts"
    path.write_bytes(gzip.compress("\n\n".join(map(json.dumps, rows)).encode()))
    assert read_prompts(path) == [
        Prompt("a", {"teeth": 20}, 1),
        Prompt([{"role": "user", "content": "b"}], {}, 3),
        Prompt("a", {"teeth": 21}, 7),
    ]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("{", "no JSON"),
        ("[1]", "JSON object"),
        ('{"text": "a"}', "empty"),
        ('{"prompt": "  "}', "empty"),
        ('{"prompt": 3}', "must be a text"),
        ('{"messages": [{"role": "user"}]}', "content"),
        ('{"prompt": [{"role": "user", "content": ""}]}', "last message is empty"),
        ('{"prompt": "a", "completions": 1}', "'completions'"),
        (b"\xff".decode("latin1"), "no UTF-8"),
        ('{"question": "a", "answer": "b"}', "there are question, answer"),
        ('{"prompt": "\\ud83d"}', "half of a surrogate pair"),
        ('{"prompt": "a", "x": ' + "[" * 99_999 + "]" * 99_999 + "}", "no JSON"),
        ('{"prompt": "a", "tools": [{"type": "function"}]}', "`tools`"),
        ('{"prompt": "a", "images": ["a.png"]}', "`images`"),
        ('{"messages": [{"role": "human", "content": "b"}]}', "'human' must be 'user'"),
        *(
            (json.dumps({"messages": [ASKED, {"role": r, "content": "c"}]}), "assistant's answer")
            for r in ("assistant", "Assistant", "model", "gpt")
        ),
        (json.dumps({"prompt": json.dumps([{"role": "assistant", "content": "c"}])}),
            "assistant's answer"),
    ],
)  # fmt: skip
def test_a_broken_line_is_named_by_its_number(tmp_path, line, problem):
    path = tmp_path / "prompts.jsonl"
    path.write_bytes(b'{"prompt": "good"}\n' + line.encode("latin1") + b"\n")
    with pytest.raises(InputError, match=r"prompts.jsonl, line 2: ") as caught:
        read_prompts(path)
    assert problem in str(caught.value)
    assert "--prompts" in caught.value.remedy


@pytest.mark.parametrize(
    "content", ["prompt,answer\na,b\n", '[{"prompt": "a"}]', "Name a fruit.\n"]
)
def test_what_is_no_json_lines_is_told_so(tmp_path, content):
    path = tmp_path / "prompts"
    path.write_text(content)
    with pytest.raises(InputError, match="JSON lines: one object a line"):
        read_prompts(path)


def test_messages_that_are_written_as_a_text_are_messages(tmp_path):
    path, asked = tmp_path / "prompts", [{"role": "user", "content": "b"}]
    path.write_text(json.dumps({"prompt": json.dumps(asked), "tools": []}))
    assert [prompt.content for prompt in read_prompts(path)] == [asked]


def test_missing_empty_and_torn_files(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        read_prompts(tmp_path / "none")
    (tmp_path / "empty").write_text("\n")
    with pytest.raises(InputError, match="no prompt"):
        read_prompts(tmp_path / "empty")
    whole = gzip.compress(b'{"prompt": "a"}\n' * 1000)
    (tmp_path / "torn").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="cannot be read"):
        read_prompts(tmp_path / "torn")


def test_held_out_prompts_must_not_be_trained_on():
    check_apart([Prompt("a", line=1)], [Prompt("b", line=1)])
    with pytest.raises(InputError, match="line 7 is also line 1"):
        check_apart([Prompt("a", line=1)], [Prompt("b", line=1), Prompt("a", line=7)])


def test_trajectories_survive_the_disk(tmp_path):
    one = Trajectory(
        prompt="p",
        completion="c",
        prompt_token_ids=[1],
        completion_token_ids=[2, 3],
        logprobs=[-0.1, -1e-9],
        reward=0.5,
        model_version="3",
        columns={"teeth": 20},
    )
    write_trajectories(tmp_path / "t.jsonl.gz", [one, one])
    assert read_trajectories(tmp_path / "t.jsonl.gz") == [one, one]
    before = (tmp_path / "t.jsonl.gz").read_bytes()
    write_trajectories(tmp_path / "t.jsonl.gz", [one, one])
    assert (tmp_path / "t.jsonl.gz").read_bytes() == before


@pytest.mark.parametrize(
    "change", [{"logprobs": [-0.1]}, {"reward": float("nan")}, {"completion_token_ids": []}]
)
def test_a_broken_trajectory_is_named(tmp_path, change):
    good = {
        "prompt": "p",
        "completion": "c",
        "prompt_token_ids": [1],
        "completion_token_ids": [2, 3],
        "logprobs": [-0.1, -0.2],
        "reward": 0.5,
    }
    path = tmp_path / "t.jsonl"
    path.write_text(json.dumps(good) + "\n" + json.dumps({**good, **change}))
    with pytest.raises(InputError, match="line 2"):
        read_trajectories(path)


def test_preferences(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_text('{"prompt": "a", "chosen": "b", "rejected": "b"}')
    with pytest.raises(InputError, match=r"line 1: .*the same"):
        read_preferences(path)


def test_the_control_plane_needs_no_torch():
    code = "import sys, jobs.ppo.config, jobs.policy.data; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
