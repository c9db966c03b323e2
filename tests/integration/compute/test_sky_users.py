"""What one SkyPilot user's list, or one API server's, says of the machines of another.

SkyPilot is played; tests/storm/test_slurm_users.py has two users of a real one.
"""

from datetime import timedelta
from decimal import Decimal
from types import SimpleNamespace

import pytest

from infra import ledger
from infra.compute import attempts
from infra.compute.sky import api
from infra.compute.sky import launcher as sky_launcher
from infra.compute.sky.launcher import SkyLauncher
from infra.compute.sky.presence import LATELY
from infra.contract import JobSpec
from infra.errors import JobFailed, MachineLeft
from tasks.runs import charge, launch, reconcile
from tasks.runs.purse import Purse
from tests.helpers.clocks import set_clock
from tests.helpers.providers import Provider, ago, machine, rent, say

ELSEWHERE = "another-host:/home/somebody"


class ClusterDoesNotExist(Exception):
    """As SkyPilot names it."""


@pytest.fixture
def unseen(provider: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    """The machines are in a workspace that this user may not look into."""
    monkeypatch.setattr(provider, "status", lambda *_, **__: [])


def unknown(name: str) -> None:
    raise ClusterDoesNotExist(name)


def is_left_alone(purse: Purse, attempt: attempts.Attempt) -> bool:
    reconcile.reconcile(purse.pool, "another-run")
    found = attempts.at(purse.pool, attempt.place)
    reservation = ledger.get(purse.pool, attempt.reservation_id)
    return found is not None and found.gone_at is None and not reservation.closed


def test_the_machines_of_all_users_are_seen(
    purse: Purse, sky: SkyLauncher, provider: Provider, wanted: JobSpec
) -> None:
    """SkyPilot lists the caller's own ones, unless it is asked for all."""
    attempt = rent(purse, wanted, 30, submitted_at=ago(28))
    provider.machines[attempt.place] = machine(purse, attempt.place)
    provider.owner = "another user"
    assert sky.running() == [attempt.handle]
    assert sky.poll(attempt.handle).state == "running"
    assert is_left_alone(purse, attempt)


@pytest.mark.usefixtures("unseen")
def test_what_spoke_lately_is_not_gone_though_no_list_has_it(
    purse: Purse, sky: SkyLauncher, wanted: JobSpec
) -> None:
    attempt = rent(purse, wanted, 30, submitted_at=ago(28))
    say(wanted, 1, "running", 30, 1 / 60)
    assert sky.poll(attempt.handle).state == "running"
    assert is_left_alone(purse, attempt)


@pytest.mark.usefixtures("unseen")
def test_what_another_has_listed_lately_is_not_gone(
    purse: Purse, sky: SkyLauncher, wanted: JobSpec
) -> None:
    """Its bucket refuses its word, so that nothing else proves that it lives."""
    attempt = rent(purse, wanted, 30, submitted_at=ago(28), listed_at=ago(1))
    assert is_left_alone(purse, attempt)
    with purse.pool.connection() as connection:
        connection.execute("UPDATE attempts SET listed_at = %s", [ago(9)])
    assert not is_left_alone(purse, attempt)


def test_the_absence_of_what_another_api_server_has_rented_ends_nothing(
    purse: Purse,
    sky: SkyLauncher,
    provider: Provider,
    wanted: JobSpec,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is silent, and this server has never heard of it: only its reservation's end tells."""
    attempt = rent(purse, wanted, 30, server=ELSEWHERE, submitted_at=ago(28))
    monkeypatch.setattr(provider, "down", unknown)
    assert sky.poll(attempt.handle).state == "running"
    assert is_left_alone(purse, attempt)
    with pytest.raises(MachineLeft, match=ELSEWHERE):
        sky.stop(attempt.handle)
    assert is_left_alone(purse, attempt)


def test_what_another_api_server_has_rented_is_paid_to_its_reservations_end(
    purse: Purse, sky: SkyLauncher, wanted: JobSpec
) -> None:
    """Though nobody is known to have seen it: who has rented it cannot be asked."""
    rent(purse, wanted, 480, expired=120, server=ELSEWHERE)
    assert reconcile.reconcile(purse.pool, "another-run")
    (paid,) = charge.reservations(purse.pool, wanted.key)
    assert paid.state == "settled" and Decimal(36) <= paid.spent < Decimal(37)


def test_a_down_that_raised_takes_no_machine_away(
    purse: Purse,
    sky: SkyLauncher,
    provider: Provider,
    wanted: JobSpec,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The list is of no help: it lacks the machine all along."""
    attempt = rent(purse, wanted, 30, submitted_at=ago(28))
    provider.machines[attempt.place] = machine(purse, attempt.place)
    monkeypatch.setattr(provider, "status", lambda *_, **__: [])
    down, refused = provider.down, []

    def refuse(name: str) -> None:
        if len(refused) < 2:
            refused.append(name)
            raise RuntimeError("the cluster is owned by another account")
        down(name)

    monkeypatch.setattr(provider, "down", refuse)
    set_clock(monkeypatch, sky_launcher, sleep=lambda _: None)
    sky.stop(attempt.handle)
    assert provider.machines == {} and len(refused) == 2


def test_what_one_api_server_has_seen_go_is_gone_at_once(
    purse: Purse, sky: SkyLauncher, provider: Provider, wanted: JobSpec
) -> None:
    """Whoever else has listed it before; a lost machine is not waited for."""
    attempt = rent(purse, wanted, 30, submitted_at=ago(28), listed_at=ago(1))
    provider.machines[attempt.place] = machine(purse, attempt.place)
    assert sky.running() == [attempt.handle]
    provider.machines.clear()
    assert sky.poll(attempt.handle).state == "lost"


@pytest.mark.parametrize("queued", ["FAILED", "SUCCEEDED"])
def test_a_node_that_never_reaches_its_bucket_is_paid_once(
    purse: Purse,
    sky: SkyLauncher,
    provider: Provider,
    wanted: JobSpec,
    monkeypatch: pytest.MonkeyPatch,
    queued: str,
) -> None:
    """Its program has ended, as SkyPilot says, and nobody ever heard of it."""
    ended = SimpleNamespace(name=queued, is_terminal=lambda: True)
    monkeypatch.setattr(provider, "job_status", lambda *_: {1: ended})
    monkeypatch.setattr(api, "job_log", lambda _: "AccessDenied: PutObject")
    provider.launches = [lambda _: None] * 5
    with pytest.raises(JobFailed, match=r"(?s)never reached .*AccessDenied"):
        launch.run_job(wanted, purse)
    assert len(attempts.of_job(purse.pool, wanted.key)) == 1 and provider.machines == {}
    assert ledger.open_reservations(purse.pool) == []


def test_lately_covers_the_clock_of_a_node_and_the_beat_of_a_guard() -> None:
    assert timedelta(minutes=5) < LATELY < timedelta(minutes=9)
