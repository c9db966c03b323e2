"""Random kills of the flow, of SkyPilot's API server and of nodes, a bucket that denies writes for
a while, and sweeps by another user's guard: nothing is left, every dollar is explained, nothing is
overspent, and no machine ran longer than was charged.

Of HARM the last three strike only a machine whose job makes progress. About 80 s for each strike.
"""

import itertools
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

from infra.compute import attempts, jobs
from infra.compute.attempts import Attempt
from infra.compute.mirror import Mirror
from infra.compute.sky.launcher import SkyLauncher
from infra.compute.sky.presence import TEARDOWN_LAG
from infra.contract import JobSpec
from infra.errors import JobStopped, LaunchError
from infra.ledger import Reservation
from tasks.runs import charge, launch
from tasks.runs.purse import Purse
from tasks.runs.reconcile import reconcile
from tasks.runs.states import RENEWALS
from tests.cloud.lab import (
    STORM_HOURS,
    Meter,
    cancel,
    is_at,
    job,
    kill_api_server,
    nights,
    queue,
    start_night,
    sweep_as_another_user,
    until,
    writes_denied,
)
from tests.storm.record import StormLog

AT_WORK = ("guard", "bucket", "unheard node")
"""Which strike only a job that makes progress. An unheard node is taken away after it could not say
that it lives for two minutes more than TEARDOWN_LAG, since the sums may differ by one minute, and a
machine is charged from its request on; meanwhile another user's guard sweeps."""
HARM = ("flow", "API server", "node", *AT_WORK)
GIVEN_UP = ("without a step", "expired", "hours passed", "could exceed")
KILL_SECONDS = 10
"""Until what Slurm cancels has ended for sure (KillWait), and says no last word."""
STEPS, SECONDS = 600, 0.2
LEFT = 150
"""Steps that a job has to go at least where a strike is to meet it at work."""
NEVER = datetime.min.replace(tzinfo=UTC)
FRESH = timedelta(seconds=10)
"""How old the word of a node may be that is at work."""


@dataclass
class Strike:
    victim: str
    began: datetime
    ended: datetime


@dataclass
class Nights:
    """Jobs one after the other, each in a process that is started anew where it died."""

    purse: Purse
    other_home: Path
    log: StormLog
    chance: random.Random
    number: int = 0
    nodes_lost: datetime = NEVER
    strikes: list[Strike] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.process = start_night(self.purse, self.wanted)

    @property
    def wanted(self) -> JobSpec:
        return job(self.purse, f"step-{self.number}", STORM_HOURS, steps=STEPS, seconds=SECONDS)

    def go_on(self) -> None:
        """Begin the next job where one has ended, and a process for it where none lives."""
        known = jobs.find(self.purse.pool, self.wanted.key)
        if known and known.state in jobs.ENDED:
            self.log.tell(f"step-{self.number} has {known.state}: {known.error or 'well'}")
            assert known.state == "succeeded" or self.is_explained(known.error or ""), known.error
            self.number += 1
        if self.process.poll() is not None:
            self.process = start_night(self.purse, self.wanted)

    def steps_left(self) -> int:
        """Of the job that a machine is at work at now; 0 where none is, or was just taken away."""
        known = attempts.of_job(self.purse.pool, self.wanted.key)
        said = Mirror(self.wanted.output).status(known[-1].number) if known else None
        if not said or said.state != "running" or not said.progress:
            return 0
        oldest = max(datetime.now(UTC) - FRESH, self.nodes_lost)
        return STEPS - said.progress.step if said.seen > oldest else 0

    def is_well_at_work(self) -> bool:
        self.go_on()
        return self.steps_left() >= LEFT

    def strike(self, victim: str) -> None:
        if victim in AT_WORK:
            until(self.is_well_at_work, (1 + RENEWALS) * STORM_HOURS * 3600, pause=1)
        self.go_on()
        left, began = self.steps_left(), datetime.now(UTC)
        self.log.at_work[victim] += bool(left)
        what = f"at work, {left} steps to go" if left else "not at work"
        self.log.tell(f"{began:%H:%M:%S} {victim}: step-{self.number} is {what}")
        self._do_harm(victim)
        ended = datetime.now(UTC)
        self.strikes.append(Strike(victim, began, ended))
        self.log.tell(f"{ended:%H:%M:%S} {victim}: it is over")

    def _do_harm(self, victim: str) -> None:
        match victim:
            case "flow":
                self.process.kill()
                self.process.wait()
            case "API server":
                kill_api_server()
            case "node":
                self._take_nodes()
            case "guard":
                self._sweep()
            case "bucket":
                with writes_denied():
                    time.sleep(self.chance.random() * 60)
            case _:
                self._take_unheard()

    def _take_unheard(self) -> None:
        began = time.monotonic()
        with writes_denied():
            self._sweep()
            silence = TEARDOWN_LAG.total_seconds() + 120 + self.chance.random() * 15
            time.sleep(max(0.0, began + silence - time.monotonic()))
            self._take_nodes()
            time.sleep(KILL_SECONDS)

    def _take_nodes(self) -> None:
        cancel()
        self.nodes_lost = datetime.now(UTC) + timedelta(seconds=KILL_SECONDS)

    def _sweep(self) -> None:
        """The other user's guard leaves the job alone that a living process of ours works at."""
        key = self.wanted.key
        said = sweep_as_another_user(self.other_home)
        self.log.tell(f"the guard said: {said or 'nothing'}")
        assert self.process.poll() is not None or key not in said, said

    def is_explained(self, why: str) -> bool:
        """Whether a job was given up by our strikes alone: each of its reservations met one.

        `why`: its error, which is of its money or its patience (docs/money.md)."""
        given_up = any(one in why for one in GIVEN_UP)
        paid = charge.reservations(self.purse.pool, self.wanted.key)
        return given_up and all(self._met(one) for one in paid)

    def _met(self, reservation: Reservation) -> bool:
        closed = reservation.closed_at or datetime.now(UTC)
        return any(
            one.began <= closed and reservation.created_at <= one.ended for one in self.strikes
        )


def test_random_kills_leave_nothing_and_overspend_nothing(
    sky: SkyLauncher, purse: Purse, kills: int, storm_log: StormLog, tmp_path: Path
) -> None:
    try:
        with Meter() as meter:
            finish(storm(purse, kills, storm_log, tmp_path))
            reconcile(purse.pool, "")
    finally:
        storm_log.count(purse.pool, purse.run.id)
        said = nights().read_text(errors="replace")
        print(said)  # what a failure's report shows
    assert "Traceback" not in said, "a night ends with an error of ours"
    assert queue() == [] and sky.running() == []
    done = jobs.of_run(purse.pool, purse.run.id)
    asked = [one for job in done for one in attempts.of_job(purse.pool, job.key)]
    assert all(one.gone_at for one in asked)
    paid = [one for job in done for one in charge.reservations(purse.pool, job.key)]
    assert all(one.closed and one.spent <= one.amount for one in paid)
    assert {one.reservation_id for one in asked} <= {one.id for one in paid}
    unasked = [name for name, _ in meter.seen if not any(is_at(name, one.place) for one in asked)]
    assert unasked == [], [one.place for one in asked]
    ran = {one.place: cost(one, meter) for one in asked}
    storm_log.tell(f"charged ${storm_log.dollars:.4f}; Slurm ran ${sum(ran.values()):.4f}")
    assert sum(ran.values()) > 0
    for reservation in paid:
        mine = [one for one in asked if one.reservation_id == reservation.id]
        minute = sum(one.hourly_usd / 60 for one in mine)
        due = sum(ran[one.place] for one in mine)
        assert reservation.spent + minute >= due, (reservation, mine, meter.seen)
    assert all(storm_log.at_work[one] for one in AT_WORK if kills >= len(HARM))


def storm(purse: Purse, kills: int, log: StormLog, other_home: Path) -> Nights:
    """Do harm `kills` times to whatever does the run's jobs; what is left of them."""
    chance = random.Random(kills)
    ours = Nights(purse, other_home, log, chance)
    try:
        for victim in itertools.islice(victims(chance), kills):
            ours.go_on()
            if victim not in AT_WORK:
                time.sleep(chance.random() * 25)
            ours.strike(victim)
    finally:
        ours.process.kill()
        ours.process.wait()
    return ours


def cost(attempt: Attempt, meter: Meter) -> Decimal:
    """Dollars for the time that Slurm really ran its machine."""
    return attempt.hourly_usd * Decimal(meter.seconds(attempt.place)) / 3600


def victims(chance: random.Random) -> Iterator[str]:
    """What is done harm to, without end; all of HARM, in another order, before any again."""
    while True:
        yield from chance.sample(HARM, len(HARM))


def finish(ours: Nights) -> None:
    """Have the last job done, to which nobody does harm any more."""
    known = jobs.find(ours.purse.pool, ours.wanted.key)
    if known and known.state in jobs.ENDED:
        assert known.state == "succeeded" or ours.is_explained(known.error or ""), known.error
        return
    try:
        result = launch.run_job(ours.wanted, ours.purse)
        assert result.metrics == {"total": float(sum(range(STEPS)))}
    except (LaunchError, JobStopped) as error:
        assert ours.is_explained(error.message), error
