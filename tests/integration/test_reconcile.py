"""The sweep of the cost guard over the local launcher: what it finds, does, and only says."""

from pathlib import Path

from infra import ledger
from tasks import reconcile
from tasks.purse import Purse
from tests.integration.test_launch import abandon, budget
from tests.launching import launcher, wait_until_none_is_alive


def test_a_dry_run_says_all_and_does_nothing(home: Path, purse: Purse) -> None:
    handle = abandon(home, purse, steps=9999)
    ledger.settle(purse.pool, handle.reservation)
    said = reconcile.reconcile(purse.pool, "", dry_run=True)
    assert [line for line in said if "without a reservation" in line]
    assert launcher(home).running() == [handle]
    assert reconcile.reconcile(purse.pool, "") == said
    wait_until_none_is_alive(home)
    assert reconcile.reconcile(purse.pool, "") == []


def test_what_is_past_its_reservation_is_stopped_though_somebody_works_at_it(
    home: Path, purse: Purse, monkeypatch
) -> None:
    handle = abandon(home, purse, steps=9999)
    monkeypatch.setattr(reconcile, "OVERDUE", reconcile.OVERDUE - reconcile.timedelta(hours=1))
    with reconcile.run_lock(purse.run.id):
        (said,) = reconcile.reconcile(purse.pool, "")
    assert said == f"{handle.key} is past its reservation; stopped"
    wait_until_none_is_alive(home)
    assert budget(purse, "project").reserved == 0
    assert ledger.audit(purse.pool) == []
