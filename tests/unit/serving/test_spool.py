"""What is recorded is on the disk before an answer ends, and only whole lines are delivered."""

import asyncio
import errno
import fcntl
import json
import os
from pathlib import Path

import pytest

from jobs.serving import ids
from jobs.serving.spool import Spool


def lines(folder: Path) -> list[dict]:
    paths = sorted(folder.glob("*.jsonl"))
    return [json.loads(line) for path in paths for line in path.read_text().splitlines()]


def test_a_written_row_is_in_a_locked_segment_until_the_spool_is_closed(tmp_path: Path) -> None:
    spool = Spool(tmp_path, 1000)
    asyncio.run(spool.write({"key": "a"}))
    assert lines(tmp_path) == [{"key": "a"}]
    (segment,) = tmp_path.glob("*.jsonl")
    with segment.open() as stream, pytest.raises(BlockingIOError):
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    spool.close()
    with segment.open() as stream:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_many_at_once_share_few_syncs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = Spool(tmp_path, 1_000_000)
    syncs = []
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (syncs.append(fd), real(fd)))

    async def many() -> None:
        await asyncio.gather(*(spool.write({"key": number}) for number in range(500)))

    asyncio.run(many())
    spool.close()
    assert sorted(row["key"] for row in lines(tmp_path)) == list(range(500))
    assert len(syncs) < 100


def test_a_full_disk_is_an_error_and_leaves_no_torn_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = Spool(tmp_path, 1000)
    asyncio.run(spool.write({"key": "a"}))

    def full(_fd: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            asyncio.run(spool.write({"key": "b"}))
    asyncio.run(spool.write({"key": "c"}))
    spool.close()
    assert [row["key"] for row in lines(tmp_path)] == ["a", "c"]


def test_there_is_room_until_the_segments_reach_the_bound(tmp_path: Path) -> None:
    spool = Spool(tmp_path, 20)
    assert spool.has_room()
    asyncio.run(spool.write({"key": "longer than that"}))
    assert not spool.has_room()
    spool.close()


def test_an_id_is_known_to_its_tenant_only() -> None:
    answer = f"chatcmpl-{ids.fresh('acme', 'key')}"
    assert ids.is_ours(answer, "acme", "key")
    assert not ids.is_ours(answer, "other", "key")
    assert not ids.is_ours(answer, "acme", "another key")
    assert not ids.is_ours(answer[:-1] + ("0" if answer[-1] != "0" else "1"), "acme", "key")
    assert not ids.is_ours("chatcmpl-1", "acme", "key")
