"""Feedback against the real PostgreSQL: whole, once, by model and time."""

import gzip
import json
import random
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from deployments.cli import cli
from infra import database as db
from infra.errors import InputError
from infra.records import experience, feedback, runs
from infra.records.feedback import Left
from infra.services import prefect_server
from infra.settings import REPOSITORY, settings
from jobs.dpo.data import Feedback, Reading, check_file
from tasks.dpo import feedback as door
from tests.integration.records.test_runs_and_experience import rows

LONG_AGO = datetime.now(UTC) - timedelta(days=1)


@pytest.fixture
def answers(database: db.Pool) -> list[int]:
    """Numbers of the stored answers of the model `design`."""
    night = runs.begin(database, "nightly-ppo", {"night": 1})
    experience.add_sampled(database, night, "design", "1", rows(4), "f")
    with database.connection() as connection:
        return [r["id"] for r in connection.execute("SELECT id FROM interactions ORDER BY id")]


def test_every_kind_is_stored_once_and_comes_back_as_lines(
    database: db.Pool, answers: list[int], tmp_path: Path
) -> None:
    left = [
        Left(interaction=answers[0], kind="thumb", value=1, author="u", key="a"),
        Left(interaction=answers[1], kind="rating", value=4, simulated=True),
        Left(interaction=answers[1], kind="comparison", against=answers[2], value=1),
        Left(interaction=answers[3], kind="correction", correction="a\0b", key="b"),
    ]
    assert feedback.add(database, left) == 4
    assert feedback.add(database, [left[0], left[3]]) == 0, "a key counts once"
    now = datetime.now(UTC)
    assert feedback.count(database, "design", LONG_AGO, now) == 4
    assert feedback.count(database, "other", LONG_AGO, now) == 0
    assert feedback.count(database, "design", now, now + timedelta(hours=1)) == 0
    path = tmp_path / "feedback.jsonl.gz"
    assert feedback.export(database, "design", LONG_AGO, now, path) == 4
    assert check_file(path, "the feedback") == (0, 4)
    with gzip.open(path, "rt") as stream:
        found = [json.loads(line) for line in stream]
    assert found[0]["user"] == "u" and found[1]["simulated"]
    assert (found[2]["completion"], found[2]["against"]) == ("answer 1", "answer 2")
    assert found[3]["correction"] == "a\ufffdb"
    assert found[3]["columns"] == {"target": "3"}


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "thumb"},
        {"kind": "thumb", "value": 2},
        {"kind": "rating", "value": 7},
        {"kind": "comparison", "value": 1},
        {"kind": "comparison"},
        {"kind": "correction"},
        {"kind": "applause", "value": 1},
        {"kind": "thumb", "value": 1, "interaction": 10**9},
    ],
)
def test_feedback_that_is_not_whole_is_refused(database: db.Pool, answers, wrong) -> None:
    with pytest.raises(InputError, match="not whole"):
        feedback.add(database, [Left(**{"interaction": answers[0], **wrong})])
    assert feedback.count(database, "design", LONG_AGO, datetime.now(UTC)) == 0


def test_an_event_tells_each_time_that_there_is_enough(
    database: db.Pool, answers: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NIGHTSHIFT_FEEDBACK_THRESHOLD", "3")
    settings.cache_clear()
    told = []
    monkeypatch.setattr(door, "emit_event", lambda name, **about: told.append((name, about)))
    for number in range(7):
        door.store(database, "design", [Left(interaction=answers[0], kind="thumb", value=1)])
        assert len(told) == (number + 1) // 3
    name, about = told[0]
    assert name == "feedback.threshold-reached"
    assert about["resource"] == {"prefect.resource.id": "nightshift.model.design"}
    assert about["payload"] == {"model": "design", "feedback": 3}
    door.store(database, "design", [Left(interaction=answers[0], kind="thumb", value=1)] * 9)
    assert told[-1][1]["payload"]["feedback"] == 16


LINES = [
    {"kind": "thumb", "prompt": "a gear", "completion": "round", "value": 1, "user": "u1"},
    {"kind": "thumb", "prompt": "a gear", "completion": "square", "value": -1},
    {"kind": "thumb", "prompt": "a gear", "completion": "square", "value": -1},
    {"kind": "rating", "prompt": "a screw", "completion": "short", "value": 2, "group": "g"},
    {"kind": "comparison", "prompt": "a screw", "completion": "long", "against": "short",
     "value": 1},
    {"kind": "correction", "prompt": "a b\0lt", "completion": "nu\0t", "correction": "bo\0lt",
     "simulated": True, "weight": [1, float("nan")], "email": "a@b.example"},
]  # fmt: skip


@pytest.fixture
def take(
    database: db.Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., dict[str, Any]]:
    """take(lines, *options) → what `feedback import` told of a file of these lines."""
    monkeypatch.setattr(prefect_server, "ensure", lambda: "")
    monkeypatch.setattr(prefect_server, "ask", lambda _path: True)

    def run(lines: list[Any], *options: str) -> dict[str, Any]:
        path = tmp_path / "feedback.jsonl.gz"
        texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
        path.write_bytes(gzip.compress("\n".join(texts).encode()))
        command = ["feedback", "import", str(path), "--json", *options]
        result = CliRunner().invoke(cli, command, catch_exceptions=False)
        return json.loads(result.output)

    return run


def stored(database: db.Pool) -> list[list[dict]]:
    with database.connection() as connection:
        answers = connection.execute("SELECT * FROM interactions ORDER BY id").fetchall()
        return [answers, connection.execute("SELECT * FROM feedback ORDER BY id").fetchall()]


def test_a_file_brings_its_answers_along(take, database: db.Pool, tmp_path: Path) -> None:
    told = take(LINES, "--name", "mine")
    assert told["feedback"] == {"thumb": 3, "rating": 1, "comparison": 1, "correction": 1}
    assert (told["new"], told["known"], told["broken"]) == (6, 0, 0)
    answers, _ = stored(database)
    assert len(answers) == 6 and "email" not in str(answers)
    path, now = tmp_path / "feedback.jsonl", datetime.now(UTC)
    assert feedback.export(database, "mine", LONG_AGO, now, path) == 6
    rows = [row for _, row in Reading(path, "the feedback").rows()]
    for line, row in zip(LINES, rows, strict=True):
        assert isinstance(row, Feedback)
        assert row.kind == line["kind"] and row.value == line.get("value")
        assert row.completion == line["completion"].replace("\0", "\ufffd")
        assert (row.user, row.group) == (line.get("user", ""), line.get("group", ""))
    assert rows[4].against == "short"
    assert (rows[5].prompt, rows[5].correction) == ("a b\ufffdlt", "bo\ufffdlt")
    assert rows[5].simulated and rows[5].columns == {"weight": [1, None]}
    assert all("group" not in row.columns for row in rows) and any(row.group for row in rows)
    night = runs.begin(database, "nightly-ppo", {"night": 1})
    assert experience.count_usable(database, night, "mine", ["unknown"], LONG_AGO, "f") == 0


@pytest.mark.parametrize("seed", range(5))
def test_what_is_imported_again_changes_nothing(take, database: db.Pool, seed: int) -> None:
    chance = random.Random(seed)
    lines = [
        {**chance.choice(LINES), "user": chance.choice("uv"), "completion": chance.choice("abc")}
        for _ in range(40)
    ]
    begun = chance.randrange(1, 40)
    assert take(lines[:begun])["new"] == begun
    assert take(lines)["new"] == 40 - begun, "a file that has grown"
    once = stored(database)
    for again in (lines, lines[:begun], chance.sample(lines, 40)):
        assert take(again)["new"] == 0
        assert stored(database) == once
    assert take(lines, "--name", "other")["new"] == 40


def test_a_file_that_is_wrong_stores_nothing(take, database: db.Pool, tmp_path: Path) -> None:
    pair = {"prompt": "p", "chosen": "a", "rejected": "b"}
    chat = {**LINES[0], "prompt": [{"role": "user", "content": "p"}]}
    for lines, said in (
        ([], r"holds no feedback: it is empty"),
        (
            [LINES[0]] * 50 + ["{", {**LINES[3], "value": 6}],
            r"2 of 52 lines(.|\n)*line 51(.|\n)*52",
        ),
        ([LINES[0], pair], r"line 2: a pair(.|\n)*--dataset"),
        ([LINES[0], chat], r"FILE holds prompts that are texts and prompts that are chat"),
    ):
        with pytest.raises(InputError, match=said) as caught:
            take(lines)
        assert caught.value.exit_code == 2
    with pytest.raises(InputError, match="--name"):
        take(LINES, "--name", "no name")
    assert stored(database) == [[], []]
    unclear = {**LINES[4], "against": "long"}
    told = take([LINES[0]] * 100 + ["{", unclear])
    assert (told["new"], told["broken"]) == (100, 1) and "line 101" in told["named"][0]
    assert told["skipped"] == {"comparisons of an answer with itself": 1}


def test_an_import_tells_that_there_is_enough(
    take, database: db.Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NIGHTSHIFT_FEEDBACK_THRESHOLD", "6")
    settings.cache_clear()
    told = []
    monkeypatch.setattr(door, "emit_event", lambda name, **about: told.append((name, about)))
    take(LINES[:5])
    assert not told
    take(LINES)
    take(LINES)
    assert [about["payload"] for _, about in told] == [{"model": "design", "feedback": 6}]


def test_the_example_of_the_page_can_be_copied(take) -> None:
    page = (REPOSITORY / "docs" / "dpo-training.md").read_text()
    lines = re.findall(r'^\{"kind".*\}$', page, re.M)
    kinds = dict.fromkeys(("thumb", "rating", "comparison", "correction"), 2)
    assert take(lines)["feedback"] == kinds
