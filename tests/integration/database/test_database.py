"""The embedded server and its keeper, for real: who uses it keeps it, nobody leaves it behind."""

import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import psycopg
import pytest

from infra import database as db
from infra import keeper, private
from infra.database.embedded import Postgres, _who_serves
from infra.errors import AlreadyRunning, DatabaseUnavailable, SettingsError
from infra.settings import REPOSITORY, settings

USER = """
import sys, time
from infra import keeper
from pathlib import Path
from infra.database.embedded import Postgres
print(keeper.use(Postgres(Path(sys.argv[1])))["host"], flush=True)
time.sleep(60)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "postgres"


def start_user(folder: Path) -> subprocess.Popen[str]:
    user = subprocess.Popen(
        [sys.executable, "-c", USER, str(folder)], stdout=subprocess.PIPE, text=True
    )
    assert user.stdout and user.stdout.readline()
    return user


def end(user: subprocess.Popen[str]) -> None:
    user.kill()
    user.wait()
    assert user.stdout
    user.stdout.close()


def processes(folder: Path) -> list[psutil.Process]:
    """The keeper and the server of `folder`, but no client of it."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        line = process.info["cmdline"] or []
        if "infra.keeper" in line and str(folder) in line:
            found.append(process)
        elif line and line[0].endswith("bin/postgres") and str(folder / "data") in line:
            found.append(process)
    return found


def wait_until_gone(folder: Path) -> None:
    deadline = time.monotonic() + 15
    while processes(folder) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert processes(folder) == []


def test_server_ends_after_its_last_user_is_killed(folder: Path) -> None:
    first, second = start_user(folder), start_user(folder)
    end(first)
    time.sleep(0.5)
    assert len(processes(folder)) == 2, "one keeper and one server serve both users"
    end(second)
    wait_until_gone(folder)


@pytest.mark.parametrize("victim", ["infra.keeper", "postgres"])
def test_killed_keeper_or_server_is_replaced_and_data_stays(folder: Path, victim: str) -> None:
    service = Postgres(folder)
    address = keeper.use(service)
    where = {**address, "dbname": "postgres"}
    with psycopg.connect(**where, autocommit=True) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 42 AS answer")
    for process in processes(folder):
        line = process.cmdline()
        if victim in line or line[0].endswith(victim):
            os.kill(process.pid, signal.SIGKILL)
            process.wait(10)
    deadline = time.monotonic() + 30
    while True:
        try:
            keeper.use(service)
            with psycopg.connect(**where) as connection:
                row = connection.execute("SELECT answer FROM kept").fetchone()
            break
        except psycopg.OperationalError:
            assert time.monotonic() < deadline
            time.sleep(0.1)
    assert row == (42,)
    keeper.release(service)
    wait_until_gone(folder)


def test_a_log_does_not_grow_for_ever(folder: Path) -> None:
    service = Postgres(folder)
    keeper.use(service)
    log, older = folder / "log.txt", folder / "log.txt.1"
    with log.open("ab", buffering=0) as service_log:
        for line in (b"first\n", b"second\n"):
            service_log.write(line + bytes(keeper.LOG_BYTES))
            deadline = time.monotonic() + 15
            while log.stat().st_size >= keeper.LOG_BYTES and time.monotonic() < deadline:
                time.sleep(0.05)
            service_log.write(b"after\n")
            assert log.read_bytes() == b"after\n", "whoever holds it open goes on at its new end"
    assert older.read_bytes().startswith(b"after\nsecond\n"), "one older part is kept"
    keeper.release(service)
    wait_until_gone(folder)


def test_the_server_asks_for_a_password_that_nobody_else_reads(folder: Path) -> None:
    service = Postgres(folder)
    address = keeper.use(service)
    assert Path(address["passfile"]).stat().st_mode & 0o777 == 0o600
    psycopg.connect(**address, dbname="postgres").close()
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(host=address["host"], user=address["user"], dbname="postgres")
    keeper.release(service)
    wait_until_gone(folder)


def test_a_data_folder_of_before_gets_a_password_and_keeps_its_data(folder: Path) -> None:
    service = Postgres(folder)
    address = keeper.use(service)
    with psycopg.connect(**address, dbname="postgres", autocommit=True) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 42 AS answer")
        connection.execute("ALTER ROLE nightshift PASSWORD NULL")
    keeper.release(service)
    wait_until_gone(folder)
    (folder / "data" / "pg_hba.conf").write_text("local all all trust\n")
    Path(address["passfile"]).unlink()

    address = keeper.use(service)
    with psycopg.connect(**address, dbname="postgres") as connection:
        assert connection.execute("SELECT answer FROM kept").fetchone() == (42,)
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(host=address["host"], user=address["user"], dbname="postgres")
    keeper.release(service)
    wait_until_gone(folder)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's PostgreSQL is somebody else's")
def test_without_user_namespaces_an_account_may_walk_through_the_home_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, folder = tmp_path / "home", tmp_path / "home" / "postgres"
    (folder / "data").mkdir(parents=True)
    for closed in (home, folder):
        closed.chmod(0o700)
    monkeypatch.setattr(shutil, "which", lambda _: None)
    assert _who_serves(folder / "data").user
    assert [closed.stat().st_mode & 0o777 for closed in (home, folder)] == [0o711, 0o711]
    assert not private.is_open(home), "nobody looks into it, and no command closes it again"


def test_half_made_data_folder_is_made_again(folder: Path) -> None:
    (folder / "data.new").mkdir(parents=True)
    (folder / "data.new" / "PG_VERSION").write_text("18\n")
    service = Postgres(folder)
    assert keeper.use(service)["user"] == "nightshift"
    keeper.release(service)
    wait_until_gone(folder)


def test_migrations_are_applied_once(database: db.Pool) -> None:
    db.migrate(database)
    with database.connection() as connection:
        rows = connection.execute("SELECT name FROM schema_migrations ORDER BY name").fetchall()
    assert rows[0]["name"] == "0001_spine.sql"
    assert len(rows) == len({row["name"] for row in rows})


def test_two_first_starts_at_once_make_a_database_once(database: db.Pool) -> None:
    with ThreadPoolExecutor(4) as starts:
        list(starts.map(db.ensure_database, ["made_at_once"] * 4))
    with database.connection() as connection:
        connection.execute("DROP DATABASE made_at_once")


def test_only_one_process_holds_the_right_to_a_run(database: db.Pool) -> None:
    assert not db.is_exclusive("nightly-ppo")
    with db.exclusive("nightly-ppo"):
        assert db.is_exclusive("nightly-ppo") and not db.is_exclusive("dpo-training")
        with pytest.raises(AlreadyRunning, match="nightly-ppo"), db.exclusive("nightly-ppo"):
            pass
        with db.exclusive("dpo-training"):
            pass
    with db.exclusive("nightly-ppo"):
        pass


def test_the_right_to_a_run_is_held_from_other_homes(
    database: db.Pool, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with db.exclusive("a/b"):
        monkeypatch.setenv("NIGHTSHIFT_HOME", str(home / "other"))
        settings.cache_clear()
        with pytest.raises(AlreadyRunning), db.exclusive("a/b"):
            pass


def test_the_right_to_a_run_outlives_a_restart_of_the_server(database: db.Pool) -> None:
    with db.exclusive("nightly-ppo"):
        with database.connection() as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
                " WHERE application_name = 'nightshift lock' AND datname = current_database()"
            )
        with pytest.raises(AlreadyRunning), db.exclusive("nightly-ppo"):
            pass
    with db.exclusive("nightly-ppo"):
        pass


def test_unreachable_server_is_one_clear_error(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NIGHTSHIFT_DATABASE_URL", "postgresql://u:secret@127.0.0.1:1/nightshift")
    settings.cache_clear()
    with pytest.raises(DatabaseUnavailable, match=r"127\.0\.0\.1:1 does not answer") as caught:
        db.pool()
    assert "NIGHTSHIFT_DATABASE_URL" in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["mysql://localhost/nightshift", "postgresql://h:99999/d", "postgresql://[::1/d"]
)
def test_wrong_url_names_the_setting(home: Path, monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("NIGHTSHIFT_DATABASE_URL", url)
    settings.cache_clear()
    with pytest.raises(SettingsError, match="NIGHTSHIFT_DATABASE_URL"):
        db.url()


@pytest.mark.parametrize("place", [__file__, "/proc/nowhere"], ids=["file", "no folder"])
def test_a_home_that_cannot_be_used_names_the_setting(place: str) -> None:
    with pytest.raises(SettingsError, match="NIGHTSHIFT_HOME"):
        keeper.use(Postgres(Path(place) / "postgres"))


def test_a_role_without_superuser_is_enough(
    postgres: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As infra/server/role.sh makes it."""
    script = (REPOSITORY / "infra" / "server" / "role.sh").read_text()
    sql = script.split("<<'SQL'\n")[1].split("SQL\n")[0]
    sql = sql.replace(":'password'", "'x'").replace("DATABASE prefect", "DATABASE of_role")
    sql = sql.replace("nightshift", "app")  # who is the embedded server's superuser
    with psycopg.connect(postgres.format("postgres"), autocommit=True) as connection:
        for statement in sql.strip().split(";\n"):
            connection.execute(statement.rstrip(";").encode())
    given = urlsplit(postgres.format("app_role"))
    url = given._replace(netloc="app:x@").geturl()
    monkeypatch.setenv("NIGHTSHIFT_DATABASE_URL", url)
    settings.cache_clear()
    try:
        with db.pool().connection() as connection:
            row = connection.execute("SELECT usesuper FROM pg_user WHERE usename = user").fetchone()
        assert row == {"usesuper": False}
        theirs = urlsplit(postgres.format("of_role"))._replace(netloc="app:x@").geturl()
        with psycopg.connect(theirs) as connection:
            connection.execute("CREATE EXTENSION pg_trgm")  # Prefect's migrations do
    finally:
        db.close()
        settings.cache_clear()
        with psycopg.connect(postgres.format("postgres"), autocommit=True) as connection:
            for name in ("app_role", "of_role"):
                connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)".encode())
            connection.execute("DROP ROLE app")
