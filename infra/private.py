"""Files and folders that nobody but this user may read."""

import contextlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

OTHERS, OTHERS_READ_OR_WRITE = 0o077, 0o066


def secret(file: Path, fresh: Callable[[], str]) -> str:
    """What `file` holds; made by `fresh` on first use, whole and with mode 0600.

    Of several that make it at once the first one wins, and all get its text.
    """
    with contextlib.suppress(FileNotFoundError):
        return file.read_text().strip()
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=file.parent, prefix=f"{file.name}.") as whole:
        whole.write(fresh() + "\n")
        whole.flush()
        os.fsync(whole.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(whole.name, file)
    return file.read_text().strip()


def close(home: Path) -> None:
    """Let nobody else into the home folder, nor read what this process and its children write.

    Where the folder is somebody else's, it stays as it is: see `is_open`.
    """
    os.umask(OTHERS)
    if is_open(home):
        with contextlib.suppress(PermissionError):
            home.chmod(0o700)


def is_open(home: Path) -> bool:
    """Whether others may look into the home folder; what is no folder, like /dev/null, is not ours.

    Root's may be walked through, for a PostgreSQL that is not root's: what is in it is closed.
    """
    denied = OTHERS if os.geteuid() else OTHERS_READ_OR_WRITE
    return home.is_dir() and bool(home.stat().st_mode & denied)
