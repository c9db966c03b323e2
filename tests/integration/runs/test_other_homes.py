"""Two homes on one database: neither frees the money of what the other runs on its machine."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from deployments.commands import tables
from infra import ledger
from infra.compute import jobs
from infra.errors import InputError, ProviderUnavailable
from infra.settings import settings
from tasks.runs import launch, offers, reconcile
from tasks.runs.purse import Purse
from tests.helpers.launching import launcher, wait
from tests.integration.runs.test_launch import abandon, budget, spec


@pytest.fixture
def other(home: Path, monkeypatch: pytest.MonkeyPatch):
    """To be at another home while the block runs."""

    @contextmanager
    def at_the_other() -> Iterator[None]:
        with monkeypatch.context() as patch:
            there = home.parent / "other"
            patch.setenv("NIGHTSHIFT_HOME", str(there))
            patch.setattr(offers, "launchers", lambda _target: {"local": launcher(there)})
            settings.cache_clear()
            yield
        settings.cache_clear()

    return at_the_other


def test_what_runs_at_another_home_is_left_alone_and_said(home: Path, purse: Purse, other) -> None:
    handle = abandon(home, purse, steps=9999)
    with other():
        (said,) = reconcile.reconcile(purse.pool, "another-run")
    assert handle.key in said and str(home) in said and "left alone" in said
    assert budget(purse, "project").reserved > 0
    launcher(home).stop(handle)
    assert reconcile.reconcile(purse.pool, "another-run") != []
    assert budget(purse, "project").reserved == 0 < budget(purse, "project").charged


def test_a_person_elsewhere_is_told_where_to_stop_it(home: Path, purse: Purse, other) -> None:
    handle = abandon(home, purse, steps=9999)
    with other(), pytest.raises(InputError, match=f"runs at .*{home}"):
        tables.stop_job(handle.key, as_json=False)
    found = jobs.find(purse.pool, handle.key)
    assert found and found.state not in jobs.ENDED
    launcher(home).stop(handle)


def test_what_another_home_has_left_is_freed_once_its_reservation_is_over(
    home: Path, purse: Purse, other, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its watchdog has ended it by then; that home may never come back."""
    handle = abandon(home, purse, steps=9999)
    launcher(home).stop(handle)
    monkeypatch.setattr(reconcile, "OVERDUE", reconcile.OVERDUE - timedelta(hours=1))
    with other():
        assert "freed" in " ".join(reconcile.reconcile(purse.pool, "another-run"))
    assert budget(purse, "project").reserved == 0


def test_a_run_that_another_home_takes_up_launches_no_second_job(
    home: Path, purse: Purse, other
) -> None:
    """The first home's process is dead, so that its lock is free; its watchdog goes on."""
    handle = abandon(home, purse, steps=9999)
    wanted = spec(home, purse, "abandoned", steps=9999)
    with other(), pytest.raises(ProviderUnavailable, match=f"runs at .*{home}") as refused:
        launch.run_job(wanted, purse)
    assert "there" in refused.value.remedy
    found = jobs.find(purse.pool, handle.key)
    assert found and found.home == jobs.here() and found.state == "launching"
    assert launcher(home).poll(handle).state == "running"
    assert not list((home.parent / "other").glob("jobs/*"))
    launcher(home).stop(handle)


def test_what_another_home_may_have_run_is_paid_whole_before_it_is_taken_up(
    home: Path, purse: Purse, other, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its reservation is over. What it really cost is known there alone."""
    handle = abandon(home, purse, steps=2)
    wanted = spec(home, purse, "abandoned", steps=2)
    wait(launcher(home), handle)
    monkeypatch.setattr(reconcile, "OVERDUE", reconcile.OVERDUE - timedelta(hours=1))
    with other():
        assert launch.run_job(wanted, purse).metrics == {"total": 1.0}
        found = jobs.find(purse.pool, handle.key)
        assert found and found.home == jobs.here()
    first = ledger.get(purse.pool, handle.reservation)
    assert first.state == "settled" and first.spent == first.amount
    assert ledger.open_reservations(purse.pool) == [] == ledger.audit(purse.pool)


def test_what_was_freed_while_it_ran_is_charged_all_the_same(home: Path, purse: Purse) -> None:
    handle = abandon(home, purse, steps=20, seconds=0.05)
    ledger.settle(purse.pool, handle.reservation)
    wait(launcher(home), handle)
    reconcile.reconcile(purse.pool, "another-run")
    found = jobs.find(purse.pool, handle.key)
    assert found and found.state == "succeeded"
    assert ledger.get(purse.pool, handle.reservation).spent > Decimal("0.005")
    assert ledger.audit(purse.pool) == []
