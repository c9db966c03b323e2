"""Job environments: one pinned file each, made on first use and kept under the file's hash.

python -m infra.compute.environments train          (makes it, prints its Python)

NAME-test, the tests' own packages, lies on top of NAME.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
from contextlib import suppress
from importlib.util import cache_from_source
from pathlib import Path

from infra.compute.uv import ENVIRONMENTS, install_command
from infra.errors import EnvironmentBuildError, NightshiftError, StorageFull
from infra.settings import settings

TEST = "-test"
OWN = "control"
"""The environment of the control plane: it is there, where this runs."""
CONTROL = {"audit", "control", "dev", "energyplus", "node", "uv"}
"""What the control plane, its developers and a rented machine need for themselves."""


def ensure(name: str, files: Path = ENVIRONMENTS) -> Path:
    """The Python of environment `name` (`files`/NAME.txt), made first if it is not there.

    Two processes that want the same one make it once; one that was torn is made again. Raises
    EnvironmentBuildError with what uv said, StorageFull.
    """
    if present := made(name, files):
        return present
    requirements = requirements_of(name, files)
    below = ensure(name.removesuffix(TEST), files) if name.endswith(TEST) else None
    folder = _folder(name, files)
    complete, python = folder / "COMPLETE", folder / "bin" / "python"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f"{folder.name}.lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _say(f"waiting for another process that makes the environment {name!r} ...")
            fcntl.flock(lock, fcntl.LOCK_EX)
        if not (complete.exists() and python.exists()):
            _say(f"making the job environment {name!r}, a minute or two ...")
            shutil.rmtree(folder, ignore_errors=True)
            _make(folder, python, requirements, lock.fileno())
            if below:
                _put_on(_packages(below), python)
            complete.touch()
    return python


def made(name: str, files: Path = ENVIRONMENTS) -> Path | None:
    """The Python of environment `name` if it is whole."""
    if name == OWN:
        return Path(sys.executable)
    folder = _folder(name, files)
    python = folder / "bin" / "python"
    if (folder / "COMPLETE").exists() and python.exists():  # it may link to a removed Python
        return python
    return None


def job_environments(files: Path = ENVIRONMENTS) -> list[str]:
    """Names of the environments that jobs run in: a file each, beside the control plane's own."""
    names = sorted(path.stem for path in files.glob("*.txt"))
    return [name for name in names if name not in CONTROL and not name.endswith(TEST)]


def _folder(name: str, files: Path) -> Path:
    parts = dict.fromkeys([name, name.removesuffix(TEST)])
    pins = b"".join(requirements_of(part, files).read_bytes() for part in parts)
    python = f"{sysconfig.get_platform()} {sys.version_info}"
    key = hashlib.sha256(pins + python.encode()).hexdigest()[:16]
    return settings().home / "environments" / f"{name}-{key}"


def requirements_of(name: str, files: Path = ENVIRONMENTS) -> Path:
    """The pinned file of environment `name`. Raises EnvironmentBuildError if there is none."""
    path = files / f"{name}.txt"
    if not path.is_file():
        known = ", ".join(sorted(path.stem for path in files.glob("*.txt")))
        raise EnvironmentBuildError(
            f"there is no job environment {name!r}", f"Use one of: {known}."
        )
    return path


def _make(folder: Path, python: Path, requirements: Path, lock: int) -> None:
    from uv import find_uv_bin

    uv = find_uv_bin()
    _run([uv, "venv", "--quiet", "--python", sys.executable, str(folder)], requirements, lock)
    _run(install_command(uv, str(python), requirements), requirements, lock)
    with (folder.parent / "bytecode.lock").open("a") as compiling:
        fcntl.flock(compiling, fcntl.LOCK_EX)  # one after the other, to find what the last one made
        _link_bytecode(folder)
        compiler = [python, "-m", "compileall", "-q", "-j", "0", "-x", "/tests?/", folder / "lib"]
        subprocess.run(compiler, stdout=subprocess.DEVNULL, check=False)  # some files are templates


def _link_bytecode(folder: Path) -> None:
    """Take the bytecode that other environments have of the files that are theirs, too.

    uv links a package's files into each environment from its cache, so that they are the same
    files, of the same times, by which Python knows their bytecode. Jobs see their environment
    read-only: what is not compiled here is compiled by every job anew.
    """
    made = {
        source.stat().st_ino: bytecode
        for source in folder.parent.glob("*/lib/**/*.py")
        if (bytecode := Path(cache_from_source(str(source)))).exists()
    }
    for source in (folder / "lib").rglob("*.py"):
        if bytecode := made.get(source.stat().st_ino):
            own = Path(cache_from_source(str(source)))
            own.parent.mkdir(exist_ok=True)
            with suppress(OSError):  # it is there, or the file system has no links
                os.link(bytecode, own)


def _packages(python: Path) -> Path:
    """Where the environment of `python` has its packages."""
    (packages,) = (python.parents[1] / "lib").glob("python*/site-packages")
    return packages


def _put_on(below: Path, python: Path) -> None:
    """Let the environment of `python` import the packages of `below`, after its own."""
    (_packages(python) / "below.pth").write_text(f"{below.resolve()}\n")


def _run(command: list[str], requirements: Path, lock: int) -> None:
    # uv holds the lock too: when this process is killed, nobody builds where uv still writes.
    done = subprocess.run(command, capture_output=True, text=True, pass_fds=[lock])
    if done.returncode == 0:
        return
    said = (done.stderr or done.stdout).strip()
    if "No space left on device" in said or "Disk quota exceeded" in said:
        raise StorageFull(
            f"the disk is full while making the environment {requirements.stem!r}",
            "Free space, or set NIGHTSHIFT_HOME to a folder on a larger disk.",
        )
    raise EnvironmentBuildError(
        f"the environment {requirements.stem!r} cannot be made: {said[-1500:]}",
        f"Correct {requirements.name}, or the index that pip is configured for "
        "(pip config list shows it), and run the command again.",
    )


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    try:
        print(ensure(sys.argv[1]))
    except NightshiftError as error:
        sys.exit(str(error))
