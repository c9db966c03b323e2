"""Reserve + settle pairs a second on one hot budget row, beside pgbench on a server of its own.

    nightshift run benchmarks --suite control-plane

Both sides have 8 connections over the unix socket of an embedded server with its default
durability (fsync on), and take turns. Ours is 8 processes calling `infra.ledger`; every pair is
two transactions: the reservation is on disk when `reserve` returns, the settlement is written out
just after (0003_ledger_functions.sql says why that is safe). Theirs is `pgbench` with prepared
statements; its transaction updates the one row and inserts one, as a reservation must at least.
A ratio of 0.5 means that each of our transactions costs as much as one of pgbench's.
Left out: reservations under several budgets (each costs one more row lock), network distance.
"""

import multiprocessing
import re
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from multiprocessing.synchronize import Barrier
from pathlib import Path
from urllib.parse import urlencode

import psutil
import psycopg
from psycopg.rows import dict_row

from benchmarks.commands import spent
from benchmarks.figures import Take, figure, yardstick
from infra import database, keeper, ledger
from infra.database.embedded import Postgres, binary

CONNECTIONS = 8
SECONDS = 2.0
SINGLE = 100
"""Pairs one after the other in a sample of their time."""
COUNTED = 20
"""The same in a sample of their CPU time."""

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


@contextmanager
def server() -> Iterator[tuple[str, Path]]:
    """URL of an embedded server of its own, and a folder."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o711)
        service = Postgres(folder / "postgres")
        address = keeper.use(service)
        try:
            where = urlencode({name: address[name] for name in ("host", "passfile")})
            yield f"postgresql://{address['user']}@/postgres?{where}", folder
        finally:
            keeper.release(service)
            while (service.data / "postmaster.pid").exists():
                time.sleep(0.05)


def connections(url: str, count: int = 1) -> database.Pool:
    """A pool of `count` connections."""
    options = {"autocommit": True, "row_factory": dict_row}
    return database.Pool(url, min_size=count, max_size=count, kwargs=options)


def prepare(url: str) -> None:
    """The ledger's tables, and one budget."""
    with connections(url) as pool:
        database.migrate(pool)
        ledger.set_budget(pool, "project", "day", Decimal(100_000))


def pair(pool: database.Pool, key: str) -> None:
    """Reserve a cent and settle it."""
    until = datetime.now(UTC) + timedelta(minutes=1)
    reservation = ledger.reserve(pool, key, [], Decimal("0.0100"), until)
    ledger.settle(pool, reservation.id)


def work(url: str, name: str, start: Barrier, counts: "multiprocessing.Queue[int]") -> None:
    """Whenever all are at `start`, pairs for SECONDS on a connection of its own; their count."""
    number = 0
    with connections(url) as pool:
        pool.wait()
        while True:
            start.wait()
            begun, end = number, time.monotonic() + SECONDS
            while time.monotonic() < end:
                pair(pool, f"{name}/{number}")
                number += 1
            counts.put(number - begun)


@figure("control-plane", "pairs/s", beside="pgbench")
def ledger_pairs() -> Iterator[Take]:
    """Pairs a second of CONNECTIONS processes together."""
    context = multiprocessing.get_context("forkserver")
    start, counts = context.Barrier(CONNECTIONS + 1), context.Queue()
    with server() as (url, _):
        prepare(url)
        processes = [
            context.Process(target=work, args=(url, str(number), start, counts), daemon=True)
            for number in range(CONNECTIONS)
        ]
        for process in processes:
            process.start()

        def take() -> float:
            done, seconds = 0, 0.0
            while not done:  # the disk may hold all of them up for so long
                start.wait(timeout=60)
                done = sum(counts.get(timeout=60) for _ in processes)
                seconds += SECONDS
            return done / seconds

        yield take
        for process in processes:
            process.kill()
            process.join()


@figure("control-plane", "ms", better="less")
def ledger_pair_time() -> Iterator[Take]:
    """How long single pairs take where nothing else is at the ledger."""
    with server() as (url, _):
        prepare(url)
        number = 0
        with connections(url) as pool:

            def take() -> list[float]:
                nonlocal number
                times = []
                for _ in range(SINGLE):
                    began = time.perf_counter()
                    pair(pool, f"single/{number}")
                    times.append((time.perf_counter() - began) * 1000)
                    number += 1
                return times

            yield take


@figure("control-plane", "CPU ms/pair", better="less", beside="pgbench_cpu")
def ledger_pair_cpu() -> Iterator[Take]:
    """CPU time of single pairs, ours and the server's: a loaded machine changes it least."""
    with server() as (url, folder):
        prepare(url)
        number = 0
        with connections(url) as pool:

            def take() -> float:
                nonlocal number
                began = time.process_time() + server_cpu(folder)
                for _ in range(COUNTED):
                    pair(pool, f"single/{number}")
                    number += 1
                return (time.process_time() + server_cpu(folder) - began) / COUNTED * 1000

            yield take


@yardstick("CPU ms/transaction")
def pgbench_cpu() -> Iterator[Take]:
    """CPU time of a transaction of one client of pgbench, its own and the server's."""
    with server() as (url, folder):
        script = with_tables(url, folder)

        def take() -> float:
            began = spent() + server_cpu(folder)
            count = run_pgbench(url, script, 1)["transactions"]
            return (spent() + server_cpu(folder) - began) / count * 1000

        yield take


def server_cpu(folder: Path) -> float:
    """CPU seconds of the server with all its processes, those that have ended included."""
    postmaster = int((folder / "postgres/data/postmaster.pid").read_text().split()[0])
    processes = [postmaster, *(one.pid for one in psutil.Process(postmaster).children())]
    running = sum(int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) for pid in processes)
    ended = psutil.Process(postmaster).cpu_times()
    return running / 1e9 + ended.children_user + ended.children_system


@yardstick("transactions/s")
def pgbench() -> Iterator[Take]:
    """Transactions a second, as pgbench reports them."""
    with server() as (url, folder):
        script = with_tables(url, folder)
        yield lambda: run_pgbench(url, script, CONNECTIONS)["tps"]


def with_tables(url: str, folder: Path) -> Path:
    """The script of pgbench, and its tables in the database."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(TABLES)
    script = folder / "transaction.sql"
    script.write_text(TRANSACTION)
    return script


def run_pgbench(url: str, script: Path, clients: int, seconds: float = SECONDS) -> dict[str, float]:
    """How many `transactions` it has done, and `tps`, as it reports them; in twice the `seconds`
    where it has done none, of which it reports no `tps`."""
    done = subprocess.run(
        [binary("pgbench"), "--no-vacuum", "--protocol=prepared", f"--file={script}"]
        + [f"--client={clients}", f"--jobs={min(clients, 2)}", f"--time={seconds:.0f}", url],
        capture_output=True,
        text=True,
        check=True,
    )
    lines = dict(re.findall(r"^(tps|number of transactions \w+ \w+)\D*([\d.]+)", done.stdout, re.M))
    transactions = float(lines["number of transactions actually processed"])
    if not transactions:
        return run_pgbench(url, script, clients, 2 * seconds)
    return {"tps": float(lines["tps"]), "transactions": transactions}
