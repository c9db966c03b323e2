"""Objects in local folders, or in folders that several machines share."""

import os
import shutil
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from infra.objects.local import THREADS, disk_errors, flush
from infra.objects.manifest import PARTS


class FolderStore:
    """The `file://` side of `infra.objects.Store`: a key is an absolute path."""

    def uri(self, key: str) -> str:
        return Path(key).as_uri()

    def read(self, key: str) -> bytes | None:
        with disk_errors():
            try:
                return Path(key).read_bytes()
            except (FileNotFoundError, NotADirectoryError):
                return None

    def create(self, key: str, data: bytes) -> None:
        path = Path(key)
        aside = Path(f"{path.parent}{PARTS}{uuid.uuid4().hex}")
        with disk_errors():
            _make_folder(aside.parent)
            try:
                aside.write_bytes(data)
                flush(aside)
                with suppress(FileExistsError):
                    path.hardlink_to(aside)
            finally:
                aside.unlink(missing_ok=True)
            flush(path.parent)

    def upload(self, files: dict[str, Path]) -> None:
        with disk_errors(), ThreadPoolExecutor(THREADS) as pool:
            folders = {Path(key).parent for key in files}
            for folder in folders:
                _make_folder(folder)
            list(pool.map(_copy, files.values(), map(Path, files)))
            for folder in folders:
                flush(folder)

    def download(self, files: dict[str, Path]) -> None:
        with disk_errors(), ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(shutil.copyfile, files, files.values()))

    def sizes(self, prefix: str) -> dict[str, int]:
        found: dict[str, int] = {}
        with disk_errors():
            for folder, _, names in os.walk(prefix, onerror=_unless_missing):
                for name in names:
                    path = Path(folder, name)
                    with suppress(FileNotFoundError):  # another writer removed its own
                        found[str(path)] = path.stat().st_size
        return found

    def remove(self, keys: list[str], below: str) -> None:
        paths = [Path(key) for key in keys]
        with disk_errors():
            for path in paths:
                path.unlink(missing_ok=True)
        emptied = {Path(below), Path(below + PARTS)} | {
            parent for path in paths for parent in path.parents if parent.is_relative_to(below)
        }
        for folder in sorted(emptied, key=lambda folder: len(folder.parts), reverse=True):
            with suppress(OSError):  # it is not empty, or is gone
                folder.rmdir()


def _copy(source: Path, target: Path) -> None:
    shutil.copyfile(source, target)
    flush(target)


def _make_folder(folder: Path) -> None:
    """`mkdir -p` that survives a power cut."""
    if not folder.is_dir():
        _make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        flush(folder.parent)


def _unless_missing(error: OSError) -> None:
    if not isinstance(error, (FileNotFoundError, NotADirectoryError)):
        raise error
