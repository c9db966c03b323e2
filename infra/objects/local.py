"""The local disk: its errors explained, data made durable, a copy that appears at once."""

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

from infra.errors import ObjectAccessDenied, ObjectError, StorageFull

THREADS = 8
"""Files read, written or sent at the same time: many small ones wait for the disk or the net."""

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_DENIED = {errno.EACCES, errno.EPERM, errno.EROFS}


@contextmanager
def disk_errors() -> Iterator[None]:
    """Turn an OSError into the ObjectError that says what to change."""
    try:
        yield
    except OSError as error:
        where = error.filename2 or error.filename or "the local disk"
        if error.errno in _FULL:
            raise StorageFull(
                f"No room for {where}: {error.strerror}.",
                "Free some space there, or name a larger place in NIGHTSHIFT_OBJECTS or "
                "NIGHTSHIFT_HOME. What was partly written is removed.",
            ) from error
        if error.errno in _DENIED:
            raise ObjectAccessDenied(
                f"{where}: {error.strerror}.",
                "Give this user the right to write there, or name another place in "
                "NIGHTSHIFT_OBJECTS or NIGHTSHIFT_HOME.",
            ) from error
        raise ObjectError(
            f"{where}: {error.strerror}.", "See that NIGHTSHIFT_OBJECTS names a usable folder."
        ) from error


@contextmanager
def staging(destination: Path) -> Iterator[Path]:
    """A path beside `destination`, on the same file system, to build it at and rename it from.

    One process at a time has it: a second one waits, and what a killed one left is removed.
    """
    folder = destination.with_name(f".{destination.name}.partial")
    lock = _lock(folder)
    try:
        _empty(folder)
        yield folder / "content"
    finally:
        shutil.rmtree(folder)
        os.close(lock)


def flush(path: Path) -> None:
    """Make a file's data, or the names in a folder, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def flush_tree(path: Path) -> None:
    """Flush a file, or everything in a folder and the folder itself."""
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(flush, [path, *path.rglob("*")]))


def _lock(folder: Path) -> int:
    """Make the folder and hold its lock; the one who had it before may remove it meanwhile."""
    while True:
        with suppress(FileExistsError):
            folder.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                if os.path.samestat(os.fstat(descriptor), folder.stat()):
                    return os.dup(descriptor)  # has the same lock
            finally:
                os.close(descriptor)


def _empty(folder: Path) -> None:
    for left in folder.iterdir():
        if left.is_dir():
            shutil.rmtree(left)
        else:
            left.unlink()
