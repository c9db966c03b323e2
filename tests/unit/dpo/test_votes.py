"""Votes are never misread: each value means what it says, or is refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from infra.errors import InputError
from jobs.dpo.data import Reading

PAIR = {"prompt": "p", "chosen": "good", "rejected": "bad"}


def read(folder: Path, *rows: dict[str, Any]) -> tuple[list[Any], Reading]:
    path = folder / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    reading = Reading(path, "--dataset")
    return [row for _, row in reading.rows()], reading


def thumb(value: Any, **more: Any) -> dict[str, Any]:
    return {"kind": "thumb", "prompt": "p", "completion": "a", "value": value, **more}


@pytest.mark.parametrize("value", [2, 7, 0, 0.5, "up"])
def test_a_thumb_is_up_or_down(tmp_path: Path, value: Any) -> None:
    with pytest.raises(InputError, match=r"line 1: (?s:.*)value"):
        read(tmp_path, thumb(value))


def test_a_comparison_without_a_value_is_left_out_and_others_are_refused(tmp_path: Path) -> None:
    row = {"kind": "comparison", "prompt": "p", "completion": "a", "against": "b"}
    found, reading = read(tmp_path, row)
    assert not found and reading.skipped == {"comparisons without a value": 1}
    with pytest.raises(InputError, match="comparison's `value`"):
        read(tmp_path, row | {"value": 2})


@pytest.mark.parametrize(
    ("value", "simulated"),
    [("false", False), ("False", False), (0, False), ("", False), (None, False),
     (float("nan"), False), ("true", True), (1, True), (True, True)],
)  # fmt: skip
def test_simulated_means_what_it_says(tmp_path: Path, value: Any, simulated: bool) -> None:
    assert read(tmp_path, PAIR | {"simulated": value})[0][0].simulated is simulated


def test_simulated_is_not_guessed(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="`simulated` is 'perhaps'"):
        read(tmp_path, PAIR | {"simulated": "perhaps"})


@pytest.mark.parametrize("name", [float("nan"), None, "", "nan"])
def test_people_without_a_name_have_none(tmp_path: Path, name: Any) -> None:
    found, _ = read(tmp_path, *[thumb(1, user=name, group=name)] * 3)
    assert [(row.user, row.group) for row in found] == [("", "")] * 3
    assert read(tmp_path, thumb(1, user=7.0))[0][0].user == "7"
