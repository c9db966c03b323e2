"""A job program for tests that looks for what is not its own; each metric is 1 where it got it."""

import contextlib
import fcntl
import os
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path

from pydantic import BaseModel

from jobs.runtime import Job, Outcome, main


class Config(BaseModel):
    files: dict[str, str] = {}
    sockets: dict[str, str] = {}
    port: int = 0


def environments_with(secret: str) -> None:
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if secret in (process / "environ").read_text(errors="replace"):
                return
    raise FileNotFoundError


def read(path: Path) -> None:
    if not path.read_bytes():
        raise FileNotFoundError


def connect(address: str) -> None:
    with socket.socket(socket.AF_UNIX) as door:
        door.connect(address)


def dial(port: int) -> None:
    socket.create_connection(("127.0.0.1", port), timeout=5).close()


def plant(code: Path) -> None:
    code.touch()
    code.unlink()


def replace_log(folder: Path) -> None:
    (folder / "log.txt").unlink()
    (folder / "log.txt").symlink_to("/elsewhere")


def hold(lock: Path) -> None:
    with lock.open() as stream:
        if not os.path.samestat(os.fstat(stream.fileno()), Path(os.devnull).stat()):
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
    raise FileNotFoundError


def program(job: Job[Config]) -> Outcome:
    here = job.folder
    tries: dict[str, Callable[[], object]] = {
        "environment": lambda: environments_with("hun" + "ter2"),
        "network": lambda: dial(job.config.port),
        "log": lambda: replace_log(here),
        "record": lambda: (here / "attempts" / "9.ended.json").write_text("{}"),
        "lock": lambda: hold(here / "launch.lock"),
        "order": lambda: read(here / "launch.json"),
        "code": lambda: plant(Path(__file__).with_name("planted.py")),
        "kernel": lambda: Path("/proc/sys/kernel/core_pattern").open("a").close(),
        "disks": lambda: next(Path("/dev").glob("[svn][dv][am]*")).open("rb").close(),
    }
    tries |= {name: partial(read, Path(path)) for name, path in job.config.files.items()}
    tries |= {name: partial(connect, at) for name, at in job.config.sockets.items()}
    metrics = {}
    for name, attempt in tries.items():
        try:
            attempt()
            metrics[name] = 1.0
        except (OSError, StopIteration) as error:
            print(f"{name}: {type(error).__name__}: {error}", flush=True)
            metrics[name] = 0.0
    return Outcome(metrics)


if __name__ == "__main__":
    main(Config, program)
