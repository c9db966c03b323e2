"""Fixtures against the real components: one PostgreSQL a session, a fresh database a test."""

import fcntl
import gc
import subprocess
import warnings
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import psycopg
import pytest

from infra import database as db
from infra import keeper
from infra.compute import local
from infra.database.embedded import Postgres
from infra.settings import settings
from tests.helpers.users import (
    alone,
    cycle,
    lasting_user,
    reachable_folder,
    shared,
    train_python,
    unseen_model,
    user,
)

__all__ = ["alone", "cycle", "lasting_user", "shared", "train_python", "unseen_model", "user"]
_numbers = count()


def wait_until_free(lock: Path) -> None:
    """Until the keeper that holds `lock` has ended, so that its folder can go."""
    with lock.open("a") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    with reachable_folder() as folder:
        yield folder


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MiB, which is soon full. Only root may mount one."""
    folder = tmp_path / "small"
    folder.mkdir(mode=0o711)
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m,mode=711", "tmpfs", str(folder)]
    mounted = subprocess.run(mount, capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"no small disk can be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)
    with warnings.catch_warnings():  # downloads that were given up leave sockets to the collector
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


def pytest_unconfigure() -> None:
    """Collect the exit codes of what was started to outlive us, so that Popen does not complain."""
    for process in keeper._keepers + local._watchdogs:
        process.poll()


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """URL of a running embedded server, with {} where the database name goes.

    It never waits for the disk, which only a power cut would need.
    """
    with reachable_folder() as folder:
        service = Postgres(folder / "postgres")
        address = keeper.use(service)
        url = "postgresql://{user}@/{{}}?host={host}&passfile={passfile}".format(**address)
        with psycopg.connect(url.format("postgres"), autocommit=True) as connection:
            connection.execute("ALTER SYSTEM SET fsync = off")
            connection.execute("SELECT pg_reload_conf()")
        yield url
        keeper.release(service)
        wait_until_free(service.folder / "keeper.lock")


@pytest.fixture(scope="session")
def migrated(postgres: str) -> str:
    """Name of a database with all migrations and no rows, which copies are made of."""
    with reachable_folder() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("NIGHTSHIFT_HOME", str(folder))
        patch.setenv("NIGHTSHIFT_DATABASE_URL", postgres.format("migrated"))
        settings.cache_clear()
        db.pool()
        db.close()
    settings.cache_clear()
    return "migrated"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty home folder that this process's settings name."""
    monkeypatch.setenv("NIGHTSHIFT_HOME", str(tmp_path / "home"))
    settings.cache_clear()
    yield tmp_path / "home"
    settings.cache_clear()


@pytest.fixture
def database(
    postgres: str, migrated: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[db.Pool]:
    """The pool of a fresh, migrated database that NIGHTSHIFT_DATABASE_URL names."""
    name = f"test_{next(_numbers)}"
    with psycopg.connect(postgres.format("postgres"), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {migrated}")
    monkeypatch.setenv("NIGHTSHIFT_DATABASE_URL", postgres.format(name))
    settings.cache_clear()
    yield db.pool()
    db.close()
    with psycopg.connect(postgres.format("postgres"), autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
