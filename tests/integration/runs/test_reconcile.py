"""The sweep of the cost guard over the local launcher: what it finds, does, and only says."""

from pathlib import Path

from infra import ledger
from infra.records import runs
from tasks.runs import crashed, reconcile
from tasks.runs.parameters import RunParameters
from tasks.runs.purse import Purse
from tasks.runs.run import begin
from tests.helpers.launching import launcher, wait_until_none_is_alive
from tests.integration.runs.test_launch import abandon, budget


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


def test_a_run_that_is_taken_up_tells_of_the_flow_run_that_was_killed(
    home: Path, purse: Purse, monkeypatch
) -> None:
    told = []
    monkeypatch.setattr(crashed, "report_crash", lambda *what: told.append(what))

    def work() -> str:
        with begin("test-flow", (), RunParameters(), {}) as work:
            return work.run.id

    taken = work()
    ended = runs.Run(id=taken, flow="test-flow", resumed=True)
    assert told == [] and runs.swap_flow_run(purse.pool, ended, "killed") is None
    assert work() == taken and told == [(taken, "test-flow", "killed")]
    assert work() == taken and len(told) == 1, "the second one ended by itself"
