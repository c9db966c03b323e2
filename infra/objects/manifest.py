"""What an artefact consists of: names, sizes and checksums of its files."""

import hashlib
import json
import os
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from infra.errors import InputError, IntegrityError
from infra.objects.local import THREADS

MANIFEST = "/manifest.json"
PARTS = "/parts/"
UNUSABLE = "It cannot be used. Delete it and store it again, from a backup or by a new run."

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Entry(Record):
    """One file. `path` is relative, with slashes; it is empty where the artefact is this file."""

    path: str
    bytes: int = Field(ge=0)
    sha256: Sha256


class Content(Record):
    """All files, ordered by path, and the folders that hold nothing."""

    files: list[Entry]
    folders: list[str]

    @model_validator(mode="after")
    def _stays_inside(self) -> Self:
        """A path that leaves the destination, or runs through a file, is refused."""
        paths = sorted(
            PurePosixPath(path) for path in [entry.path for entry in self.files] + self.folders
        )
        if paths == [PurePosixPath()] and not self.folders:
            return self
        for path, text in zip(paths, [*map(str, paths)], strict=True):
            if path.is_absolute() or not path.parts or ".." in path.parts or "\0" in text:
                raise ValueError(f"{text!r} is no relative path")
        if any(later.is_relative_to(path) for path, later in pairwise(paths)):
            raise ValueError("one path runs through another")
        return self

    @property
    def sha256(self) -> str:
        """Over the canonical JSON, so that it depends on names and contents alone."""
        canonical = json.dumps(self.model_dump(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()

    @property
    def bytes(self) -> int:
        return sum(entry.bytes for entry in self.files)


class Manifest(Record):
    """The commit of an artefact: `attempt` is the prefix under which its parts lie."""

    version: Literal[1] = 1
    attempt: str = Field(pattern=r"^[0-9a-f]{32}$")
    sha256: Sha256
    content: Content

    @model_validator(mode="after")
    def _unaltered(self) -> Self:
        if self.sha256 != self.content.sha256:
            raise ValueError("sha256 differs from the content's")
        return self


def parse(data: bytes, uri: str) -> Manifest:
    """The manifest in `data`. Raises IntegrityError."""
    try:
        return Manifest.model_validate_json(data)
    except ValidationError as error:
        raise IntegrityError(
            f"The manifest of {uri} is altered: {error.errors()[0]['msg']}.",
            UNUSABLE,
        ) from None


def scan(source: Path) -> Content:
    """Names, sizes and checksums of a file, or of all files of a folder.

    Links are followed inside of the folder, and to the blobs of Hugging Face's cache.

    Raises InputError where `source` is missing or holds what cannot be stored.
    """
    with _source_errors(source), ThreadPoolExecutor(THREADS) as pool:
        found = [(path, stat.S_ISDIR(status.st_mode)) for path, status in _contents(source)]
        files = [path for path, is_folder in found if not is_folder]
        entries = list(pool.map(lambda path: _entry(source, path), files))
    return Content(
        files=sorted(entries, key=lambda entry: entry.path),
        folders=sorted(path for path, is_folder in found if is_folder and path),
    )


def signature(source: Path) -> list[tuple[str, int, int]]:
    """Name, bytes and modification time of every file: differs when the source was written to."""
    with _source_errors(source):
        return [(path, status.st_size, status.st_mtime_ns) for path, status in _contents(source)]


def _entry(source: Path, path: str) -> Entry:
    with (source / path).open("rb", buffering=0) as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
        return Entry(path=path, bytes=stream.tell(), sha256=digest)


def _contents(source: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Relative path and status of every file and every empty folder."""
    top = source.resolve()
    allowed = [top]
    # CACHE/models--NAME/snapshots/REVISION has links to ../../blobs
    if top.parent.name == "snapshots":
        allowed.append(top.parents[1] / "blobs")
    return _walk(source, allowed)


def _walk(
    path: Path, allowed: list[Path], relative: str = "", above: tuple[tuple[int, int], ...] = ()
) -> Iterator[tuple[str, os.stat_result]]:
    status = path.stat()
    identity = (status.st_dev, status.st_ino)
    if relative and path.is_symlink():
        target = path.resolve()
        if not any(target.is_relative_to(folder) for folder in allowed):
            raise InputError(
                f"{path} leads out of its folder, to {target}.",
                "Put a copy there in place of the link, or remove it.",
            )
    if stat.S_ISREG(status.st_mode):
        yield relative, status
    elif not stat.S_ISDIR(status.st_mode):
        raise InputError(f"{path} is a device, socket or pipe.", "Store files and folders only.")
    elif identity in above:
        raise InputError(f"{path} links to a folder that it lies in.", "Remove the link.")
    else:
        names = os.listdir(path)  # noqa: PTH208 - names, not paths
        if not names:
            yield relative, status
        for name in sorted(names):
            if not _is_utf8(name):
                raise InputError(f"{path / name!r} is not UTF-8.", "Rename it.")
            below = f"{relative}/{name}" if relative else name
            yield from _walk(path / name, allowed, below, (*above, identity))


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


@contextmanager
def _source_errors(source: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(
            f"{error.filename or source} cannot be read: {error.strerror}.",
            "Name a file or a folder that exists and that this user may read.",
        ) from error
