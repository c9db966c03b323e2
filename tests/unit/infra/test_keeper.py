"""What is told of a service that cannot start."""

import os
import socket
from pathlib import Path

import pytest

from deployments.webhooks.gateway import Gateway
from infra import keeper
from infra.errors import ServiceUnavailable
from infra.services import prefect_server, proxies
from infra.settings import settings


def test_only_lines_of_this_start_are_told(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = home / "gateway"
    folder.mkdir(parents=True)
    (folder / "log.txt").write_text("a refusal of yesterday\n")
    with socket.create_server(("127.0.0.1", 0)) as other:
        monkeypatch.setenv("NIGHTSHIFT_GATEWAY_PORT", str(other.getsockname()[1]))
        settings.cache_clear()
        service = Gateway(folder)
        with pytest.raises(ServiceUnavailable) as caught:
            keeper.use(service)
    keeper.release(service)
    said = caught.value.message
    assert "yesterday" not in said and "Address already in use" in said


def test_a_service_that_says_nothing_is_told_as_slow(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder := home / "gateway").mkdir(parents=True)
    (folder / "log.txt").write_text("a refusal of yesterday\n")
    monkeypatch.setattr(keeper, "START_SECONDS", 0)
    monkeypatch.setattr(keeper, "KEEPER_SECONDS", 0)
    service = Gateway(folder)
    with pytest.raises(ServiceUnavailable, match="did not answer within 0 s"):
        keeper.use(service)
    keeper.release(service)


def test_a_wished_port_is_taken_where_it_is_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        wished = other.getsockname()[1]
        assert keeper.free_port(wished) not in (wished, 0)
    assert keeper.free_port(wished) == wished


def test_a_prefect_server_begins_at_its_usual_port_and_goes_on_at_its_own(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wished: list[int] = []
    monkeypatch.setattr(keeper, "free_port", lambda port: wished.append(port) or port + 1)
    monkeypatch.setattr(prefect_server.subprocess, "Popen", lambda *_, **__: None)
    for name in ("ensure_database", "url"):
        monkeypatch.setattr(prefect_server.database, name, lambda *_: "")
    service = prefect_server.own()
    service.start()
    service.start()
    assert wished == [4200, 4201]


@pytest.mark.parametrize("given", [None, "", "corp.example", "corp.example,localhost"])
def test_loopback_is_reached_past_a_proxy(
    given: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (*proxies.named(), "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    environment = dict(os.environ) | {"http_proxy": "http://127.0.0.1:9"}
    environment |= {"no_proxy": given} if given is not None else {}
    monkeypatch.setattr(os, "environ", environment)
    proxies.reach_loopback()
    past = environment["no_proxy"].split(",")
    assert {"127.0.0.1", "localhost", "::1"} <= set(past) and len(past) == len(set(past))
    assert not given or past[0] == "corp.example"
    assert environment["NO_PROXY"] == environment["no_proxy"]
    monkeypatch.setenv("PREFECT_API_URL", "http://elsewhere.example/api")
    said = prefect_server.unanswered(OSError("refused"))
    assert "http_proxy" in said.remedy and "no_proxy" in said.remedy
