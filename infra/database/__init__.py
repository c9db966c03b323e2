"""PostgreSQL, embedded by default or any server of version 14 and later by URL.

One server holds three databases: ours, `prefect` and `mlflow`.
"""

import atexit
import fcntl
import hashlib
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit, urlunsplit

import psycopg
from psycopg import sql
from psycopg.rows import DictRow, dict_row
from psycopg_pool import ConnectionPool, PoolTimeout

from infra import keeper
from infra.database.embedded import Postgres
from infra.errors import AlreadyRunning, DatabaseUnavailable, SettingsError
from infra.settings import settings

log = logging.getLogger("nightshift")

Pool = ConnectionPool[psycopg.Connection[DictRow]]

OLDEST_SERVER = 140000
MIGRATION_LOCK = 7_305_812_664
PATIENCE_SECONDS = 30
"""For how long a server that does not answer is asked again before that is an error."""


def embedded() -> Postgres:
    """The embedded server of this home folder."""
    return Postgres(settings().home / "postgres")


def url(database: str = "", driver: str = "") -> str:
    """URL of one of the server's databases ('' is our own) for libpq, or SQLAlchemy's `driver`.

    Starts the embedded server when there is no NIGHTSHIFT_DATABASE_URL.
    """
    scheme = f"postgresql+{driver}" if driver else "postgresql"
    given = settings().database_url
    if given is None:
        return _embedded_url(keeper.use(embedded()), scheme, database)
    try:
        parts = urlsplit(given.get_secret_value())
        _ = parts.port  # raises ValueError
    except ValueError:
        parts = urlsplit("")
    if parts.scheme not in ("postgresql", "postgres") or not parts.path.strip("/"):
        raise SettingsError(
            "NIGHTSHIFT_DATABASE_URL is no PostgreSQL URL with a database name",
            "Set it like postgresql://user:password@host:5432/nightshift.",
        )
    path = f"/{database}" if database else parts.path
    return urlunsplit((scheme, parts.netloc, path, parts.query, ""))


def running_url() -> str:
    """URL of our database, without starting a server. Raises DatabaseUnavailable if none runs."""
    if settings().database_url is not None:
        return url()
    address = embedded().address()
    if address is None:
        raise DatabaseUnavailable(
            f"no database runs in {settings().home}",
            "Set NIGHTSHIFT_DATABASE_URL, or NIGHTSHIFT_HOME to the folder of the embedded one.",
        )
    return _embedded_url(address, "postgresql", "")


def _embedded_url(address: dict[str, str], scheme: str, database: str) -> str:
    where = urlencode({name: address[name] for name in ("host", "passfile")}, quote_via=quote)
    return f"{scheme}://{address['user']}@/{database or 'nightshift'}?{where}"


@cache
def pool() -> Pool:
    """This process's connection pool: autocommit, rows as dicts, schema up to date."""
    ensure_database("")
    connections = Pool(
        url(),
        min_size=1,
        max_size=8,
        open=False,
        timeout=PATIENCE_SECONDS,
        kwargs={"autocommit": True, "row_factory": dict_row},
        check=Pool.check_connection,
    )
    try:
        connections.open(wait=True, timeout=PATIENCE_SECONDS)
    except PoolTimeout as error:
        raise _unavailable(error) from None
    atexit.register(connections.close)
    migrate(connections)
    return connections


def close() -> None:
    """Close the pool and leave the embedded server: for tests and long-lived processes."""
    if pool.cache_info().currsize:
        pool().close()
        pool.cache_clear()
    keeper.release(embedded())


def ensure_database(name: str) -> None:
    """Make the database `name` ('' is our own) unless it is there."""
    target = url(name)
    wanted = urlsplit(target).path.strip("/")
    try:
        with psycopg.connect(target, connect_timeout=10):
            return
    except psycopg.OperationalError as error:
        if "does not exist" not in str(error):
            raise _unavailable(error) from None
    try:
        with psycopg.connect(url("postgres"), autocommit=True, connect_timeout=10) as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(wanted)))
    except (psycopg.errors.DuplicateDatabase, psycopg.errors.UniqueViolation):
        return  # the second is what one that is being made at the same time ends in
    except psycopg.Error as error:
        raise DatabaseUnavailable(
            f"the database {wanted!r} is not there and cannot be made: {error}",
            "Make it by hand (CREATE DATABASE), or give the user of NIGHTSHIFT_DATABASE_URL "
            "the right CREATEDB.",
        ) from None


def migrate(connections: Pool) -> None:
    """Apply the numbered SQL files that this database has not seen: all or none."""
    with connections.connection() as connection:
        check_version(connection.info.server_version)
        with connection.transaction():
            connection.execute("SELECT pg_advisory_xact_lock(%s)", [MIGRATION_LOCK])
            for name, text in _pending(connection):
                connection.execute(text.encode())
                connection.execute("INSERT INTO schema_migrations (name) VALUES (%s)", [name])


def server_version() -> int:
    """Version of the server that runs, e.g. 140005 for 14.5; starts none, makes no database.

    Raises DatabaseUnavailable if it does not answer.
    """
    try:
        target = urlsplit(running_url())._replace(path="/postgres")
        with psycopg.connect(urlunsplit(target), connect_timeout=5) as connection:
            return connection.info.server_version
    except psycopg.OperationalError as error:
        raise _unavailable(error) from None


def check_version(server: int) -> None:
    """Raises DatabaseUnavailable for a server that is too old; 140005 is 14.5."""
    if server < OLDEST_SERVER:
        raise DatabaseUnavailable(
            f"PostgreSQL {server // 10000} is too old",
            "Let NIGHTSHIFT_DATABASE_URL name a server of version 14 or later.",
        )


def _pending(connection: psycopg.Connection[DictRow]) -> list[tuple[str, str]]:
    connection.execute(
        "CREATE TABLE IF NOT EXISTS schema_migrations"
        " (name text PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT now())"
    )
    done = {row["name"] for row in connection.execute("SELECT name FROM schema_migrations")}
    scripts = sorted(
        (file.name, file.read_text())
        for file in (files("infra.database") / "migrations").iterdir()
        if file.name.endswith(".sql")
    )
    return [(name, text) for name, text in scripts if name not in done]


@contextmanager
def exclusive(what: str) -> Iterator[None]:
    """Hold the right to do `what` until the block, or this process, ends.

    A session-level advisory lock on a connection of its own; and one on a file of this home folder,
    since the first is lost when PostgreSQL starts anew. Raises AlreadyRunning. Whoever holds it for
    long calls `still_exclusive` before each step that nobody else may do meanwhile.
    """
    file = _lock_file(what)
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _taken(what) from None
        lock = AdvisoryLock(what)
        _held[file] = lock
        try:
            yield
        finally:
            del _held[file]
            lock.connection.close()


def still_exclusive(what: str, seconds: float = 0) -> None:
    """Make sure that this process has the right that it took with `exclusive`.

    Its connection may have died: then the right is taken again. Raises AlreadyRunning where
    somebody else has it by now. Not asked again within `seconds`; a right that this process never
    took is not asked for.
    """
    if lock := _held.get(_lock_file(what)):
        lock.keep(seconds)


class AdvisoryLock:
    """A session-level advisory lock and its connection, which PostgreSQL lets it live as long as.

    TCP keepalives let no router forget the connection, and let either side notice within a minute
    that the other is gone.
    """

    def __init__(self, what: str) -> None:
        self.what = what
        self.turn = threading.Lock()
        self.connection = self._take()

    def keep(self, seconds: float) -> None:
        with self.turn:
            if time.monotonic() - self.confirmed < seconds:
                return
            try:
                self.connection.execute("SELECT 1")
            except psycopg.OperationalError:
                self.connection.close()
                self.connection = self._take()
                log.warning(
                    "the lock of %s was lost with its connection, and taken again", self.what
                )
            self.confirmed = time.monotonic()

    def _take(self) -> psycopg.Connection[tuple[Any, ...]]:
        connection = psycopg.connect(
            url(),
            autocommit=True,
            connect_timeout=10,
            application_name="nightshift lock",
            keepalives_idle=30,
            keepalives_interval=10,
            keepalives_count=3,
            tcp_user_timeout=60_000,
        )
        try:
            connection.execute(
                "SET idle_session_timeout = 0; SET tcp_keepalives_idle = 30;"
                " SET tcp_keepalives_interval = 10; SET tcp_keepalives_count = 3"
            )
            number = _lock_number(self.what)
            row = connection.execute("SELECT pg_try_advisory_lock(%s)", [number]).fetchone()
            if not row or not row[0]:
                raise _taken(self.what)
        except BaseException:
            connection.close()
            raise
        self.confirmed = time.monotonic()
        return connection


_held: dict[Path, AdvisoryLock] = {}
"""The locks of this process, by the file of each."""


def is_exclusive(what: str) -> bool:
    """Whether some process holds the right to do `what`, told without taking it.

    Not for deciding: a holder that lost its connection is not seen until it takes the right again.
    """
    with pool().connection() as connection:
        row = connection.execute(
            "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 1"
            " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
            " AND (classid::bigint << 32) | objid::bigint = %s",
            [_lock_number(what)],
        ).fetchone()
    return row is not None


def _lock_number(what: str) -> int:
    return int.from_bytes(hashlib.sha256(what.encode()).digest()[:8], signed=True)


def _lock_file(what: str) -> Path:
    return settings().home / "locks" / f"{quote(what, safe=' ')}.lock"


def _taken(what: str) -> AlreadyRunning:
    return AlreadyRunning(
        f"another process is running {what}",
        "Wait until it has ended, or stop it; `nightshift jobs list` shows its jobs.",
    )


def _unavailable(error: Exception) -> DatabaseUnavailable:
    given = settings().database_url
    where = "the embedded server"
    if given is not None:
        parts = urlsplit(given.get_secret_value())
        where = f"{parts.hostname}:{parts.port or 5432}"
    return DatabaseUnavailable(
        f"PostgreSQL at {where} does not answer: {str(error).strip().splitlines()[0]}",
        "Start it, or correct NIGHTSHIFT_DATABASE_URL (unset: an embedded server).",
    )
