"""What a user gives is checked and stored before a cent is spent; every error names its option."""

import gzip
import json
from pathlib import Path

import pytest

from infra import objects
from infra.errors import InputError, ObjectError
from infra.settings import settings
from tasks.policy import inputs
from tasks.policy.inputs import Inputs
from tasks.runs import given


@pytest.fixture(autouse=True)
def folder(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that the user is in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(name: str, rows: list[dict]) -> str:
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    Path(name).write_text(text)
    return name


def stored_rows(artifact, folder: Path) -> list[dict]:
    path = objects.get(artifact.uri, folder / artifact.sha256)
    return [json.loads(line) for line in path.read_text().split("\n") if line]


def prompts(count: int) -> list[dict]:
    return [{"prompt": f"word {n}"} for n in range(count)]


def test_a_model_folder_is_stored_under_its_content(folder: Path) -> None:
    for name in ("model", "copy"):
        Path(name).mkdir()
        Path(name, "config.json").write_text("{}")
    first, again = inputs.store_model("model"), inputs.store_model("./copy")
    assert first is not None and first == again
    assert first.sha256[:16] in first.uri
    Path("copy", "config.json").write_text('{"changed": true}')
    assert inputs.store_model("copy") != first


def test_a_hub_id_is_left_to_the_job() -> None:
    assert inputs.store_model("Qwen/Qwen3-0.6B") is None


@pytest.mark.parametrize(
    "model",
    ["nowhere", "./nowhere/model", "/no/such", "~/nowhere", "a/b/c", "a-file", "empty", "", " "],
)
def test_what_is_no_model(model: str) -> None:
    Path("a-file").write_text("weights")
    Path("empty").mkdir()
    with pytest.raises(InputError, match="--model") as caught:
        inputs.store_model(model)
    assert model in caught.value.message and "save_pretrained" in caught.value.remedy
    assert "--model:  " not in caught.value.message, "nothing is named as nothing"


def test_a_fifth_is_held_out_and_nothing_is_lost(folder: Path) -> None:
    rows = [{"prompt": f"word {n}", "weight": w} for n in range(100) for w in (1, 2)]
    both = inputs.store_prompts(write("p.jsonl", rows + rows[:3]), None, folder)
    training, held_out = (stored_rows(artifact, folder) for artifact in both)
    assert sorted(training + held_out, key=str) == sorted(rows, key=str)
    apart = {row["prompt"] for row in training}, {row["prompt"] for row in held_out}
    assert not apart[0] & apart[1], "one prompt with two weights stays on one side"
    assert 10 <= len(apart[1]) <= 30
    assert inputs.store_prompts("p.jsonl", None, folder) == both


def test_messages_beside_an_empty_prompt_are_split_too(folder: Path) -> None:
    rows = [{"prompt": "", "messages": [{"role": "user", "content": f"{n}"}]} for n in range(100)]
    _, held_out = inputs.store_prompts(write("p.jsonl", rows), None, folder)
    assert 8 <= len(stored_rows(held_out, folder)) <= 40


@pytest.mark.parametrize("character", ["\u2028", "\x85"])
def test_only_line_feeds_end_a_line(folder: Path, character: str) -> None:
    rows = [{"prompt": f"first{character}second {n}"} for n in range(100)]
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    Path("p.jsonl").write_text("\r\n".join(lines), newline="")
    stored = inputs.store_prompts("p.jsonl", None, folder)
    found = [row for artifact in stored for row in stored_rows(artifact, folder)]
    assert sorted(found, key=str) == sorted(rows, key=str)


@pytest.mark.parametrize("zipped", [False, True])
def test_a_byte_order_mark_and_gzip(folder: Path, zipped: bool) -> None:
    text = write("p.jsonl", prompts(100)) and Path("p.jsonl").read_text()
    raw = text.encode("utf-8-sig")
    Path("p.jsonl").write_bytes(gzip.compress(raw) if zipped else raw)
    stored = inputs.store_prompts("p.jsonl", None, folder)
    assert sum(len(stored_rows(artifact, folder)) for artifact in stored) == 100


def test_given_held_out_prompts_are_kept_whole(folder: Path) -> None:
    few = write("held.jsonl", [{"prompt": "another word"}])
    training, held_out = inputs.store_prompts(write("p.jsonl", prompts(3)), few, folder)
    assert stored_rows(training, folder) == prompts(3)
    assert stored_rows(held_out, folder) == [{"prompt": "another word"}]


@pytest.mark.parametrize(
    ("lines", "named"),
    [
        (None, "there is no file"),
        ("", "holds no prompt"),
        ('{"prompt": "a"}\n{"prompt": \n', "line 2"),
        ('["a"]\n', "line 1"),
        ('{"prompt": 7}\n', "line 1"),
        ('{"prompt": "a", "completions": 1}\n', "'completions'"),
        ('{"prompt": "a"}\n' * 500, "too few"),
    ],
    ids=["missing", "empty", "no-json", "no-object", "no-text", "reserved", "one-prompt"],
)
def test_what_are_no_prompts(folder: Path, lines: str | None, named: str) -> None:
    if lines is not None:
        Path("p.jsonl").write_text(lines)
    with pytest.raises(InputError) as caught:
        inputs.store_prompts("p.jsonl", None, folder)
    assert named in str(caught.value) and "p.jsonl" in str(caught.value)
    assert "--prompts" in str(caught.value)
    assert objects.list_artifacts(settings().objects_uri) == [], "nothing was stored"


def test_a_folder_is_no_file_of_prompts(folder: Path) -> None:
    with pytest.raises(InputError, match=r"--prompts: \. is a folder"):
        inputs.store_prompts(".", None, folder)


@pytest.mark.parametrize(
    ("held_out", "named"),
    [(None, "no file"), ([{"prompt": 7}], "line 1"), ([{"prompt": "word 1"}], "line 2")],
    ids=["missing", "no-text", "trained-on"],
)
def test_what_are_no_held_out_prompts(
    folder: Path, held_out: list[dict] | None, named: str
) -> None:
    if held_out is not None:
        write("held.jsonl", held_out)
    with pytest.raises(InputError, match=r"held-out") as caught:
        inputs.store_prompts(write("p.jsonl", prompts(3)), "held.jsonl", folder)
    assert named in str(caught.value)


def test_a_function_of_the_users_own_travels_as_its_file(folder: Path) -> None:
    Path("package").mkdir()
    for path in ("mine.py", "package/mine.py"):
        Path(path).write_text("def reward(): ...")
    for spec, told in [
        ("mine:reward", "mine.py:reward"),
        ("mine.py:reward", "mine.py:reward"),
        ("package.mine:reward", "mine.py:reward"),
    ]:
        stored = inputs.store_function("--reward", spec)
        assert stored is not None
        assert objects.get(stored.uri, folder / spec).read_text() == "def reward(): ..."
        assert inputs.function_spec(spec, stored) == told


@pytest.mark.parametrize(
    "text",
    [
        "from math import sqrt as f",
        "import f.g",
        "from somewhere import *",
        "try:\n    import fast\nexcept ImportError:\n    def f(): ...",
        "class f: ...",
        "f = lambda prompts: 0",
        "f: object = print",
        "if True:\n    (f, g) = print, print",
        "\ufeff# é\nf = print",
    ],
)
def test_whatever_defines_the_name_will_do(text: str) -> None:
    Path("mine.py").write_text(text)
    assert inputs.store_function("--judge", "mine:f")


@pytest.mark.parametrize("spec", ["jobs.design.reward:reward", "math:sqrt"])
def test_what_the_job_finds_by_itself_is_not_stored(spec: str) -> None:
    Path("jobs/design").mkdir(parents=True)
    Path("jobs/design/reward.py").write_text("")
    assert inputs.store_function("--reward", spec) is None
    assert inputs.function_spec(spec, None) == spec


def test_a_reward_is_a_function_or_a_model_and_not_both(folder: Path) -> None:
    Path("judge").mkdir()
    assert inputs.store_reward(None, None) is None
    with pytest.raises(InputError, match=r"--reward-model: judge has no config\.json"):
        inputs.store_reward(None, "judge")
    Path("judge/config.json").write_text("{}")
    stored = inputs.store_reward(None, "judge")
    assert stored is not None and "reward-models" in stored.uri
    assert inputs.function_spec("judge", stored) == "judge"
    assert inputs.store_reward(None, "org/reward-model") is None
    assert inputs.store_reward("math:sqrt", None) is None
    with pytest.raises(InputError, match=r"--reward: .*--reward-model"):
        inputs.store_reward("math:sqrt", "judge")
    for nothing in ("nowhere", "", "mine:reward"):
        with pytest.raises(InputError, match=r"--reward-model: .*\n.*Skywork"):
            inputs.store_reward(None, nothing)


@pytest.mark.parametrize(
    ("spec", "named"),
    [
        (":reward", "does not name a function"),
        ("mine:", "does not name a function"),
        ("mine:not a name", "does not name a function"),
        ("..:reward", "does not name a function"),
        ("./mine:reward", "does not name a function"),
        ("nowhere.py:reward", "no file nowhere.py"),
        ("", "does not name a function"),
        ("mine.py", "does not name a function"),
        ("org/model", "does not name a function"),
        ("mine.py:other", "no function 'other' in mine.py"),
        ("mine:inner", "no function 'inner' in mine.py"),
        ("torn.py:reward", "torn.py, line 2: "),
        ("jobs.design.rewards:reward", "no module jobs.design.rewards"),
        ("jobs.design.reward:nofunc", "no function 'nofunc' in jobs/design/reward.py"),
    ],
)
def test_what_is_no_function(spec: str, named: str) -> None:
    Path("mine.py").write_text("def reward():\n    def inner(): ...\n")
    Path("torn.py").write_text("\ndef reward(:")
    with pytest.raises(InputError, match="--success") as caught:
        inputs.store_function("--success", spec)
    assert named in caught.value.message and caught.value.remedy


def test_what_there_is_has_uris_and_checksums(folder: Path) -> None:
    stored = given.store(Path(write("p.jsonl", prompts(1))), "prompts")
    found = Inputs(prompts=stored)
    assert found.some("base", "prompts") == {"prompts": stored}
    assert found.checksums == {"prompts": stored.sha256}


def test_a_root_that_is_a_file_names_the_setting(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("objects").write_text("not a folder")
    monkeypatch.setenv("NIGHTSHIFT_OBJECTS", (folder / "objects").as_uri())
    settings.cache_clear()
    with pytest.raises(ObjectError, match="NIGHTSHIFT_OBJECTS"):
        given.store(Path(write("p.jsonl", prompts(1))), "prompts")


def test_prompts_that_hold_their_answer_are_refused(folder: Path) -> None:
    asked = {"role": "user", "content": "Name a fruit."}
    answered = [asked, {"role": "assistant", "content": "An apple."}]
    rows = [{"messages": [asked]}, {"messages": answered}]
    with pytest.raises(InputError, match="line 2: the messages end with the assistant's answer"):
        inputs.store_prompts(write("p.jsonl", rows), None, folder)
    asked_again = [
        {"messages": [*answered, {"role": "user", "content": f"And {n}?"}]} for n in "ab"
    ]
    held_out = [{"messages": [asked]}]
    inputs.store_prompts(write("p.jsonl", asked_again), write("h.jsonl", held_out), folder)
