"""What a job on this machine may reach: the order to `infra.compute.sandbox`.

It sees the system's programs and libraries, our code, its Python and its inputs, read only; its
own folder, its output, the folders that it was given for it, and the caches of models and
compilers, to write. It sees no home folder, no other job, no socket, nobody else's processes, and
no network where NIGHTSHIFT_LOCAL_NETWORK is off.
"""

import json
import os
import pwd
import re
import subprocess
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from infra.compute.watchdog import SANDBOX
from infra.contract import JobSpec
from infra.errors import LaunchError
from infra.objects.local import disk_errors
from infra.settings import settings

SYSTEM = (
    *("/bin", "/etc", "/gnu", "/lib", "/lib32", "/lib64", "/libx32", "/nix", "/opt", "/sbin"),
    *("/sys", "/usr"),
)
DEVICES = (
    *("null", "zero", "full", "random", "urandom"),
    *("nvidia*", "dri", "kfd", "dxg", "infiniband"),
)
"""Below /dev: those without which nothing runs, and those of GPUs and their network."""
MEMORY = ("/dev/shm", "/tmp")  # noqa: S108 - new and empty ones
CACHES = re.compile(r"HF_(HOME|HUB_CACHE|DATASETS_CACHE|XET_CACHE)|TRANSFORMERS_CACHE")
NAMING = re.compile(r"(HF|AWS|SSL|REQUESTS|CUDA)_.*|LD_LIBRARY_PATH")
"""Variables whose paths a job may write, and read."""
GUARDED = ("lock", "launch.lock", "launch.json")
"""Files of the job's folder that are the launcher's and the watchdog's alone."""
KEPT = ("attempts", "spec.json", "log.txt")
"""What a job may read there, and neither change nor replace by a link to another place."""

Sees = dict[str, tuple[str | None, bool]]


def is_walled() -> bool:
    """Whether jobs on this machine run in a sandbox. Raises LaunchError where they cannot run as
    the settings want it."""
    config = settings()
    missing = unavailable() if config.local_sandbox == "auto" else "NIGHTSHIFT_LOCAL_SANDBOX is off"
    if not config.local_network and missing:
        raise LaunchError(
            f"NIGHTSHIFT_LOCAL_NETWORK is off, but jobs here have no sandbox: {missing}",
            "Let it be on, or use another --target.",
        )
    if not config.local_network and config.objects_uri.startswith("s3://"):
        raise LaunchError(
            "NIGHTSHIFT_LOCAL_NETWORK is off, but NIGHTSHIFT_OBJECTS is a bucket",
            "Let it be on, use another --target, or a file:// root.",
        )
    return missing is None


@cache
def unavailable() -> str | None:
    """Why this machine gives no sandbox, None where it does; tried once a process."""
    order = {
        "command": ["/bin/true"],
        "variables": {},
        "folder": "/",
        "network": settings().local_network,
        "sees": _system(),
    }
    try:
        tried = subprocess.run(
            SANDBOX, input=json.dumps(order), capture_output=True, text=True, timeout=30
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return None if tried.returncode == 0 else tried.stderr.strip().rpartition("made: ")[2][-200:]


def reach(spec: JobSpec, folder: Path, python: Path, code: Iterable[Path]) -> dict[str, Any]:
    """What the job of `folder` sees, and whether it has a network. Makes its output's folder and
    those of its caches."""
    home, caches = Path.home(), settings().home / "caches" / spec.environment
    hubs = _named(CACHES) or [home / ".cache" / "huggingface"]
    for place in hubs:
        with suppress(OSError):  # a home that cannot be written: the job's cache is in memory then
            place.mkdir(parents=True, exist_ok=True)
    written = [folder, *hubs, *map(Path, spec.writes), *_files([spec.output])]
    with disk_errors():
        for place in (caches, *_files([spec.output])):
            place.mkdir(parents=True, exist_ok=True)
        (folder / "log.txt").touch()
    given = [*map(Path, spec.reads), *_files(spec.inputs.values())]
    read = [*code, *_interpreter(python), *_named(NAMING), *given]
    if settings().objects_uri.startswith("s3://"):
        read.append(home / ".aws")
    private = {home, settings().home, Path(tempfile.gettempdir())}
    private |= set(_files([settings().objects_uri]))
    with suppress(KeyError):  # a user without a name, as in some containers
        private.add(Path(pwd.getpwuid(os.getuid()).pw_dir))
    sees = _system()
    private |= {place.resolve() for place in private}
    sees |= {str(place): (None, True) for place in private - {Path("/")}}
    sees[str(home / ".cache")] = (str(caches), True)
    sees |= _as_they_are(read, writable=False) | _as_they_are(written, writable=True)
    sees |= {str(folder / name): (os.devnull, False) for name in GUARDED}
    sees |= _as_they_are((folder / name for name in KEPT), writable=False)
    return {"sees": sees, "network": settings().local_network}


def _system() -> Sees:
    devices = [found for name in DEVICES for found in Path("/dev").glob(name)]
    names = _hops(Path("/etc/resolv.conf"))
    sees = _as_they_are((*map(Path, SYSTEM), *names[1:]), writable=False)
    sees |= _as_they_are(devices, writable=True)
    return sees | dict.fromkeys(MEMORY, (None, True))


def _as_they_are(places: Iterable[Path], writable: bool) -> Sees:
    there = [str(place) for place in places if os.access(place, os.F_OK)]
    return {place: (place, writable) for place in there}


def _hops(path: Path) -> list[Path]:
    """A path, and where the link there leads, one link after the other."""
    found = [path]
    while found[-1].is_symlink() and len(found) < 40:
        found.append(Path(os.path.normpath(found[-1].parent / found[-1].readlink())))
    return found


def _interpreter(python: Path) -> list[Path]:
    """The environment of a Python, and what the one has that it was made from."""
    bases = {hop.parent.parent for hop in _hops(python)[1:]} - {python.parent.parent}
    parts = [base / part for base in sorted(bases) for part in ("bin", "lib", "lib64", "ssl")]
    return [python.parent.parent, *parts]


def _named(variables: re.Pattern[str]) -> list[Path]:
    """The absolute paths in some environment variables."""
    listed = [v.split(os.pathsep) for name, v in os.environ.items() if variables.fullmatch(name)]
    return [Path(one) for given in listed for one in given if re.match("/[^/]", one)]


def _files(uris: Iterable[str]) -> list[Path]:
    return [Path(unquote(uri.removeprefix("file://"))) for uri in uris if uri.startswith("file://")]
