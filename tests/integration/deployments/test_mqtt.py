"""The MQTT bridge against a real Mosquitto and a PostgreSQL of its own, killed and restarted."""

import datetime
import ipaddress
import json
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from paho.mqtt.client import Client, MQTTv311
from paho.mqtt.enums import CallbackAPIVersion
from pydantic import ValidationError

from deployments.mqtt import bridge
from infra import database as db
from infra.database.embedded import USER, Postgres
from infra.keeper import free_port
from infra.records import messages
from infra.settings import Settings, settings
from tests.helpers.bridges import (
    EVENTS,
    IMPATIENT,
    OBSERVED,
    READINGS,
    BridgeProcess,
    batch,
    bridging,
    events,
    loads,
    observed,
    wait_until,
)
from tests.helpers.brokers import Broker, building_year, open_broker
from tests.helpers.debian import program


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    with open_broker(tmp_path) as opened:
        yield opened


def test_messages_while_the_bridge_is_killed_are_stored_once(
    database: db.Pool, broker: Broker, tmp_path: Path
) -> None:
    with bridging(tmp_path, broker.url) as running:
        for first in (0, 200):
            broker.publish(*batch(range(first, first + 100)))
            running.kill()  # in the middle of them
            assert len(observed(database)) < first + 100, "it was not idle when it was killed"
            broker.publish(*batch(range(first + 100, first + 200)))
            running.start()
        wait_until(lambda: len(events(database)) == 400, running)
    assert sorted(observed(database)) == loads(range(400))
    assert sorted(events(database)) == list(range(400))


def deliveries(pool: db.Pool, expected: int) -> list[bool]:
    """Store, but do not acknowledge, what the broker sends until so much has come, and for a second
    more; which of it came as a repetition."""
    taken: list[bool] = []

    def store_only(_client: Client, _data: object, message: Any) -> None:
        bridge.receive(pool, message.topic, message.payload)
        taken.append(message.dup)

    client = bridge.connect(pool)
    client.on_message = store_only
    client.reconnect()
    deadline = time.monotonic() + 60
    while len(taken) < expected and time.monotonic() < deadline:
        client.loop(0.1)
    end = time.monotonic() + 1
    while time.monotonic() < end:
        client.loop(0.1)
    client.disconnect()
    return taken


def test_what_was_stored_but_not_acknowledged_comes_again_and_is_stored_once(
    database: db.Pool, broker: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NIGHTSHIFT_MQTT_BROKER", broker.url)
    settings.cache_clear()
    assert deliveries(database, 0) == []
    broker.publish(*batch(range(3)))
    assert deliveries(database, 6) == [False] * 6
    assert deliveries(database, 6) == [True] * 6
    with bridging(tmp_path, broker.url) as running:
        assert "and what waited there" in running.log()
        broker.publish((EVENTS, json.dumps({"count": 3})))
        wait_until(lambda: len(events(database)) == 4, running)
        broker.publish((EVENTS, json.dumps({"count": 4})))
        wait_until(lambda: len(events(database)) == 5, running)
    assert observed(database) == loads(range(3)) and events(database) == [0, 1, 2, 3, 4]
    left = deliveries(database, 0)  # the last may have been stored as the bridge was ended
    assert len(left) <= 1, "the bridge has acknowledged what came before the last"


def test_it_comes_back_when_the_broker_does(
    database: db.Pool, broker: Broker, tmp_path: Path
) -> None:
    with bridging(tmp_path, broker.url) as running:
        broker.publish(*batch(range(10)))
        broker.stop()
        time.sleep(1)
        broker.start()
        broker.publish(*batch(range(10, 20)))
        wait_until(lambda: len(events(database)) == 20, running)
        assert running.process is not None and running.process.poll() is None
    assert sorted(observed(database)) == loads(range(20))


def test_messages_wait_while_the_database_is_away(
    broker: Broker, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = Postgres(tmp_path / "postgres")
    server.folder.mkdir()
    where = f"host={server._sockets()}&passfile={server.passfile}"
    monkeypatch.setenv("NIGHTSHIFT_DATABASE_URL", f"postgresql://{USER}@/nightshift?{where}")
    settings.cache_clear()
    process = start(server)
    try:
        with bridging(tmp_path, broker.url, IMPATIENT) as running:
            broker.publish(*batch(range(10)))
            wait_until(lambda: "takes" in running.log(), running)
            process.send_signal(signal.SIGINT)
            process.wait(timeout=30)
            broker.publish(*batch(range(10, 20)))
            wait_until(lambda: "a message waits" in running.log(), running)
            process = start(server)
            pool = db.pool()
            wait_until(lambda: len(events(pool)) == 20, running)
            assert sorted(observed(pool)) == loads(range(20))
    finally:
        db.close()
        process.send_signal(signal.SIGINT)
        process.wait(timeout=30)


def start(server: Postgres) -> subprocess.Popen[bytes]:
    process = server.start()
    deadline = time.monotonic() + 30
    while server.address() is None:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return process


BAD = [
    (OBSERVED, b"\xff\xfe", "no JSON"),
    (OBSERVED, b"[" * 100_000, "no JSON"),
    (OBSERVED, json.dumps(building_year(0) | {"width": -3}), "width"),
    (OBSERVED, json.dumps(building_year(0) | {"width": "8"}), "width"),
    (OBSERVED, json.dumps(building_year(0) | {"heating_setpoint": 293.15}), "heating_setpoint"),
    (OBSERVED, json.dumps(building_year(0) | {"gains": float("nan")}), "gains"),
    (OBSERVED, json.dumps(building_year(0) | {"colour": 3.0}), "colour"),
    (OBSERVED, json.dumps({"heating_front": 50.0}), "width: Field required"),
    (OBSERVED, json.dumps(building_year(0) | {"heating_front": None}), "none of heating_front"),
    ("nightshift/observations/-house", json.dumps(building_year(0)), "no name"),
    (EVENTS, b"", "no JSON"),
    (EVENTS, json.dumps({"text": "a\0b"}), "NUL"),
    (EVENTS, b'{"x": NaN}', "cannot be stored"),
    (EVENTS, b"[" * 600 + rb'"\u0000"' + b"]" * 600, "nested deeper than 100"),
    (EVENTS, b"[" * 300 + b"1" + b"]" * 300, "nested deeper than 100"),
    (EVENTS, b'"' + b"x" * 1_000_001 + b'"', "more than 1000000 bytes"),
    (READINGS, rb'{"time": "2026-01-31T14:00Z", "\u0000": 1}', "not permitted"),
    (READINGS, rb'{"time": "2026-01-31T14:00Z", "\ud800": 1}', "unicode"),
    (READINGS, '{"time": "0001-01-01T00:00+01:00", "dry_bulb": 1}', "before 2001"),
    (READINGS, '{"time": "0001-01-01T00:00Z", "dry_bulb": 1}', "before 2001"),
    (READINGS, '{"time": 3600, "dry_bulb": 1}', "before 2001"),
    (READINGS, '{"time": "2026-01-31T14:00Z", "dry_bulb": 1, "dry_bulb": 20}', "there twice"),
    (READINGS, "21.5", "NIGHTSHIFT_MQTT_MAPPING"),
]


def test_what_does_not_fit_is_kept_with_its_reason_and_nothing_waits_behind_it(
    database: db.Pool, broker: Broker, tmp_path: Path
) -> None:
    with bridging(tmp_path, broker.url) as running:
        for topic, payload, _ in [*BAD, *BAD[:2]]:
            broker.publish((topic, payload))
        broker.publish(*batch(range(1)))
        wait_until(lambda: len(events(database)) == 1, running)
    assert observed(database) == loads(range(1))
    refused = messages.newest(database, "refused", 100)
    assert messages.count(database) == {"refused": len(BAD), "waiting": 1}
    for row, (topic, _, reason) in zip(reversed(refused), BAD, strict=True):
        assert row["topic"] == topic and reason in row["error"], (row["error"], reason)
        assert reason in running.log()


def test_events_are_the_same_by_id_or_by_content(database: db.Pool) -> None:
    for payload in ({"id": "a", "x": 1}, {"id": "a", "x": 2}, {"id": "b", "x": 1}, {"x": 1}):
        for topic in (EVENTS, EVENTS + "/2"):
            bridge.receive(database, topic, json.dumps(payload).encode())
            bridge.receive(database, topic, json.dumps(payload).encode())
    assert messages.count(database) == {"waiting": 6}
    for number in (1, 2):
        bridge.receive(database, EVENTS, json.dumps({"id": "", "x": number}).encode())
    assert messages.count(database) == {"waiting": 8}
    bridge.receive(database, "elsewhere", b"1")
    (refused,) = messages.newest(database, "refused", 9)
    assert refused["error"] == "no setting says what this topic is"


def test_a_message_that_breaks_us_is_kept_and_acknowledged(
    database: db.Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_content: object) -> str:
        raise KeyError("of ours")

    tracebacks: list[str] = []
    monkeypatch.setattr(bridge, "storable", broken)
    monkeypatch.setattr(bridge.log, "exception", lambda *words: tracebacks.append(words[0]))
    bridge.receive(database, EVENTS, b"1")
    (refused,) = messages.newest(database, "refused", 9)
    assert refused["error"] == "KeyError: 'of ours'" and len(tracebacks) == 1


def test_one_event_that_cannot_be_told_keeps_no_other_waiting(database: db.Pool) -> None:
    class Prefect:
        told: list[Any] = []  # noqa: RUF012
        answer = httpx.Response(200, text="<html>Please log in</html>")

        def request(self, _method: str, _path: str, json: list[Any]) -> httpx.Response:
            self.told += json
            return self.answer

    prefect: Any = Prefect()
    messages.store(database, EVENTS, b"[" * 300 + b"1" + b"]" * 300)  # stored by an older version
    bridge.receive(database, EVENTS, b"2")
    bridge.deliver(database, prefect)
    assert messages.count(database) == {"refused": 1, "waiting": 1}
    (waiting,) = messages.newest(database, "waiting", 9)
    assert "not Prefect: 200 <html>" in waiting["error"]
    prefect.answer = httpx.Response(204)
    bridge.deliver(database, prefect)
    assert messages.count(database) == {"refused": 1, "told": 1}
    assert [event["payload"]["data"] for event in prefect.told] == [2, 2]


def certified(folder: Path) -> Path:
    """A certificate for 127.0.0.1 that is its own authority, beside its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "broker")])
    now = datetime.datetime.now(datetime.UTC)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem, raw = serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL
    (folder / "broker.pem").write_bytes(made.public_bytes(pem))
    (folder / "broker.key").write_bytes(key.private_bytes(pem, raw, serialization.NoEncryption()))
    return folder / "broker.pem"


def test_tls_and_a_password(database: db.Pool, tmp_path: Path) -> None:
    certificate = certified(tmp_path)
    passwords = tmp_path / "passwords"
    maker = program("mosquitto_passwd", "mosquitto")
    subprocess.run([maker, "-c", "-b", passwords, "sensors", "opensesame"], check=True)
    secure = Broker(tmp_path)
    behind_tls = free_port()
    more = f"allow_anonymous false\npassword_file {passwords}\nlistener {behind_tls} 127.0.0.1"
    secure.more = f"{more}\ncertfile {certificate}\nkeyfile {tmp_path / 'broker.key'}"
    secure.start()
    url = f"mqtts://127.0.0.1:{behind_tls}"
    given = {
        "NIGHTSHIFT_MQTT_AUTHORITY": str(certificate),
        "NIGHTSHIFT_MQTT_USERNAME": "sensors",
        "NIGHTSHIFT_MQTT_PASSWORD": "opensesame",
    }
    wrong = start_beside(tmp_path / "wrong", url, given | {"NIGHTSHIFT_MQTT_PASSWORD": "guess"})
    strange = start_beside(
        tmp_path / "strange", url, given | {"NIGHTSHIFT_MQTT_AUTHORITY": str(passwords)}
    )
    try:
        with bridging(tmp_path, url, **given) as running:
            sensor = Client(CallbackAPIVersion.VERSION2, protocol=MQTTv311)
            sensor.username_pw_set("sensors", "opensesame")
            sensor.tls_set(str(certificate))
            sensor.connect("127.0.0.1", behind_tls)
            sensor.loop_start()
            sensor.publish(EVENTS, '{"count": 7}', qos=1).wait_for_publish(10)
            sensor.disconnect()
            sensor.loop_stop()
            wait_until(lambda: events(database) == [7], running)
        wait_until(lambda: "refuses: Not authorized" in wrong.log(), wrong)
        wait_until(lambda: "NIGHTSHIFT_MQTT_AUTHORITY" in strange.log(), strange)
    finally:
        wrong.kill(signal.SIGTERM)
        strange.kill(signal.SIGTERM)
        secure.stop()
    said = running.log() + wrong.log() + strange.log()
    assert "opensesame" not in said and "guess" not in said


def start_beside(folder: Path, url: str, given: dict[str, str]) -> BridgeProcess:
    """A bridge that is to be refused, beside one that is not."""
    folder.mkdir()
    bridge = BridgeProcess(folder, url, given | {"NIGHTSHIFT_MQTT_CLIENT": folder.name})
    bridge.start()
    return bridge


def test_two_bridges_of_one_client_id_are_one_too_many(
    database: db.Pool, broker: Broker, tmp_path: Path
) -> None:
    with bridging(tmp_path, broker.url):
        second = BridgeProcess(tmp_path, broker.url, {})
        second.start()
        assert second.process is not None and second.process.wait(timeout=60) == 9
        assert "another process is running the MQTT bridge" in second.log()


def test_a_bridge_whose_lock_another_has_taken_ends(
    database: db.Pool, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its connection was lost; the keeper starts another, which is refused as long."""
    ends, turns = [], []

    def deliver(*_: object) -> bool:
        turns.append(1)
        if len(turns) > 3:
            raise SystemExit
        return False

    monkeypatch.setattr(bridge, "deliver", deliver)
    monkeypatch.setattr(bridge, "get_client", lambda **_: nullcontext())
    monkeypatch.setattr(bridge, "PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(bridge, "LOCK_SECONDS", 0, raising=False)
    monkeypatch.setattr(bridge.os, "_exit", ends.append)
    what = f"the MQTT bridge {settings().mqtt_client}"
    with db.exclusive(what), ExitStack() as held:
        with database.connection() as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
                " WHERE application_name = 'nightshift lock' AND datname = current_database()"
            )
        with monkeypatch.context() as patch:
            patch.setenv("NIGHTSHIFT_HOME", str(home.parent / "elsewhere"))
            settings.cache_clear()
            held.enter_context(db.exclusive(what))
        settings.cache_clear()
        bridge._deliver_or_die(database)
    assert ends == [1] and turns == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"mqtt_broker": "mqtt://broker.example"},
        {"mqtt_broker": "mqtts://user:secret@broker.example"},
        {"mqtt_broker": "http://127.0.0.1"},
        {"mqtt_broker": "mqtt://127.0.0.1:99999"},
        {"mqtt_observations": "a/b"},
        {"mqtt_observations": "a/+/#"},
    ],
)
def test_settings_that_cannot_be_meant(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Settings(**wrong)
