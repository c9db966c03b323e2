"""An API server of SkyPilot's that is slow, silent, dead or at work for ever, without SkyPilot."""

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
import requests

from infra.compute.sky import api
from infra.errors import LaunchError

SILENCE = requests.ReadTimeout("read timed out")
REFUSED = requests.ConnectionError("NewConnectionError: connection refused")
LATER = datetime.now(UTC) + timedelta(hours=1)


class Server:
    """SkyPilot's SDK. Each answer of `api_status` is a status, None for none, or an error."""

    def __init__(self, *answers: object, launched: tuple[str, ...] = ()) -> None:
        self.answers = list(answers)
        self.launched = launched
        self.asked = 0

    def api_status(self, *_ids: object, **asked: object) -> list[SimpleNamespace]:
        if asked:
            return [
                SimpleNamespace(name="sky.launch", created_at=1, request_id=one)
                for one in self.launched
            ]
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return [SimpleNamespace(status=answer)] if answer else []

    def get(self, request_id: str) -> str:
        return f"value of {request_id}"

    def status(self) -> str:
        self.asked += 1
        return f"status-{self.asked}"


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Time goes on by itself; when a hanging server was ended, in seconds."""
    clock = [0.0]
    ends: list[float] = []

    def sleep(seconds: float) -> None:
        clock[0] += seconds

    monkeypatch.setattr(api, "time", SimpleNamespace(monotonic=lambda: clock[0], sleep=sleep))
    monkeypatch.setattr(api, "end_server", lambda: ends.append(clock[0]))
    return ends


def serve(monkeypatch: pytest.MonkeyPatch, server: Server) -> Server:
    monkeypatch.setattr(api, "sdk", lambda: server)
    return server


def test_a_value_is_waited_for_while_the_server_answers(monkeypatch, ended) -> None:
    serve(monkeypatch, Server("PENDING", "RUNNING", SILENCE, "RUNNING", "SUCCEEDED"))
    assert api.call(lambda sky: sky.status()) == "value of status-2" and ended == []


def test_a_request_that_a_dead_server_has_lost_is_made_again(monkeypatch, ended) -> None:
    server = serve(monkeypatch, Server("RUNNING", None, "SUCCEEDED"))
    assert api.call(lambda sky: sky.status()) == "value of status-2" and server.asked == 2


def test_a_server_that_hangs_is_ended_and_at_last_given_up(monkeypatch, ended) -> None:
    serve(monkeypatch, Server(*[SILENCE] * 999))
    with pytest.raises(LaunchError, match="does not answer") as caught:
        api.call(lambda sky: sky.status())
    assert ended == [60, 120] and "sky api stop" in caught.value.remedy


def test_a_request_that_never_ends_is_given_up_but_for_a_launch(monkeypatch, ended) -> None:
    serve(monkeypatch, Server(*["RUNNING"] * 9999))
    with pytest.raises(LaunchError, match="15 min"):
        api.call(lambda sky: sky.status())
    serve(monkeypatch, Server(*["RUNNING"] * 3000, "SUCCEEDED"))
    api.wait_for_launch("launch", LATER)
    serve(monkeypatch, Server("RUNNING"))
    with pytest.raises(LaunchError, match="longer than its reservation"):
        api.wait_for_launch("launch", datetime.now(UTC))


def test_a_launch_that_a_dead_server_has_lost_is_not_waited_for(monkeypatch, ended) -> None:
    serve(monkeypatch, Server("RUNNING", SILENCE, None))
    with pytest.raises(api.RequestLost):
        api.wait_for_launch("launch", LATER)


@pytest.mark.parametrize(
    ("problems", "launched", "sent"),
    [
        ([REFUSED, RuntimeError("process exited unexpectedly")], (), 3),
        ([SILENCE], ("found",), 1),
        ([SILENCE], (), 1),
        ([REFUSED, requests.ConnectionError("Connection aborted: reset by peer")], (), 2),
    ],
)
def test_a_launch_is_never_asked_for_twice(monkeypatch, ended, problems, launched, sent) -> None:
    serve(monkeypatch, Server(launched=launched))
    monkeypatch.setattr(api, "end_orphans", lambda: None)
    tries = []

    def request() -> str:
        tries.append(1)
        if len(tries) <= len(problems):
            raise problems[len(tries) - 1]
        return "asked"

    if sent > len(problems):
        assert api.request_launch("ns-1", request) == "asked"
    elif launched:
        assert api.request_launch("ns-1", request) == "found"
    else:
        with pytest.raises(api.RequestLost):
            api.request_launch("ns-1", request)
    assert len(tries) == sent


def test_what_a_launch_is_refused_for_is_told(monkeypatch, ended) -> None:
    def request() -> str:
        raise RuntimeError("no reservation")

    with pytest.raises(RuntimeError, match="no reservation"):
        api.request_launch("ns-1", request)
