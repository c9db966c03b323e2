"""Reserve + settle pairs a second on one hot budget row, beside pgbench on the same server.

    python -m benchmarks.ledger

Both sides have 8 connections over the unix socket of one embedded server with its default
durability (fsync on), and take turns. Ours is 8 processes calling `infra.ledger`; every pair is
two transactions: the reservation is on disk when `reserve` returns, the settlement is written out
just after (0003_ledger_functions.sql says why that is safe). Theirs is `pgbench` with prepared
statements; its transaction updates the one row and inserts one, as a reservation must at least.
A ratio of 0.5 means that each of our transactions costs as much as one of pgbench's.
Left out: reservations under several budgets (each costs one more row lock), network distance.
"""

import json
import multiprocessing
import statistics
import subprocess
import tempfile
import time
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from multiprocessing.synchronize import Barrier
from pathlib import Path

import psycopg
from psycopg.rows import dict_row

from infra import database, keeper, ledger
from infra.database.embedded import Postgres, binary

CONNECTIONS = 8
ROUNDS = 9
SECONDS = 2.0

TABLES = """
CREATE TABLE hot (id integer PRIMARY KEY, reserved numeric(12,4) NOT NULL) WITH (fillfactor = 20);
INSERT INTO hot VALUES (1, 0);
CREATE TABLE entries (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    key text NOT NULL, amount numeric(12,4) NOT NULL, created_at timestamptz NOT NULL);
"""
TRANSACTION = """
\\set amount random(1, 10000)
BEGIN;
UPDATE hot SET reserved = reserved + :amount / 10000.0 WHERE id = 1;
INSERT INTO entries (key, amount, created_at) VALUES ('key', :amount / 10000.0, now());
END;
"""


def pairs(url: str, name: str, start: Barrier, counts: "multiprocessing.Queue[int]") -> None:
    """Reserve and settle for SECONDS on a connection of its own; the count goes into `counts`."""
    with database.Pool(
        url, min_size=1, max_size=1, kwargs={"autocommit": True, "row_factory": dict_row}
    ) as pool:
        pool.wait()
        done = 0
        start.wait()
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            until = datetime.now(UTC) + timedelta(minutes=1)
            reservation = ledger.reserve(pool, f"{name}/{done}", [], Decimal("0.0100"), until)
            ledger.settle(pool, reservation.id)
            done += 1
        counts.put(done)


def measure_ledger(url: str, round_: int) -> float:
    """Pairs a second of all processes together."""
    context = multiprocessing.get_context("forkserver")
    start, counts = context.Barrier(CONNECTIONS), context.Queue()
    processes = [
        context.Process(target=pairs, args=(url, f"{round_}/{number}", start, counts))
        for number in range(CONNECTIONS)
    ]
    for process in processes:
        process.start()
    total = sum(counts.get(timeout=60) for _ in processes)
    for process in processes:
        process.join()
    return total / SECONDS


def measure_pgbench(url: str, script: Path) -> float:
    """Transactions a second, as pgbench reports them."""
    done = subprocess.run(
        [binary("pgbench"), "--no-vacuum", "--protocol=prepared", f"--file={script}"]
        + [f"--client={CONNECTIONS}", "--jobs=2", f"--time={SECONDS:.0f}", url],
        capture_output=True,
        text=True,
        check=True,
    )
    [line] = [line for line in done.stdout.splitlines() if line.startswith("tps = ")]
    return float(line.split()[2])


def main() -> None:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o711)
        service = Postgres(folder / "postgres")
        address = keeper.use(service)
        url = f"postgresql://{address['user']}@/postgres?host={address['host']}"
        try:
            with database.Pool(url, kwargs={"autocommit": True, "row_factory": dict_row}) as pool:
                database.migrate(pool)
                ledger.set_budget(pool, "project", "day", Decimal(1000))
            with psycopg.connect(url, autocommit=True) as connection:
                connection.execute(TABLES)
            script = folder / "transaction.sql"
            script.write_text(TRANSACTION)
            ours: list[float] = []
            theirs: list[float] = []
            for round_ in range(ROUNDS):
                theirs.append(measure_pgbench(url, script))
                ours.append(measure_ledger(url, round_))
        finally:
            keeper.leave(service)
            while (service.data / "postmaster.pid").exists():
                time.sleep(0.05)
    report(ours, theirs)


def report(ours: list[float], theirs: list[float]) -> None:
    ratios = [mine / other for mine, other in zip(ours, theirs, strict=True)]
    rows = {"ledger_pairs_per_s": ours, "pgbench_tps": theirs, "ratio": ratios}
    print(f"{'':20}{'min':>10}{'median':>10}{'max':>10}")
    result = {}
    for name, values in rows.items():
        spread = min(values), statistics.median(values), max(values)
        result[name] = [round(value, 3) for value in spread]
        print(f"{name:20}" + "".join(f"{value:>10.2f}" for value in spread))
    print(json.dumps({"benchmark": "ledger", "rounds": len(ours), **result}))


if __name__ == "__main__":
    main()
