"""The buffer of observations on PostgreSQL."""

import json
from pathlib import Path

from infra import observations
from infra.database import Pool


def test_an_observation_is_stored_once_for_its_model(database: Pool, tmp_path: Path) -> None:
    rows = [{"width": 5.0, "heating_front": 80.5}, {"width": 6.0, "heating_front": 70.0}]
    assert observations.add(database, "house", rows) == 2
    assert observations.add(database, "house", [dict(reversed(rows[0].items()))]) == 0
    assert observations.add(database, "office", rows[:1]) == 1
    path = tmp_path / "rows.jsonl"
    assert observations.export(database, "house", path) == 2
    assert [json.loads(line) for line in path.read_text().splitlines()] == rows
    assert observations.export(database, "shed", path) == 0
