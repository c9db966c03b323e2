"""A tenant's texts: what is read, held out, and refused without telling any of it."""

import json
from pathlib import Path

import pytest

from infra.errors import InputError
from jobs.federated.config import TEXTS
from jobs.federated.texts import read


def written(folder: Path, rows: list[object]) -> Path:
    path = folder / TEXTS
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def text(number: int, **more: object) -> dict[str, object]:
    return {"prompt": f"question {number}", "completion": f"secret {number}", **more}


def test_a_third_is_held_out_and_stays_so(tmp_path: Path) -> None:
    found = read(written(tmp_path, [text(n) for n in range(300)]))
    assert 70 < len(found.held_out) < 135 and len(found.train) + len(found.held_out) == 300
    before = {each.prompt.text for each in found.held_out}
    again = read(written(tmp_path, [text(n) for n in reversed(range(400))]))
    assert before <= {each.prompt.text for each in again.held_out}


def test_the_file_may_say_what_is_held_out(tmp_path: Path) -> None:
    found = read(written(tmp_path, [text(n, held_out=int(n < 5)) for n in range(20)]))
    assert [each.prompt.line for each in found.held_out] == [1, 2, 3, 4, 5]


def test_prompts_may_be_messages(tmp_path: Path) -> None:
    asked = [{"role": "user", "content": "how long?"}]
    found = read(written(tmp_path, [*[text(n) for n in range(20)], text(21, prompt=asked)]))
    assert asked in [each.prompt.content for each in (*found.train, *found.held_out)]


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ([1], "line 3 is no JSON object"),
        ({"prompt": "secret"}, "line 3 has no `prompt` or no `completion`"),
        ({"completion": "secret"}, "line 3 has no `prompt` or no `completion`"),
        (text(1, completion=" "), "line 3 has no `prompt` or no `completion`"),
        (text(1, held_out="secret"), "line 3: `held_out` is neither 0 nor 1"),
    ],
)
def test_what_is_wrong_is_named_without_its_text(tmp_path: Path, wrong: object, told: str) -> None:
    rows: list[object] = [text(n) for n in range(20)]
    rows[2] = wrong
    with pytest.raises(InputError, match=told) as error:
        read(written(tmp_path, rows))
    assert "secret" not in error.value.message


def test_too_few_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="3 texts, at least 10 are needed"):
        read(written(tmp_path, [text(n) for n in range(3)]))
    with pytest.raises(InputError, match="fewer than 2 texts to train on, or to hold out"):
        read(written(tmp_path, [text(n, held_out=0) for n in range(20)]))
    with pytest.raises(InputError, match="cannot be read"):
        read(tmp_path / "nothing.jsonl")
