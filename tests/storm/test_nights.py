"""kill -9 at random moments of nights, of every kind of process in turn.

Afterwards the same command completes the night, nothing runs any more, and the ledger adds up.
"""

import random
import time
from decimal import Decimal

import psutil
import psycopg
import pytest

from infra import keeper
from infra.database.embedded import Postgres

pytestmark = pytest.mark.timeout(0)
KINDS = {
    "flow": "deployments.cli",
    "program": "jobs.ppo",
    "watchdog": "infra.compute.watchdog",
    "postgres": "bin/postgres",
    "keeper": "infra.keeper",
    "prefect": "prefect",
}


def test_night_survives_kills_of_every_process(alone, cycle, kills: int) -> None:
    user = alone
    chance = random.Random(kills)
    log: list[str] = []
    for goal in [*range(50, kills, 50), kills]:
        while len(log) < goal:
            process = user.start(*cycle)
            while process.poll() is None and len(log) < goal:
                time.sleep(chance.uniform(0.5, 9))
                kind = list(KINDS)[len(log) % len(KINDS)]
                if kill_one(user, kind, chance):
                    log.append(kind)
            process.kill()
            process.communicate()
        code, out, err = user.run(*cycle)
        assert code == 0, (log, out, err)
        user.wait_until_nothing_runs()
        check_books(user, log)


def kill_one(user, kind: str, chance: random.Random) -> bool:
    victims = [
        process
        for process in user.processes()
        if any(KINDS[kind] in word for word in _line(process))
    ]
    if not victims:
        return False
    try:
        chance.choice(victims).kill()
    except psutil.Error:
        return False
    return True


def _line(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def check_books(user, log) -> None:
    """Nothing reserved any more, every charge under a job, counters equal to their sums."""
    server = Postgres(user.home / "postgres")
    address = keeper.use(server)
    try:
        where = {**address, "dbname": "nightshift"}
        with psycopg.connect(**where) as connection:
            assert connection.execute("SELECT * FROM ledger_audit()").fetchall() == [], log
            live = "SELECT key FROM reservations WHERE closed_at IS NULL"
            assert connection.execute(live).fetchall() == [], log
            charged = connection.execute("SELECT coalesce(sum(amount), 0) FROM charges").fetchone()
            spent = connection.execute(
                "SELECT coalesce(sum(spent), 0) FROM reservations"
            ).fetchone()
            assert charged == spent
            assert charged and charged[0] > Decimal(0)
            twice = connection.execute(
                "SELECT run_id, count(*) FROM trajectories GROUP BY run_id HAVING count(*) <> 64"
            ).fetchall()
            assert twice == [], log
    finally:
        keeper.release(server)
