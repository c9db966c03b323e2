"""How the gateway writes answers, and bears those of Prefect."""

import asyncio
import json
from typing import Any, cast

import pytest

from deployments.webhooks import dispatch
from deployments.webhooks.gateway import Gathered


class Wire:
    """A transport that remembers."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.closed_after = -1

    def write(self, data: bytes) -> None:
        self.sent.append(data)

    def close(self) -> None:
        self.closed_after = len(self.sent)

    def is_closing(self) -> bool:
        return self.closed_after >= 0


def test_head_and_body_are_one_packet_and_closing_loses_nothing() -> None:
    async def answer(close: bool) -> Wire:
        wire = Wire()
        ours = Gathered(cast(Any, wire), asyncio.get_running_loop())
        ours.write(b"head ")
        ours.write(b"body")
        if close:
            ours.close()
        await asyncio.sleep(0)
        assert ours.is_closing() == close
        ours.write(b"next")
        await asyncio.sleep(0)
        return wire

    assert asyncio.run(answer(False)).sent == [b"head body", b"next"]
    wire = asyncio.run(answer(True))
    assert wire.sent[0] == b"head body" and wire.closed_after == 1


def test_a_page_instead_of_json_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []

    class Client:
        async def read_deployment_by_name(self, _name: str) -> object:
            return json.loads("<html>Please log in</html>")

    async def again(_pool: object, _run: object, _attempts: int, message: str) -> None:
        said.append(message)

    monkeypatch.setattr(dispatch.deliveries, "again", again)
    run = {"id": 1, "flow": "cost-guard", "attempts": 1}
    done = asyncio.run(dispatch._start(cast(Any, None), cast(Any, Client()), run))
    assert not done and "does not answer: JSONDecodeError" in said[0]
