"""How the gateway writes answers."""

import asyncio
from typing import Any, cast

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
