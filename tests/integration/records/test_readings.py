"""Hourly readings over a real Mosquitto: each hour once, a complete year taken once."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from deployments.mqtt import bridge
from infra import objects
from infra.database import Pool
from infra.records import messages, observations, readings
from jobs.surrogate.config import DESIGN, OBSERVED
from tasks.surrogate import readings as door
from tests.helpers.bridges import bridging, wait_until
from tests.helpers.brokers import open_broker

TOPIC = "nightshift/readings/house/shed"
START = datetime(2023, 3, 1, tzinfo=UTC)
DESCRIPTION = {q.name: (q.low + q.high) / 2 for q in DESIGN} | {"latitude": 48, "longitude": 9}
ROW = {"width": 5.0, "heating_front": 80.5}


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The models of which a year was told to be complete."""
    models: list[str] = []
    monkeypatch.setattr(
        door, "emit_event", lambda _, payload, **__: models.append(payload["model"])
    )
    return models


def reading(number: int, **measured: float) -> dict[str, Any]:
    time = (START + timedelta(hours=number)).astimezone().isoformat()
    return {"time": time} | (measured or {"dry_bulb": number / 1000})


def take(pool: Pool, content: object, topic: str = TOPIC) -> None:
    bridge.receive(pool, topic, json.dumps(content).encode())


def fill(pool: Pool, count: int) -> None:
    """The first hours, as fast as the database can."""
    with pool.connection() as connection:
        connection.execute("INSERT INTO buildings (model, name) VALUES ('house', 'shed')")
        connection.execute(
            "INSERT INTO readings SELECT 'house', 'shed', %s + n * interval '1 hour',"
            " jsonb_build_object('dry_bulb', n / 1000.0) FROM generate_series(0, %s) AS n",
            [START, count - 1],
        )


def test_an_hour_is_stored_once_whatever_comes_again(
    database: Pool, tmp_path: Path, told: list[str]
) -> None:
    hours = [(TOPIC, json.dumps(reading(n))) for n in range(50)]
    late = (TOPIC, json.dumps(reading(7, wind_speed=2.5)))
    with open_broker(tmp_path) as broker, bridging(tmp_path, broker.url) as running:
        broker.publish(*hours, (TOPIC, json.dumps(DESCRIPTION)))
        running.kill()  # in the middle of them
        broker.publish(*reversed(hours), late)
        running.start()
        wait_until(lambda: {"dry_bulb": 0.007, "wind_speed": 2.5} in measured(database), running)
    assert len(measured(database)) == 50 and messages.count(database) == {}
    (shed,) = readings.summary(database)
    assert (shed["described"], shed["hours"], shed["first"]) == (True, 50, START)


def measured(pool: Pool) -> list[dict[str, float]]:
    return [values for _, values in readings.hours(pool, "house", "shed", START)]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (reading(0) | {"time": "2023-03-01T10:00"}, "time"),
        (reading(0) | {"time": "2023-03-01T10:20+01:00"}, "no whole hour"),
        (reading(0) | {"time": "2999-01-01T00:00Z"}, "in the future"),
        (reading(0, colour=3), "colour"),
        (reading(0, dry_bulb="warm"), "dry_bulb"),
        ({"time": "2023-03-01T10:00+01:00"}, "nothing was measured"),
        (DESCRIPTION | {"latitude": 148}, "latitude"),
        ({"width": 5.0}, "latitude: Field required"),
        ([], "the reading"),
    ],
)
def test_what_does_not_fit_is_refused(database: Pool, content: Any, reason: str) -> None:
    take(database, content)
    (refused,) = messages.newest(database, "refused", 9)
    assert reason in refused["error"]
    assert readings.summary(database) == []


def test_a_building_must_have_a_name(database: Pool) -> None:
    take(database, reading(0), "nightshift/readings/house/..")
    (refused,) = messages.newest(database, "refused", 9)
    assert "'..' is no name of a building" in refused["error"]


def test_the_hour_after_a_year_tells_once_and_the_year_is_taken_once(
    database: Pool, told: list[str], tmp_path: Path
) -> None:
    fill(database, 8759)
    take(database, DESCRIPTION)
    take(database, reading(8759))
    assert told == [] and door.store_years(database, "house") is None
    take(database, reading(8760))
    take(database, reading(8761))
    assert told == ["house"]

    stored = door.store_years(database, "house")
    assert stored is not None and door.store_years(database, "house") == stored
    (file,) = objects.get(stored.uri, tmp_path / "years").iterdir()
    verdict = {"file": "shed@20230301T0000.csv", "row": ROW}
    assert file.name == verdict["file"]
    text = file.read_text().splitlines()
    assert len(text) == 8761 and text[0].split(",")[: 1 + len(OBSERVED)] == ["time"] + [
        q.name for q in OBSERVED
    ]
    assert text[8].startswith("2023-03-01T07:00+00:00,,,,,,,0.007,,,,48")
    for _ in range(2):  # a run that was killed does it again
        assert door.store_verdicts(database, "house", [verdict])[1] == []
    assert observations.count(database, "house", 0, 9) == 1
    assert door.store_years(database, "house") is None
    (shed,) = readings.summary(database)
    assert (shed["hours"], shed["first"]) == (2, START + readings.YEAR), "the next year goes on"


def test_a_year_that_was_refused_is_tried_again_from_later_on(
    database: Pool, told: list[str]
) -> None:
    fill(database, 8761)
    assert door.store_years(database, "house") is None
    assert readings.summary(database)[0]["refused"] == "no description of it came"
    take(database, DESCRIPTION)
    assert told == ["house"] and readings.summary(database)[0]["refused"] is None
    error = {"file": "shed@20230301T0000.csv", "error": "wind_speed lacks 100.0%"}
    assert door.store_verdicts(database, "house", [error]) == (
        0,
        ["shed, from 2023-03-01: wind_speed lacks 100.0%"],
    )
    (shed,) = readings.summary(database)
    assert (shed["first"], shed["refused"]) == (START + readings.LATER, error["error"])
    take(database, reading(8760 + 720))
    assert told == ["house", "house"]


def test_old_messages_are_pruned_but_none_that_waits(database: Pool) -> None:
    for number, topic in enumerate(["nightshift/events/a", "elsewhere"] * 2):
        take(database, number, topic)
    with database.connection() as connection:
        connection.execute(
            "UPDATE mqtt_messages SET received_at = now() - interval '31 days'"
            " WHERE payload IN ('0', '1')"
        )
    assert messages.prune(database, timedelta(days=30)) == 1
    assert messages.count(database) == {"refused": 1, "waiting": 2}
