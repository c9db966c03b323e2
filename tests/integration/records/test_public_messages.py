"""Messages as sensors were seen to send them: the cases of ../shared/data/public-cases."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from deployments.commands.mqtt import check
from deployments.mqtt import bridge
from deployments.mqtt.mapping import read
from infra.database import Pool
from infra.errors import SettingsError
from infra.records import messages
from infra.settings import REPOSITORY, settings
from tasks.surrogate import readings as door

CASES = REPOSITORY.parent / "shared" / "data" / "public-cases"
NAMES = sorted(path.name for path in CASES.glob("mqtt-*"))
TOPICS = {"mqtt-binary": "nightshift/events/plant"}
STORED = {
    "mqtt-half-hour-zone": ["2026-01-31T08:30", "2026-01-31T09:30"],
    "mqtt-epoch-milliseconds": ["2026-01-31T13:00"],
}
REFUSED = {
    "mqtt-binary": "no JSON",
    "mqtt-comma-decimal": "no JSON",
    "mqtt-disconnected-127": "dry_bulb",
    "mqtt-empty-retained": "no JSON",
    "mqtt-naive-time": "time",
    "mqtt-null-value": "nothing was measured",
    "mqtt-shelly": "NIGHTSHIFT_MQTT_MAPPING",
    "mqtt-zigbee2mqtt": "time: an hour's reading has it",
}


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> None:
    """A time after that of the cases, wherever the clock of this machine stands."""
    monkeypatch.setattr(door, "AHEAD", timedelta(days=36500))
    monkeypatch.setattr(door, "emit_event", lambda *_, **__: None)


def hours(pool: Pool) -> list[str]:
    with pool.connection() as connection:
        rows: list[Any] = connection.execute("SELECT hour FROM readings ORDER BY hour").fetchall()
    return [f"{row['hour'].astimezone(UTC):%Y-%m-%dT%H:%M}" for row in rows]


@pytest.mark.skipif(not NAMES, reason="needs ../shared/data/public-cases")
@pytest.mark.parametrize("name", NAMES)
def test_a_public_message_has_its_right_outcome(database: Pool, now: None, name: str) -> None:
    topic = TOPICS.get(name, "nightshift/readings/house/shed")
    content = (CASES / name / "messages.jsonl").read_bytes()
    whole = name in ("mqtt-binary", "mqtt-empty-retained")
    for line in [content.strip()] if whole else content.splitlines():
        bridge.receive(database, topic, line)
    assert hours(database) == STORED.get(name, [])
    errors = [row["error"] for row in messages.newest(database, "refused", 10)]
    assert bool(errors) == (name in REFUSED) and all(REFUSED[name] in one for one in errors)


MAPPING = """
nightshift/readings/house/z2m:
  time: "{{ data.last_seen[:13] }}:00{{ data.last_seen[19:] }}"
  temperature_front: "{{ data.temperature }}"
nightshift/readings/+/shelly:
  time: "{{ hour }}"
  temperature_front: "{{ data.tC }}"
"""


def test_a_mapping_takes_what_sensors_name_otherwise(
    database: Pool, now: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "mapping.yaml"
    file.write_text(MAPPING)
    monkeypatch.setenv("NIGHTSHIFT_MQTT_MAPPING", str(file))
    settings.cache_clear()
    try:
        seen = b'{"temperature": 21.6, "last_seen": "2026-01-31T14:07:09+01:00", "battery": 100}'
        bridge.receive(database, "nightshift/readings/house/z2m", seen)
        bridge.receive(database, "nightshift/readings/house/shelly", b'{"id": 0, "tC": 21.3}')
        bridge.receive(database, "nightshift/readings/house/shelly", b'{"id": 0, "tC": -127}')
        bridge.receive(database, "nightshift/readings/house/shelly", b'{"id": 0}')
        first, second = hours(database)
        assert first == "2026-01-31T13:00" and second.endswith(":00")
        errors = [row["error"] for row in messages.newest(database, "refused", 10)]
        assert len(errors) == 2 and "tC" in errors[0] and "temperature_front" in errors[1]
        file.write_text("nightshift/readings/house/z2m: [time]")
        read.cache_clear()
        with pytest.raises(SettingsError, match=r"NIGHTSHIFT_MQTT_MAPPING.*house/z2m"):
            read(file)
        monkeypatch.setenv("NIGHTSHIFT_MQTT_BROKER", "mqtt://127.0.0.1")
        settings.cache_clear()
        with pytest.raises(SettingsError, match="NIGHTSHIFT_MQTT_MAPPING"):
            check()
    finally:
        monkeypatch.undo()
        settings.cache_clear()
        read.cache_clear()


@pytest.mark.parametrize(
    ("measured", "named"),
    [("dry_bulb", -127.0), ("dry_bulb", 85.0), ("temperature_front", 293.15), ("wind_speed", -1)],
)
def test_what_no_air_has_is_refused(database: Pool, now: None, measured: str, named: float) -> None:
    time = datetime(2026, 1, 31, 13, tzinfo=UTC).isoformat()
    with pytest.raises(door.InputError, match=measured):
        door.store_reading(database, "house", "shed", {"time": time, measured: named})
    assert hours(database) == []
