"""Records that wait for the database: JSON lines in segments, on the disk before a future is done.

One thread writes, and calls fsync once for all that came meanwhile. It holds a lock on the segment
that it writes; a segment without one is complete, or its writer is dead, and may be delivered. A
line without its newline was never confirmed.
"""

import asyncio
import fcntl
import json
import os
import queue
import threading
import time
import uuid
from pathlib import Path
from typing import IO, Any

SEAL_SECONDS = 0.5
"""How long a segment is written before it may be delivered."""
SEGMENT_BYTES = 4_000_000
Waiting = tuple[bytes, asyncio.Future[None]]


class Spool:
    """Writes to `folder`, which has room while its segments are below `most_bytes` together."""

    def __init__(self, folder: Path, most_bytes: int) -> None:
        self.folder, self.most_bytes = folder, most_bytes
        self.error: OSError | None = None
        """Why the last write failed."""
        self._waiting: queue.SimpleQueue[Waiting | None] = queue.SimpleQueue()
        self._segment: IO[bytes] | None = None
        self._begun = 0.0
        folder.mkdir(parents=True, exist_ok=True)
        self._used, self._measured = 0, 0.0
        self._thread = threading.Thread(target=self._run, name="spool", daemon=True)
        self._thread.start()

    def has_room(self) -> bool:
        """Whether another answer may be recorded; looked up once a second."""
        if time.monotonic() - self._measured > 1:
            self._measured = time.monotonic()
            self._used = sum(_size(path) for path in self.folder.glob("*.jsonl"))
        return self._used < self.most_bytes

    async def write(self, row: dict[str, Any]) -> None:
        """Return once the row is on the disk. Raises OSError."""
        done = asyncio.get_running_loop().create_future()
        self._waiting.put((json.dumps(row).encode() + b"\n", done))
        await done

    def close(self) -> None:
        """Write what waits, and let the last segment be delivered."""
        self._waiting.put(None)
        self._thread.join()

    def _run(self) -> None:
        closing = False
        while not closing:
            batch: list[Waiting] = []
            try:
                first = self._waiting.get(timeout=SEAL_SECONDS if self._segment else None)
                while first is not None:
                    batch.append(first)
                    first = self._waiting.get_nowait()
                closing = True
            except queue.Empty:
                pass
            if batch:
                _finish(batch, self._write(b"".join(line for line, _ in batch)))
            if self._segment and (closing or self._is_full()):
                self._segment.close()
                self._segment = None

    def _is_full(self) -> bool:
        assert self._segment is not None
        age = time.monotonic() - self._begun
        return age >= SEAL_SECONDS or self._segment.tell() >= SEGMENT_BYTES

    def _write(self, lines: bytes) -> OSError | None:
        try:
            if self._segment is None:
                self._segment, self._begun = _new_segment(self.folder), time.monotonic()
            before = self._segment.tell()
            try:
                self._segment.write(lines)
                os.fsync(self._segment.fileno())
            except OSError:
                self._segment.truncate(before)  # a part of it would be taken for the whole
                self._segment.seek(before)
                raise
        except OSError as error:
            self.error = error
        else:
            self.error = None
            self._used += len(lines)
        return self.error


def _new_segment(folder: Path) -> IO[bytes]:
    """A locked file that appears under its name; names sort by time."""
    name = f"{time.time_ns():020}-{uuid.uuid4().hex}"
    segment = (folder / f"{name}.new").open("wb", buffering=0)
    fcntl.flock(segment, fcntl.LOCK_EX)
    (folder / f"{name}.new").rename(folder / f"{name}.jsonl")
    place = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(place)
    finally:
        os.close(place)
    return segment


def _finish(batch: list[Waiting], error: OSError | None) -> None:
    for _, done in batch:
        done.get_loop().call_soon_threadsafe(_resolve, done, error)


def _resolve(done: asyncio.Future[None], error: OSError | None) -> None:
    if done.done():  # whoever waited has gone
        return
    if error is None:
        done.set_result(None)
    else:
        done.set_exception(error)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
