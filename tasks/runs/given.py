"""What any flow is given: users' files, stored under their content's name, and tables' rows."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from infra.contract import Artifact
from infra.errors import InputError
from infra.objects import describe, exists, put
from infra.objects.manifest import scan
from infra.records import runs
from infra.settings import settings
from tasks.runs.run import Work


def store(source: Path, kind: str) -> Artifact:
    """Store a user's file or folder under its content's name."""
    root = settings().objects_uri
    return put(source, f"{root}/datasets/{kind}/{scan(source).sha256[:16]}")


def stored_once(work: Work[Any], name: str, write: Callable[[], Path]) -> Artifact:
    """The artefact `name` of this run, which `write` makes at first; since then the database, and
    not the object store, says which bytes it has."""
    uri = f"{work.uri}/{name}"
    artifact = describe(uri) if exists(uri) else put(write(), uri)
    pinned = runs.pin(work.pool, work.run, f"artifact {name}", artifact.model_dump())
    return Artifact.model_validate(pinned)


def require_file(option: str, path: str) -> Path:
    """The path of a user's file. Raises InputError naming the option where there is none."""
    if Path(path).is_dir():
        raise InputError(f"{option}: {path} is a folder", f"Give {option} a file, e.g. one in it.")
    if not Path(path).is_file():
        raise InputError(f"{option}: there is no file {path}", f"Give {option} an existing file.")
    return Path(path)
