"""How fast artefacts are stored and fetched, beside plain tools on the same data.

One file of 32 MiB and 200 of 1 to 8 KiB, together, on the disk of the temporary folder. `cp -r`,
`sync` and `sha256sum` do what put and get promise. `benchmarks.objects_s3` has S3.
"""

import os
import random
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.figures import Take, figure, yardstick
from infra.objects import delete, get, put

MIB = 32
FILES = 200
COPY = (
    'cp -r "$1" "$2" && find "$2" -type f -exec sync {} + '
    '&& find "$1" "$2" -type f -exec sha256sum {} + > /dev/null'
)


def make_large(path: Path, mib: float) -> Path:
    block = os.urandom(1 << 20)
    with path.open("wb") as stream:
        for _ in range(int(mib)):
            stream.write(block)
    return path


def make_small(folder: Path, count: int) -> Path:
    sizes = random.Random(1)
    folder.mkdir()
    for n in range(count):
        (folder / f"{n:05d}").write_bytes(os.urandom(sizes.randint(1 << 10, 8 << 10)))
    return folder


@contextmanager
def payload() -> Iterator[tuple[Path, Path]]:
    """A folder of both kinds of files, and a place beside it where copies may lie."""
    with tempfile.TemporaryDirectory() as name:
        source = make_small(Path(name) / "source", FILES)
        make_large(source / "large", MIB)
        yield source, Path(name) / "copy"


def seconds(work: Callable[..., object], *arguments: object) -> float:
    os.sync()  # what others wrote is not ours to wait for
    began = time.perf_counter()
    work(*arguments)
    return time.perf_counter() - began


def remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def run_shell(command: str, *arguments: Path) -> None:
    subprocess.run(["sh", "-c", command, "sh", *map(str, arguments)], check=True)


@figure("control-plane", "MiB/s", beside="copy_and_checksum")
def object_put() -> Iterator[Take]:
    """Store the folder as an artefact."""
    with payload() as (source, copy):
        uri = f"{copy.as_uri()}/artefact"

        def take() -> float:
            took = seconds(put, source, uri)
            delete(uri)
            return MIB / took

        yield take


@figure("control-plane", "CPU ms", better="less")
def object_put_cpu() -> Iterator[Take]:
    """CPU time of storing the folder."""
    with payload() as (source, copy):
        uri = f"{copy.as_uri()}/artefact"

        def take() -> float:
            began = time.process_time()
            put(source, uri)
            took = time.process_time() - began
            delete(uri)
            return took * 1000

        yield take


@figure("control-plane", "MiB/s", beside="copy_and_checksum")
def object_get() -> Iterator[Take]:
    """Fetch the artefact, and compare its checksums."""
    with payload() as (source, copy):
        uri = f"{copy.as_uri()}/artefact"
        put(source, uri)

        def take() -> float:
            took = seconds(get, uri, copy / "fetched")
            remove(copy / "fetched")
            return MIB / took

        yield take


@yardstick("MiB/s")
def copy_and_checksum() -> Iterator[Take]:
    """`cp -r`, `sync` of each file, and `sha256sum` of both."""
    with payload() as (source, copy):

        def take() -> float:
            took = seconds(run_shell, COPY, source, copy)
            remove(copy)
            return MIB / took

        yield take
