"""The gateway as a process on the real PostgreSQL, its Prefect server away."""

import hashlib
import hmac
import json
import socket
import ssl
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from deployments.webhooks import gateway
from infra import database as db
from infra.database import Pool
from infra.errors import InputError, SettingsError
from infra.hooks import Hook, deliveries, secrets
from infra.settings import settings
from tests.helpers.doors import Door, make_hook, open_door, signed
from tests.helpers.users import reachable_folder

NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""Without it httpx reads all the system's certificates for each request."""
BODY = '{"type": "new", "data": {"name": "gears"}}'


@pytest.fixture(scope="module")
def door(postgres: str) -> Iterator[Door]:
    """One gateway and its database for all tests, each with a hook of its own."""
    with reachable_folder() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("NIGHTSHIFT_HOME", str(folder))
        patch.setenv("NIGHTSHIFT_DATABASE_URL", postgres.format("test_gateway"))
        settings.cache_clear()
        secrets.decrypt.cache_clear()
        with open_door(folder) as opened:
            yield opened
    settings.cache_clear()


@dataclass
class Slow:
    """What became of senders that send too slowly: what they heard, and after how many seconds."""

    headers: bytes
    body: bytes
    seconds: float


@pytest.fixture(scope="module", autouse=True)
def slow(door: Door) -> Iterator["Future[Slow]"]:
    """They begin before the other tests, which so see that they keep nobody waiting."""
    with ThreadPoolExecutor(1) as thread:
        yield thread.submit(send_slowly, door)


def send_slowly(door: Door) -> Slow:
    begun = time.monotonic()
    head = b"POST /hooks/x HTTP/1.1\r\nHost: x\r\n"
    with (
        socket.create_connection(("127.0.0.1", door.port)) as headers,
        socket.create_connection(("127.0.0.1", door.port)) as body,
        socket.create_connection(("127.0.0.1", door.port)) as endless,
    ):
        headers.sendall(head)
        body.sendall(head + b"Content-Length: 10\r\n\r\n{")
        with pytest.raises(OSError):
            for _ in range(10_000):
                endless.sendall(b"X-Long: " + b"x" * 8000 + b"\r\n" if _ else head)
                time.sleep(0.001)
        assert httpx.get(f"{door.url}/health", timeout=5).json() is True
        headers.settimeout(20)
        body.settimeout(20)
        return Slow(headers.recv(1000), body.recv(1000), time.monotonic() - begun)


@pytest.fixture
def pool(door: Door) -> Iterator[Pool]:
    yield db.pool()
    db.close()


def post(door: Door, path: str, body: str | bytes, headers: dict[str, str]) -> httpx.Response:
    return httpx.post(f"{door.url}{path}", content=body, headers=headers, timeout=30, verify=NO_TLS)


def stored(pool: Pool, hook: Hook) -> list[dict[str, Any]]:
    return deliveries.newest(pool, hook.name, 10_000)


def known(door: Door, secret: str, name: str) -> None:
    """Wait until the gateway has read the hook: at most a second."""
    deadline = time.monotonic() + 5
    while post(door, f"/hooks/{name}", "x", signed(secret, "x")).status_code == 401:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_the_life_of_a_delivery(door: Door, pool: Pool) -> None:
    hook = make_hook(pool)
    secret = hook.secret.get_secret_value()
    known(door, secret, hook.name)
    headers = signed(secret, BODY)
    first = post(door, f"/hooks/{hook.name}", BODY, headers)
    assert first.status_code == 202, first.text
    (row,) = stored(pool, hook)
    assert str(row["id"]) == first.json()["delivery"]
    assert row["parameters"] == {"name": "gears"} and row["key"] == headers["webhook-id"]

    again = post(door, f"/hooks/{hook.name}", BODY, headers)
    assert (again.status_code, again.content) == (202, first.content)
    later = post(door, f"/hooks/{hook.name}", BODY, signed(secret, BODY, headers["webhook-id"]))
    assert later.content == first.content and len(stored(pool, hook)) == 1

    url = first.json()["status"]
    shown = httpx.get(url, headers={"authorization": f"Bearer {secret}"})
    assert shown.status_code == 200 and shown.json()["state"] == "waiting"
    unknown = f"{door.url}/deliveries/{uuid4()}"
    refusals = {
        httpx.get(url).content,
        httpx.get(url, headers={"authorization": "Bearer nonsense"}).content,
        httpx.get(unknown, headers={"authorization": f"Bearer {secret}"}).content,
        httpx.get(f"{door.url}/deliveries/x").content,
    }
    assert refusals == {b'{"error":"not found"}'}
    replayed = deliveries.replay(pool, UUID(first.json()["delivery"]))
    assert {row["id"] for row in stored(pool, hook)} == {replayed, row["id"]}
    with pytest.raises(InputError):
        deliveries.replay(pool, uuid4())
    with pool.connection() as connection:
        actions = connection.execute(
            "SELECT action FROM hook_audit WHERE hook = %s ORDER BY id", [hook.name]
        ).fetchall()
    assert [one["action"] for one in actions] == ["create", "replay"]


def test_every_refusal_is_the_same_and_stores_nothing(door: Door, pool: Pool) -> None:
    hook = make_hook(pool)
    secret = hook.secret.get_secret_value()
    known(door, secret, hook.name)
    path = f"/hooks/{hook.name}"
    old = signed(secret, BODY, age=timedelta(minutes=6))
    answers = [
        post(door, path, BODY, {}),
        post(door, path, BODY, signed(secrets.fresh(), BODY)),
        post(door, path, BODY + " ", signed(secret, BODY)),
        post(door, path, BODY[:-1], signed(secret, BODY)),
        post(door, path, BODY, old),
        post(door, "/hooks/no-such-hook", BODY, signed(secret, BODY)),
        post(door, path + "/nightly-ppo", BODY, signed(secret, BODY)),
        post(door, path + "/no-such-flow", BODY, signed(secret, BODY)),
    ]
    assert {(one.status_code, one.content) for one in answers} == {
        (401, b'{"error":"not authorised"}')
    }
    assert stored(pool, hook) == []
    assert '"because": "Message timestamp too old"' in door.log()
    assert secret not in door.log()


def test_one_event_starts_one_flow_of_a_hook(door: Door, pool: Pool) -> None:
    hook = make_hook(pool, flows=["build-preferences", "dpo-training"])
    secret = hook.secret.get_secret_value()
    known(door, secret, hook.name)
    headers = signed(secret, BODY)
    codes = []
    for path in ("", "/dpo-training", "/build-preferences"):
        answer = post(door, f"/hooks/{hook.name}{path}", BODY, headers)
        codes.append(answer.status_code)
        if answer.status_code == 400:
            assert answer.json()["field"] == "flow" and "build-preferences" in answer.text
    assert codes == [202, 400, 202] and len(stored(pool, hook)) == 1


def test_long_names_of_hooks_do_not_fill_the_log(door: Door) -> None:
    assert post(door, f"/hooks/{'x' * 20_000}", BODY, {}).status_code == 401
    assert len(door.log().splitlines()[-1]) < 300


def test_fields_rates_sizes(door: Door, pool: Pool) -> None:
    hook = make_hook(pool, per_minute=4)
    secret = hook.secret.get_secret_value()
    known(door, secret, hook.name)  # takes the first of four
    path = f"/hooks/{hook.name}"
    wrong = '{"data": {"data_hours": 1000}}'
    answer = post(door, path, wrong, signed(secret, wrong))
    assert answer.status_code == 400 and answer.json()["field"] == "data_hours"
    large = json.dumps({"data": {"name": "x" * 1_000_001}})
    assert post(door, path, large, signed(secret, large)).status_code == 413
    codes = [post(door, path, BODY, signed(secret, BODY)).status_code for _ in range(3)]
    assert codes == [202, 202, 429]
    limited = post(door, path, BODY, signed(secret, BODY))
    assert 0 < int(limited.headers["retry-after"]) <= 15
    assert len(stored(pool, hook)) == 2
    lines = [line for line in door.log().splitlines() if f'"refused": "{hook.name}"' in line]
    told = [json.loads(line[line.index("{") :])["because"] for line in lines]
    assert told[-3:-1] == ["the body has more than 1000000 bytes", "rate limit"]
    assert "the field data_hours is wrong" in told and secret not in door.log()


def test_github_pings_and_pushes_with_a_mapping(door: Door, pool: Pool) -> None:
    mapping = {"name": "{{ body.repository.name }}"}
    hook = make_hook(pool, form="github", mapping=mapping)
    secret = hook.secret.get_secret_value()
    body = '{"repository": {"name": "gears"}}'
    digest = hmac.new(secret.encode(), body.encode(), hashlib.sha256).hexdigest()
    headers = {"x-hub-signature-256": f"sha256={digest}", "x-github-delivery": "1"}
    deadline = time.monotonic() + 5
    ping = headers | {"x-github-event": "ping"}
    while (answer := post(door, f"/hooks/{hook.name}", body, ping)).status_code != 200:
        assert time.monotonic() < deadline
    assert answer.json() == {"pong": True} and stored(pool, hook) == []
    first = post(door, f"/hooks/{hook.name}", body, headers | {"x-github-event": "push"})
    replay = post(door, f"/hooks/{hook.name}", body, headers | {"x-github-delivery": "2"})
    assert first.status_code == 202 and first.content == replay.content
    (row,) = stored(pool, hook)
    assert row["parameters"] == {"name": "gears"}


def test_a_burst_becomes_one_run_with_the_newest_parameters(door: Door, pool: Pool) -> None:
    hook = make_hook(pool, debounce=timedelta(seconds=2))
    secret = hook.secret.get_secret_value()
    known(door, secret, hook.name)

    def send(number: int) -> int:
        body = json.dumps({"data": {"name": f"n{number}"}})
        return post(door, f"/hooks/{hook.name}", body, signed(secret, body)).status_code

    with ThreadPoolExecutor(8) as senders:
        assert set(senders.map(send, range(40))) == {202}
    assert send(99) == 202
    rows = stored(pool, hook)
    assert len(rows) == 41 and len({row["run"] for row in rows}) == 1
    assert rows[0]["parameters"] == {"name": "n99"} and rows[0]["state"] == "gathering"
    deadline = time.monotonic() + 10
    while stored(pool, hook)[0]["state"] == "gathering":
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert send(100) == 202
    assert len({row["run"] for row in stored(pool, hook)}) == 2, "a closed run takes no more"


def test_without_a_database_nothing_is_accepted(door: Door, pool: Pool) -> None:
    hook = make_hook(pool)
    secret = hook.secret.get_secret_value()
    known(door, secret, hook.name)
    with pool.connection() as connection:
        connection.execute("ALTER TABLE webhook_deliveries RENAME TO gone")
    headers = signed(secret, BODY)
    answer = post(door, f"/hooks/{hook.name}", BODY, headers)
    assert answer.status_code == 503 and answer.headers["retry-after"]
    with pool.connection() as connection:
        connection.execute("ALTER TABLE gone RENAME TO webhook_deliveries")
    assert post(door, f"/hooks/{hook.name}", BODY, headers).status_code == 202
    with pool.connection() as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    deadline = time.monotonic() + 20
    while post(door, f"/hooks/{hook.name}", BODY, signed(secret, BODY)).status_code != 202:
        assert time.monotonic() < deadline
    assert len(stored(pool, hook)) == 2


@pytest.mark.parametrize("trusted", ["127.0.0.0/8, 10.0.0.0/8", "192.0.2.0/24"])
def test_only_a_trusted_proxy_is_believed(
    trusted: str, door: Door, pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hook = make_hook(pool)
    secret = hook.secret.get_secret_value()
    monkeypatch.setenv("NIGHTSHIFT_TRUSTED_PROXIES", trusted)
    told = {"x-forwarded-proto": "https", "x-forwarded-for": "203.0.113.9, 198.51.100.7, 10.0.0.3"}
    told["host"] = "hooks.example.com"
    with open_door(tmp_path) as behind:
        known(behind, secret, hook.name)
        headers = signed(secret, BODY) | told
        answer = post(behind, f"/hooks/{hook.name}", BODY, headers)
        post(behind, f"/hooks/{hook.name}", BODY, told)  # refused, so it is logged
        log = behind.log().splitlines()[-1]
    scheme, sender = ("https", "198.51.100.7") if "127." in trusted else ("http", "127.0.0.1")
    assert answer.status_code == 202
    assert answer.json()["status"].startswith(f"{scheme}://hooks.example.com/deliveries/")
    assert f'"from": "{sender}"' in log, "the last that is no proxy of ours"


def test_slow_senders_are_cut_off(slow: "Future[Slow]") -> None:
    cut_off = slow.result()
    assert cut_off.headers == b"" and b" 408 " in cut_off.body.splitlines()[0]
    assert 9 < cut_off.seconds < 20


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"GATEWAY_HOST": "192.0.2.1"}, "in the clear"),
        ({"GATEWAY_HOST": "nonsense"}, "no IP address"),
        ({"GATEWAY_KEY": "/x"}, "go together"),
        ({"GATEWAY_KEY": "/x", "GATEWAY_CERTIFICATE": "/y"}, "no file"),
    ],
)
def test_addresses_that_would_leak_are_refused(values, named, home, monkeypatch) -> None:
    for name, value in values.items():
        monkeypatch.setenv(f"NIGHTSHIFT_{name}", value)
    settings.cache_clear()
    with pytest.raises(SettingsError, match=named):
        gateway.check()
    monkeypatch.setenv("NIGHTSHIFT_TRUSTED_PROXIES", "10.0.0.0/8")
    settings.cache_clear()
    if named == "in the clear":
        gateway.check()
