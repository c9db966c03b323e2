"""How the gateway writes answers, and how it waits for a Prefect server that is away."""

import asyncio
from typing import Any, cast
from uuid import uuid4

import httpx
import pytest

from deployments import dispatch
from deployments.gateway import Gathered


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


def test_one_run_asks_whether_prefect_is_back(monkeypatch: pytest.MonkeyPatch) -> None:
    claimed: list[int] = []
    away = [True]

    async def claim(_pool: object, limit: int) -> list[dict[str, Any]]:
        if len(claimed) == 5:
            raise asyncio.CancelledError
        claimed.append(limit)
        away[0] = len(claimed) < 4
        run = {"flow": "x", "attempts": 1, "parameters": {}, "hook": "h", "deliveries": 1}
        return [run | {"id": uuid4()} for _ in range(limit)]

    async def create(_client: object, _run: dict[str, Any]) -> object:
        if away[0]:
            raise httpx.ConnectError("away")
        return uuid4()

    async def nothing(*_: object) -> None:
        pass

    monkeypatch.setattr(dispatch.deliveries, "claim", claim)
    monkeypatch.setattr(dispatch.deliveries, "again", nothing)
    monkeypatch.setattr(dispatch.deliveries, "started", nothing)
    monkeypatch.setattr(dispatch, "_create", create)
    monkeypatch.setattr(dispatch, "PAUSE_SECONDS", 0)
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(dispatch.dispatch(cast(Any, None)))
    assert claimed == [16, 1, 1, 1, 16]
