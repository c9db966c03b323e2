"""Fixtures against the real components: one PostgreSQL a session, a fresh database a test."""

from collections.abc import Iterator
from itertools import count
from pathlib import Path

import psycopg
import pytest

from infra import database as db
from infra import keeper
from infra.database.embedded import Postgres
from infra.settings import settings
from tests.users import cycle, train_python, unseen_model, user

__all__ = ["cycle", "train_python", "unseen_model", "user"]
_numbers = count()


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a running embedded server, with {} where the database name goes."""
    folder = tmp_path_factory.mktemp("postgres")
    for parent in (folder, *folder.parents):
        if parent.owner() == "root" and parent != Path("/"):
            parent.chmod(parent.stat().st_mode | 0o011)  # the server of a root user is not root
    service = Postgres(folder)
    address = keeper.use(service)
    yield f"postgresql://{address['user']}@/{{}}?host={address['host']}"
    keeper.leave(service)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty home folder that this process's settings name."""
    monkeypatch.setenv("NIGHTSHIFT_HOME", str(tmp_path / "home"))
    settings.cache_clear()
    yield tmp_path / "home"
    settings.cache_clear()


@pytest.fixture
def database(postgres: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[db.Pool]:
    """The pool of a fresh, migrated database that NIGHTSHIFT_DATABASE_URL names."""
    name = f"test_{next(_numbers)}"
    monkeypatch.setenv("NIGHTSHIFT_DATABASE_URL", postgres.format(name))
    settings.cache_clear()
    yield db.pool()
    db.close()
    with psycopg.connect(postgres.format("postgres"), autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
