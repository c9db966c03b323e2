"""Writers that race, are killed, or run out of room; each in a process of its own."""

import multiprocessing
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from infra import objects
from infra.contract import Artifact
from infra.errors import NightshiftError
from infra.objects import exists, get, list_artifacts, put
from infra.objects.manifest import PARTS, scan

REPOSITORY = Path(__file__).resolve().parents[3]

processes = multiprocessing.get_context("forkserver")
"""Forks of a process that has imported what they need, and holds nothing of this one."""
processes.set_forkserver_preload(["infra.objects.bucket", __name__])


@contextmanager
def started(target: Callable[..., None], *arguments: object) -> Iterator[Connection]:
    """The connection to a process with these arguments, which is killed in the end."""
    ours, theirs = processes.Pipe()
    process = processes.Process(target=target, args=(dict(os.environ), theirs, *arguments))
    process.start()
    theirs.close()
    try:
        yield ours
    finally:
        process.kill()
        process.join()
        ours.close()


def write(environment: dict[str, str], test: Connection, source: Path, uri: str) -> None:
    """Store `source`, but say so before the commit, and wait."""
    os.environ |= environment
    store = type(objects._locate(uri)[0])
    create = store.create

    def create_when_told(self: objects.Store, key: str, data: bytes) -> None:
        test.send("at the commit")
        test.recv()
        create(self, key, data)

    store.create = create_when_told
    try:
        test.send(put(source, uri))
    except NightshiftError as error:
        test.send(type(error).__name__)


def race(sources: list[Path], uri: str) -> list[Artifact | str]:
    """What each writer said in the end; all have uploaded before any may commit."""
    with ExitStack() as stack:
        writers = [stack.enter_context(started(write, source, uri)) for source in sources]
        assert [writer.recv() for writer in writers] == ["at the commit"] * len(sources)
        for writer in writers:
            writer.send("go")
        return [writer.recv() for writer in writers]


def attempts(uri: str) -> set[str]:
    store, key = objects._locate(uri)
    return {part.split(PARTS)[1].split("/")[0] for part in store.sizes(key + PARTS)}


@pytest.fixture
def sources(tmp_path: Path) -> list[Path]:
    folders = [tmp_path / f"source-{n}" for n in range(8)]
    for n, folder in enumerate(folders):
        folder.mkdir()
        for name in "abc":
            (folder / name).write_text(f"{name} of {n}")
    return folders


def test_of_racing_writers_exactly_one_wins(root: str, tmp_path: Path, sources: list[Path]) -> None:
    uri = f"{root}/x"
    said = race(sources, uri)
    winners = [n for n, words in enumerate(said) if isinstance(words, Artifact)]
    assert len(winners) == 1, said
    assert [words for words in said if words == "IntegrityError"] == ["IntegrityError"] * 7
    copy = get(uri, tmp_path / "copy")
    assert scan(copy) == scan(sources[winners[0]])
    assert len(attempts(uri)) == 1


def test_racing_writers_of_the_same_content_all_succeed(
    root: str, tmp_path: Path, sources: list[Path]
) -> None:
    uri = f"{root}/x"
    said = race(sources[:1] * 8, uri)
    assert said == [put(sources[0], uri)] * 8
    assert scan(get(uri, tmp_path / "copy")) == scan(sources[0])
    assert len(attempts(uri)) == 1


def test_a_writer_killed_before_the_commit_leaves_nothing_to_be_seen(
    root: str, tmp_path: Path, sources: list[Path]
) -> None:
    uri = f"{root}/x"
    with started(write, sources[0], uri) as writer:
        assert writer.recv() == "at the commit"
    assert len(attempts(uri)) == 1
    assert not exists(uri)
    assert list_artifacts(root) == []
    put(sources[1], uri)
    assert scan(get(uri, tmp_path / "copy")) == scan(sources[1])
    assert len(attempts(uri)) == 1


def store_and_fetch(
    environment: dict[str, str], test: Connection, source: Path, uri: str, copy: Path
) -> None:
    os.environ |= environment
    objects._locate(uri)
    test.send("began")
    get(put(source, uri).uri, copy)


def test_killed_anywhere_it_is_whole_or_absent(root: str, tmp_path: Path) -> None:
    """Put and get of 40 files and one of many megabytes, killed at random moments."""
    source = tmp_path / "source"
    source.mkdir()
    for n in range(40):
        (source / str(n)).write_bytes(os.urandom(100))
    (source / "large").write_bytes(os.urandom(18 << 20))
    whole = scan(source)
    seconds = random.Random(5)
    killed_early = 0
    for n in range(8):
        uri, copy = f"{root}/{n}", tmp_path / f"copies-{n}/copy"
        with started(store_and_fetch, source, uri, copy) as worker:
            assert worker.recv() == "began"
            time.sleep(seconds.uniform(0, 0.4))
        killed_early += not exists(uri)
        assert scan(get(put(source, uri).uri, copy)) == whole
        assert [path.name for path in copy.parent.iterdir()] == ["copy"]
        assert len(attempts(uri)) == 1
        shutil.rmtree(copy)
        objects.delete(uri)
    assert killed_early


FULL_DISK = """
import os, resource, subprocess, sys
from pathlib import Path
from infra.errors import StorageFull
from infra.objects import exists, get, put

kind, large, stored, place = sys.argv[1], Path(sys.argv[2]), sys.argv[3], Path(sys.argv[4])
if kind == "tmpfs":
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", place], check=True)
else:
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
for attempt in (
    lambda: put(large, (place / "x").as_uri()),
    lambda: get(stored, place / "copy"),
):
    try:
        attempt()
    except StorageFull as error:
        assert "NIGHTSHIFT_HOME" in str(error) and "NIGHTSHIFT_OBJECTS" in str(error), error
    else:
        sys.exit("it fitted")
assert not exists((place / "x").as_uri())
assert not (place / "copy").exists()
left = [path for path in place.rglob("*") if path.is_file() or path.name.endswith(".partial")]
assert not left, left
"""


def _may_mount() -> bool:
    return subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode == 0


@pytest.mark.parametrize("kind", ["tmpfs", "rlimit"] if _may_mount() else ["rlimit"])
def test_a_full_disk_is_one_clear_error(root: str, tmp_path: Path, kind: str) -> None:
    large = tmp_path / "large"
    large.write_bytes(os.urandom(3 << 20))
    stored = put(large, f"{root}/stored").uri
    place = tmp_path / "place"
    place.mkdir()
    own_mounts = ["unshare", "-rm"] if kind == "tmpfs" else []
    subprocess.run(
        [*own_mounts, sys.executable, "-c", FULL_DISK, kind, large, stored, place],
        check=True,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
    )
