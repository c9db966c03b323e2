"""The buffer of observations on PostgreSQL, and the event that tells of enough."""

import json
from pathlib import Path

import pytest

from infra.database import Pool
from infra.records import observations
from infra.settings import settings
from tasks.surrogate import observations as door


def test_an_observation_is_stored_once_for_its_model(database: Pool, tmp_path: Path) -> None:
    rows = [{"width": 5.0, "heating_front": 80.5}, {"width": 6.0, "heating_front": 70.0}]
    assert observations.newest(database, "house") == 0
    assert observations.add(database, "house", rows) == 2
    assert observations.add(database, "house", [dict(reversed(rows[0].items()))]) == 0
    assert observations.add(database, "office", rows[:1]) == 1
    path, until = tmp_path / "rows.jsonl", observations.newest(database, "house")
    assert observations.export(database, "house", path, 0, until) == 2
    assert [json.loads(line) for line in path.read_text().splitlines()] == rows
    assert observations.export(database, "house", path, 0, until, 1) == 1
    assert json.loads(path.read_text()) == rows[1], "of too many the newest"
    assert observations.export(database, "shed", path, 0, until) == 0
    observations.add(database, "house", [{"width": 7.0}])
    assert observations.count(database, "house", 0, until) == 2, "what came later is not counted"
    assert observations.count(database, "house", until, observations.newest(database, "house")) == 1


def test_an_event_tells_each_time_that_there_is_enough(
    database: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NIGHTSHIFT_OBSERVATION_THRESHOLD", "3")
    settings.cache_clear()
    told = []
    monkeypatch.setattr(door, "emit_event", lambda name, **about: told.append((name, about)))
    for number in range(7):
        assert door.store(database, "house", [{"width": float(number)}]) == 1
        assert len(told) == (number + 1) // 3
    assert door.store(database, "house", [{"width": 0.0}]) == 0
    name, about = told[0]
    assert name == "observations.threshold-reached"
    assert about["resource"] == {"prefect.resource.id": "nightshift.model.house"}
    assert about["payload"] == {"model": "house", "observations": 3}
    assert len(told) == 2
