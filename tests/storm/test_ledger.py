"""16 processes on one budget, some killed with SIGKILL in the middle: the sum is right to the cent.

Each worker has its own list of jobs. A killed worker is started again with the same list and, like
every job launcher here, finds out by the keys what was done. Whatever it was killed in, every job
must be paid exactly once.
"""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from decimal import Decimal

import pytest

from infra import ledger
from infra.database import Pool
from infra.settings import settings

pytestmark = pytest.mark.timeout(0)
WORKERS = 16
RESERVED = Decimal("0.5000")
CHARGES = [Decimal("0.0101"), Decimal("0.0033"), Decimal("0.0707")]

WORKER = """
import random, sys, time
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from infra import database, ledger
from infra.errors import BudgetExceeded

name, jobs, reserved, *charges = sys.argv[1:]
pool = database.pool()
day = datetime(2026, 1, 1, tzinfo=UTC)
for number in range(int(jobs)):
    key = f"{name}/{number}"
    while (known := ledger.find(pool, key)) is None or not known.closed:
        try:
            until = datetime.now(UTC) + timedelta(hours=1)
            known = ledger.reserve(pool, key, ["flow:f"], Decimal(reserved), until)
        except BudgetExceeded:
            time.sleep(0.02 * random.random())
            continue
        for step, amount in enumerate(charges):
            start = day + timedelta(seconds=step)
            ledger.charge(pool, known.id, f"{key}/{step}", Decimal(amount), start, start)
            time.sleep(0.005 * random.random())
        ledger.settle(pool, known.id)
"""


@pytest.fixture
def workers() -> Iterator[list[subprocess.Popen[bytes]]]:
    """Started by the test, ended with it."""
    started: list[subprocess.Popen[bytes]] = []
    yield started
    for worker in started:
        if worker.poll() is None:
            worker.kill()
        worker.wait()


def start(number: int, jobs: int) -> subprocess.Popen[bytes]:
    given = settings().database_url
    assert given is not None
    arguments = [f"worker-{number}", str(jobs), str(RESERVED), *map(str, CHARGES)]
    return subprocess.Popen(
        [sys.executable, "-c", WORKER, *arguments],
        env=os.environ | {"NIGHTSHIFT_DATABASE_URL": given.get_secret_value()},
    )


def record_every_excess(pool: Pool) -> None:
    """Have the database itself write down each moment at which a window is beyond its limit."""
    with pool.connection() as connection:
        connection.execute(
            """
            CREATE TABLE excesses (charged numeric, reserved numeric);
            CREATE FUNCTION record_excess() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN
                INSERT INTO excesses VALUES (NEW.charged, NEW.reserved);
                RETURN NULL;
            END $$;
            CREATE TRIGGER record_excess AFTER UPDATE ON budget_windows FOR EACH ROW
                WHEN (NEW.charged + NEW.reserved > NEW.limit_usd)
                EXECUTE FUNCTION record_excess();
            """
        )


def test_sum_is_right_after_kills(
    database: Pool, workers: list[subprocess.Popen[bytes]], kills: int
) -> None:
    jobs = max(10, kills)
    cost = sum(CHARGES, Decimal(0)) * WORKERS * jobs
    limit = cost + 5 * RESERVED  # so that most workers are refused now and then at the end
    ledger.set_budget(database, "project", "total", limit)
    ledger.set_budget(database, "flow:f", "total", limit)
    record_every_excess(database)
    workers.extend(start(number, jobs) for number in range(WORKERS))
    while len(ledger.open_reservations(database)) < 3:
        assert all(worker.poll() is None for worker in workers)
        time.sleep(0.01)
    killed = 0
    while killed < kills and any(worker.poll() is None for worker in workers):
        number = random.randrange(WORKERS)
        if workers[number].poll() is None:
            workers[number].send_signal(signal.SIGKILL)
            workers[number].wait()
            killed += 1
            workers[number] = start(number, jobs)
        time.sleep(0.05 * random.random())
    assert [worker.wait(timeout=60 + kills) for worker in workers] == [0] * WORKERS
    assert killed >= kills / 2, "the workers were done before they could be killed"
    assert ledger.audit(database) == []
    assert ledger.open_reservations(database) == []
    assert ledger.charged(database, "project") == cost
    for budget in ledger.budgets(database)[1:]:
        assert (budget.charged, budget.reserved, budget.remaining) == (cost, 0, limit - cost)
    with database.connection() as connection:
        assert connection.execute("SELECT * FROM excesses").fetchall() == []
        [charges] = connection.execute("SELECT count(*) AS count FROM charges").fetchall()
    assert charges["count"] == WORKERS * jobs * len(CHARGES)
