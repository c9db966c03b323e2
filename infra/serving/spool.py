"""Carry what serving recorded from its spool into PostgreSQL, once, whatever is killed meanwhile.

A segment is a file of JSON lines that its writer holds locked. It is removed after its rows are
committed; rows that come again are known by their keys.
"""

import fcntl
import json
import logging
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from infra.database import Pool
from infra.records import served

log = logging.getLogger("nightshift")

PATIENCE = timedelta(minutes=5)
"""For how long feedback waits for its answer, which another writer may still hold."""


def deliver(pool: Pool, folder: Path) -> int:
    """Store all segments that nobody writes; how many rows they had.

    What the database can never take is kept in FOLDER/refused.txt, with the reason. Raises
    psycopg.OperationalError or PoolTimeout while the database is away: everything stays.
    """
    count = 0
    for path in sorted(folder.glob("*.jsonl")):
        with _taken(path) as rows:
            if rows is None:
                continue
            early, refused = served.store(pool, rows)
            again = [row for row in early if _age(row) < PATIENCE]
            lost = [(row, "its answer never came") for row in early if row not in again]
            lost += [(rows[number], why) for number, why in refused.items()]
            if again:
                _write(folder / f"{path.stem[:20]}-{uuid.uuid4().hex}.jsonl", again)
            if lost:
                log.warning("%s rows cannot be stored: %s", len(lost), folder / "refused.txt")
                _write(folder / "refused.txt", [{"why": why, "row": row} for row, why in lost])
            path.unlink()
            count += len(rows) - len(again)
    return count


@contextmanager
def _taken(path: Path) -> Iterator[list[dict[str, Any]] | None]:
    """The rows of a segment; None while it is written. A torn last line was never confirmed."""
    with path.open("rb") as segment:
        try:
            fcntl.flock(segment, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
            return
        whole = segment.read().rpartition(b"\n")[0]
        yield [_parsed(line) for line in whole.splitlines()]


def _parsed(line: bytes) -> dict[str, Any]:
    try:
        return json.loads(line)
    except ValueError:  # the disk has altered it
        return {"broken": line.decode(errors="replace")}


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    """Add rows to a file, on the disk when this returns."""
    with path.open("ab") as stream:
        stream.write(b"".join(json.dumps(row).encode() + b"\n" for row in rows))
        stream.flush()
        os.fsync(stream.fileno())


def _age(row: dict[str, Any]) -> timedelta:
    return datetime.now(UTC) - datetime.fromisoformat(row["created_at"])
