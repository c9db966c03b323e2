"""Feedback against the real PostgreSQL: whole, once, by model and time."""

import gzip
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from infra import database as db
from infra import experience, feedback, runs
from infra.errors import InputError
from infra.feedback import Left
from infra.settings import settings
from jobs.dpo.data import check_file
from tasks import feedback as door
from tests.integration.test_runs_and_experience import rows

LONG_AGO = datetime.now(UTC) - timedelta(days=1)


@pytest.fixture
def answers(database: db.Pool) -> list[int]:
    """Numbers of the stored answers of the model `design`."""
    night = runs.begin(database, "nightly-ppo", {"night": 1})
    experience.add_sampled(database, night, "design", "1", rows(4))
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
        {"kind": "comparison", "value": 1},
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
        door.leave(database, "design", [Left(interaction=answers[0], kind="thumb", value=1)])
        assert len(told) == (number + 1) // 3
    name, about = told[0]
    assert name == "feedback.threshold-reached"
    assert about["resource"] == {"prefect.resource.id": "nightshift.model.design"}
    assert about["payload"] == {"model": "design", "feedback": 3}
    door.leave(database, "design", [Left(interaction=answers[0], kind="thumb", value=1)] * 9)
    assert told[-1][1]["payload"]["feedback"] == 16
