"""Job environments: one pinned file each, made on first use and kept under the file's hash.

python -m infra.compute.environments train          (makes it, prints its Python)
"""

import fcntl
import hashlib
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from infra.compute.uv import ENVIRONMENTS, install_command
from infra.errors import EnvironmentBuildError, NightshiftError, StorageFull
from infra.settings import settings


def ensure(name: str, files: Path = ENVIRONMENTS) -> Path:
    """The Python of environment `name` (`files`/NAME.txt), made first if it is not there.

    Two processes that want the same one make it once; one that was torn is made again. Raises
    EnvironmentBuildError with what uv said, StorageFull.
    """
    if present := made(name, files):
        return present
    requirements = requirements_of(name, files)
    folder = _folder(name, requirements)
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
            complete.touch()
    return python


def made(name: str, files: Path = ENVIRONMENTS) -> Path | None:
    """The Python of environment `name` if it is whole."""
    folder = _folder(name, requirements_of(name, files))
    python = folder / "bin" / "python"
    if (folder / "COMPLETE").exists() and python.exists():  # it may link to a removed Python
        return python
    return None


def _folder(name: str, requirements: Path) -> Path:
    return settings().home / "environments" / f"{name}-{_key(requirements)}"


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


def _key(requirements: Path) -> str:
    python = f"{sysconfig.get_platform()} {sys.version_info}"
    return hashlib.sha256(requirements.read_bytes() + python.encode()).hexdigest()[:16]


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    try:
        print(ensure(sys.argv[1]))
    except NightshiftError as error:
        sys.exit(str(error))
