"""The lock of a run when its connection dies: taken again, or the work stops; never two at one run.

Another process of this home is kept away by a file; here the other is of another home.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import psycopg
import pytest

from infra import ledger
from infra.compute import jobs
from infra.contract import Progress
from infra.errors import AlreadyRunning
from infra.settings import settings
from tasks.runs import charge, launch, reconcile
from tasks.runs.purse import Purse
from tests.helpers.launching import wait_until_none_is_alive
from tests.integration.runs.test_launch import spec


class Elsewhere:
    """Another home with the same database, and what it holds."""

    def __init__(self, home: Path, monkeypatch: pytest.MonkeyPatch, held: ExitStack) -> None:
        self.home, self.monkeypatch, self.held = home, monkeypatch, held

    def take(self, run_id: str) -> None:
        with self.monkeypatch.context() as patch:
            patch.setenv("NIGHTSHIFT_HOME", str(self.home))
            settings.cache_clear()
            self.held.enter_context(reconcile.run_lock(run_id))
        settings.cache_clear()


@pytest.fixture
def elsewhere(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Elsewhere]:
    with ExitStack() as held:
        yield Elsewhere(home.parent / "elsewhere", monkeypatch, held)


def drop(purse: Purse) -> None:
    """What a router does to a connection that is idle for long, and PostgreSQL at its restart."""
    with purse.pool.connection() as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
            " WHERE application_name = 'nightshift lock' AND datname = current_database()"
        )


def test_a_lock_that_was_lost_is_taken_again_before_the_next_reservation(
    home: Path, purse: Purse, elsewhere: Elsewhere
) -> None:
    with reconcile.run_lock(purse.run.id):
        drop(purse)
        assert launch.run_job(spec(home, purse, steps=2), purse).metrics == {"total": 1.0}
        with pytest.raises(AlreadyRunning):
            elsewhere.take(purse.run.id)
    elsewhere.take(purse.run.id)


def test_where_another_has_taken_the_lock_nothing_more_is_reserved(
    home: Path, purse: Purse, elsewhere: Elsewhere
) -> None:
    with reconcile.run_lock(purse.run.id):
        assert launch.run_job(spec(home, purse, steps=2), purse).metrics == {"total": 1.0}
        drop(purse)
        elsewhere.take(purse.run.id)
        wanted = spec(home, purse, "next", steps=2)
        with pytest.raises(AlreadyRunning, match=purse.run.id):
            launch.run_job(wanted, purse)
        assert charge.reservations(purse.pool, wanted.key) == []


def test_a_job_whose_run_another_has_taken_is_ended(
    home: Path, purse: Purse, elsewhere: Elsewhere, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it has done is in its checkpoint; its row is the other's now."""
    monkeypatch.setattr(launch, "LOCK_SECONDS", 0)
    wanted = spec(home, purse, steps=9999)

    def lose(_progress: object) -> None:
        drop(purse)
        elsewhere.take(purse.run.id)

    with reconcile.run_lock(purse.run.id), pytest.raises(AlreadyRunning, match=purse.run.id):
        launch.run_job(wanted, purse, lose)
    wait_until_none_is_alive(home)
    found = jobs.find(purse.pool, wanted.key)
    assert found and found.state == "running"
    assert ledger.open_reservations(purse.pool) == []


def test_a_database_that_is_away_for_a_moment_ends_no_job(
    home: Path, purse: Purse, elsewhere: Elsewhere, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "LOCK_SECONDS", 0)
    refused, connect = [], psycopg.connect

    def away(*given: object, **options: object) -> object:
        if len(refused) == 3:
            return connect(*given, **options)  # type: ignore[arg-type]
        refused.append(1)
        raise psycopg.OperationalError("no route to host")

    def lose(progress: Progress) -> None:
        if progress.step == 1:
            drop(purse)
            monkeypatch.setattr(psycopg, "connect", away)

    with reconcile.run_lock(purse.run.id):
        result = launch.run_job(spec(home, purse, steps=40), purse, lose)
        with pytest.raises(AlreadyRunning):
            elsewhere.take(purse.run.id)
    assert result.metrics == {"total": float(sum(range(40)))} and len(refused) == 3
