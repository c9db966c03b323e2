"""Writers that race, are killed, or run out of room; each in a process of its own."""

import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from infra import objects
from infra.objects import exists, get, list_artifacts, put
from infra.objects.manifest import PARTS, scan

REPOSITORY = Path(__file__).resolve().parents[2]

WRITER = """
import sys
from pathlib import Path
from infra import objects
from infra.errors import NightshiftError

source, uri = Path(sys.argv[1]), sys.argv[2]
store = type(objects._locate(uri)[0])
create = store.create

def create_when_told(self, key, data):
    print("at the commit", flush=True)
    sys.stdin.readline()
    create(self, key, data)

store.create = create_when_told
try:
    print(objects.put(source, uri).model_dump_json())
except NightshiftError as error:
    print(type(error).__name__)
"""


def start(program: str, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
    )


def race(sources: list[Path], uri: str) -> list[str]:
    """What each writer said in the end; all have uploaded before any may commit."""
    writers = [start(WRITER, source, uri) for source in sources]
    for writer in writers:
        assert writer.stdout and writer.stdout.readline() == "at the commit\n"
    for writer in writers:
        assert writer.stdin
        writer.stdin.write("go\n")
        writer.stdin.flush()
    return [writer.communicate()[0].strip() for writer in writers]


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
    winners = [n for n, words in enumerate(said) if words.startswith("{")]
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
    assert set(said) == {put(sources[0], uri).model_dump_json()}
    assert scan(get(uri, tmp_path / "copy")) == scan(sources[0])
    assert len(attempts(uri)) == 1


def test_a_writer_killed_before_the_commit_leaves_nothing_to_be_seen(
    root: str, tmp_path: Path, sources: list[Path]
) -> None:
    uri = f"{root}/x"
    writer = start(WRITER, sources[0], uri)
    assert writer.stdout and writer.stdout.readline() == "at the commit\n"
    writer.kill()
    writer.communicate()
    assert len(attempts(uri)) == 1
    assert not exists(uri)
    assert list_artifacts(root) == []
    put(sources[1], uri)
    assert scan(get(uri, tmp_path / "copy")) == scan(sources[1])
    assert len(attempts(uri)) == 1


def test_killed_anywhere_it_is_whole_or_absent(root: str, tmp_path: Path) -> None:
    """Put and get of 40 files and one of many megabytes, killed at random moments."""
    source = tmp_path / "source"
    source.mkdir()
    for n in range(40):
        (source / str(n)).write_bytes(os.urandom(100))
    (source / "large").write_bytes(os.urandom(40 << 20))
    program = """
import sys
from pathlib import Path
from infra import objects
source, uri, copy = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
objects._locate(uri)
print("began", flush=True)
objects.get(objects.put(source, uri).uri, copy)
"""
    whole = scan(source)
    seconds = random.Random(5)
    killed_early = 0
    for n in range(8):
        uri, copy = f"{root}/{n}", tmp_path / f"copies-{n}/copy"
        worker = start(program, source, uri, copy)
        assert worker.stdout and worker.stdout.readline() == "began\n"
        time.sleep(seconds.uniform(0, 0.6))
        worker.kill()
        worker.communicate()
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
