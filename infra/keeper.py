"""Background services that live exactly as long as somebody uses them.

A *keeper* is a small process of its own session that runs one service (PostgreSQL, the Prefect
server) for every Nightshift process of one home folder:

- a user holds a shared lock on `users.lock`; the kernel drops it when the user dies, however;
- the keeper holds `keeper.lock`, restarts a service that crashed, and ends it as soon as it can
  take `users.lock` for itself, that is when nobody is left;
- the service gets a signal from the kernel when its keeper is killed (PR_SET_PDEATHSIG).

So no service is started twice and none stays behind, whatever is killed.

    python -m infra.keeper infra.database.embedded:Postgres FOLDER
"""

import contextlib
import ctypes
import fcntl
import importlib
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from typing import IO, Any, Protocol
from urllib.error import HTTPError

from infra.errors import NightshiftError, SettingsError

START_SECONDS = 120
"""A first start makes the data folder and runs all migrations; a busy machine takes a minute."""
KEEPER_SECONDS = 15
"""For a keeper to begin, and to say why its service did not."""
START_ATTEMPTS = 5
"""After a crash the remains of the old service may stand in the way for a moment."""
LOG_BYTES = 10_000_000
"""A log that has grown to this becomes log.txt.1, and the one before is gone: strangers' refused
requests are lines of the gateway's."""
PR_SET_PDEATHSIG = 1


class Service(Protocol):
    """What a keeper runs. `folder` holds its locks, its log and `ready.json`."""

    folder: Path

    @property
    def death_signal(self) -> signal.Signals: ...

    @property
    def end_seconds(self) -> float:
        """How long it may take to end after that signal, before it is killed."""
        ...

    @property
    def error(self) -> type[NightshiftError]: ...

    def start(self) -> subprocess.Popen[bytes]:
        """Start it as a child of this process."""
        ...

    def address(self) -> dict[str, str] | None:
        """Where it answers, or None while it does not answer yet."""
        ...


_used: dict[Path, IO[str]] = {}
_keepers: list[subprocess.Popen[Any]] = []
"""Children of this process that outlive it; kept, since Popen complains when forgotten."""


def use(service: Service) -> dict[str, str]:
    """Have `service` running for as long as this process lives; return its address."""
    folder = service.folder
    if folder not in _used:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            users = (folder / "users.lock").open("a")
        except OSError as error:
            raise SettingsError(
                f"{folder} cannot be used: {error.strerror}",
                "Let NIGHTSHIFT_HOME name a folder that may be written.",
            ) from error
        fcntl.flock(users, fcntl.LOCK_SH)
        _used[folder] = users
    return _address(service)


def release(service: Service) -> None:
    """Stop using it before this process ends; the last one's leave ends the service."""
    users = _used.pop(service.folder, None)
    if users is not None:
        users.close()


def outlives(process: subprocess.Popen[Any]) -> None:
    """Let a child go on after this process without Popen's complaint."""
    _keepers.append(process)


def is_kept(service: Service) -> bool:
    """Whether its keeper lives."""
    lock = service.folder / "keeper.lock"
    return lock.exists() and is_locked(lock)


def address(service: Service) -> dict[str, str]:
    """Where it answers, as its keeper knows; nothing if it does not run."""
    if not is_kept(service):
        return {}
    try:
        return json.loads((service.folder / "ready.json").read_text())
    except FileNotFoundError:
        return {}


def wait_for_end(service: Service) -> None:
    """After `release`: until it has ended, or others are seen to use it."""
    begun = time.monotonic()
    while is_kept(service):
        waited = time.monotonic() - begun
        if waited > 4 * service.end_seconds or (
            waited > 1 and (service.folder / "ready.json").exists()
        ):
            return
        time.sleep(0.05)


def _address(service: Service) -> dict[str, str]:
    folder = service.folder
    ready, keeper_lock, log = folder / "ready.json", folder / "keeper.lock", folder / "log.txt"
    deadline = time.monotonic() + START_SECONDS + KEEPER_SECONDS
    begin = log.stat().st_size if log.exists() else 0
    with (folder / "start.lock").open("a") as start_lock:
        fcntl.flock(start_lock, fcntl.LOCK_EX)
        keeper: subprocess.Popen[bytes] | None = None
        while time.monotonic() < deadline:
            if keeper is None and not is_locked(keeper_lock):
                ready.unlink(missing_ok=True)
                keeper = _spawn(service)
            if ready.exists():
                return json.loads(ready.read_text())
            if keeper is not None and keeper.poll() is not None:
                break
            time.sleep(0.02)
    told = f"it did not answer within {START_SECONDS} s; this machine may be too busy"
    raise service.error(
        f"{type(service).__name__} did not start: {_last_lines(log, begin) or told}",
        f"Read {log}; NIGHTSHIFT_HOME says where this folder lies.",
    )


def _spawn(service: Service) -> subprocess.Popen[bytes]:
    kind = type(service)
    with (service.folder / "log.txt").open("ab") as log:
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "infra.keeper",
                f"{kind.__module__}:{kind.__qualname__}",
                str(service.folder),
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    _keepers.append(process)
    return process


def supervise(service: Service) -> None:
    """Run `service` until nobody uses it any more."""
    folder = service.folder
    own = (folder / "keeper.lock").open("a")
    fcntl.flock(own, fcntl.LOCK_EX)
    stop = False

    def on_signal(_signal: int, _frame: object) -> None:
        nonlocal stop
        stop = True

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ready = folder / "ready.json"
    failures = 0
    with (folder / "users.lock").open("a") as users:
        while not stop:
            ready.unlink(missing_ok=True)
            process = service.start()
            try:
                if _becomes_ready(service, process, ready):
                    failures = 0
                elif (failures := failures + 1) == START_ATTEMPTS:
                    raise service.error(f"ended with exit code {process.returncode} while starting")
                while process.poll() is None and not stop:
                    _limit(folder / "log.txt")
                    try:
                        fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    except BlockingIOError:
                        time.sleep(0.1)
                    else:
                        stop = True
            finally:
                ready.unlink(missing_ok=True)
                _end(process, service.death_signal, service.end_seconds)


def _limit(log: Path) -> None:
    """Begin a log anew that is full. Its writers hold it open, and append: where it then ends."""
    with contextlib.suppress(FileNotFoundError):  # somebody has removed it
        if log.stat().st_size >= LOG_BYTES:
            with contextlib.suppress(OSError):  # the disk is full
                shutil.copyfile(log, log.with_suffix(".txt.1"))
            os.truncate(log, 0)


def _becomes_ready(service: Service, process: subprocess.Popen[bytes], ready: Path) -> bool:
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None:
        address = service.address()
        if address is not None:
            partial = ready.with_suffix(".partial")
            partial.write_text(json.dumps(address))
            partial.replace(ready)
            return True
        if time.monotonic() > deadline:
            raise service.error(f"did not answer within {START_SECONDS} s")
        time.sleep(0.02)
    time.sleep(0.3)
    return False


def _end(process: subprocess.Popen[bytes], first: signal.Signals, seconds: float) -> None:
    for end in (first, signal.SIGTERM, signal.SIGKILL):
        if process.poll() is None:
            process.send_signal(end)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=seconds)


def free_port(wished: int = 0) -> int:
    """A loopback port that nobody uses now: the wished one where it is free."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", wished))
        except OSError:
            return free_port()
        return probe.getsockname()[1]


def answer(url: str | urllib.request.Request, tls: ssl.SSLContext | None = None) -> bytes | None:
    """The begin of what answers at `url`; None where nothing does, an error, or no HTTP."""
    try:
        with urllib.request.urlopen(url, timeout=5, context=tls) as response:  # noqa: S310
            return response.read(1000)
    except HTTPError as error:
        error.close()  # it holds the connection
    except (OSError, HTTPException):
        pass
    return None


def die_with_parent(death_signal: signal.Signals) -> Callable[[], None]:
    """A `preexec_fn`: the kernel sends `death_signal` to the child when its parent dies."""
    parent = os.getpid()
    libc = ctypes.CDLL(None, use_errno=True)

    def apply() -> None:
        libc.prctl(PR_SET_PDEATHSIG, int(death_signal), 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)

    return apply


def is_locked(path: Path) -> bool:
    """Whether a process that is alive holds the lock on a file."""
    with path.open("a") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _last_lines(log: Path, begin: int, count: int = 3) -> str:
    """Of what was written after the byte `begin`; of all where the log was begun anew since."""
    try:
        written = log.read_bytes()
        new = written[begin:] if begin <= len(written) else written
        return " | ".join(new.decode(errors="replace").strip().splitlines()[-count:])
    except OSError as error:
        return str(error)


def main() -> None:
    kind, folder = sys.argv[1:]
    module, name = kind.split(":")
    service: Service = getattr(importlib.import_module(module), name)(Path(folder))
    try:
        supervise(service)
    except (NightshiftError, OSError, subprocess.SubprocessError) as error:
        sys.exit(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
