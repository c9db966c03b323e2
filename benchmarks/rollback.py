"""How long after `nightshift models rollback` the old version answers, on a live endpoint.

    python -m benchmarks.rollback [--repeats 10]

One client asks for 8 tokens without a pause. Each time is told twice, in seconds: from the start
of the command, a process of its own, and from its end, to the end of the first answer of the
version that it goes back to.
"""

import argparse
import json
import os
import statistics
import threading
import time
from pathlib import Path

import httpx

from infra import database
from infra.compute.environments import ensure
from tests.helpers.serving import Endpoint, register
from tests.helpers.users import User, reachable_folder

AFTER = 5.0
"""Seconds for which the client goes on asking once the endpoint has switched."""


def live(endpoint: Endpoint) -> str:
    """The version that answers new requests."""
    url = f"http://127.0.0.1:{endpoint.port}/readyz"
    return httpx.get(url, timeout=60).json()["live"]["version"]


def measure(user: User, endpoint: Endpoint, repeats: int) -> list[dict[str, float]]:
    """Of each rollback, times as above."""
    answers: list[tuple[float, str]] = []
    over = threading.Event()

    def ask() -> None:
        while not over.is_set():
            key = f"{endpoint.ask()}/0"
            answers.append((time.monotonic(), key))

    client = threading.Thread(target=ask)
    client.start()
    commands = []
    try:
        time.sleep(AFTER)
        for _ in range(repeats):
            began = time.monotonic()
            code, said, error = user.run("models", "rollback", "tiny", "--json")
            assert code == 0, error
            (back,) = (one["version"] for one in json.loads(said) if "champion" in one["aliases"])
            commands.append((back, began, time.monotonic(), os.getloadavg()[0]))
            while live(endpoint) != back:
                time.sleep(0.1)
            time.sleep(AFTER)
    finally:
        over.set()
        client.join()
    time.sleep(3)  # until the last answers are in the table
    with user.acting(), database.pool().connection() as connection:
        rows = connection.execute("SELECT key, model_version FROM interactions").fetchall()
    versions = {row["key"]: row["model_version"] for row in rows}
    told = []
    for back, began, ended, load in commands:
        first = min(at for at, key in answers if at > began and versions[key] == back)
        told.append({"from_start": first - began, "from_end": first - ended, "load": load})
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--repeats", type=int, default=10)
    repeats = parser.parse_args().repeats
    python: Path = ensure("train")
    with reachable_folder() as folder:
        user = User(folder)
        user.home.mkdir()
        (user.home / "environments").symlink_to(python.parents[2])
        register(user, python)
        endpoint = Endpoint(user)
        try:
            endpoint.wait_for(endpoint.has_said("version 3 answers"))
            rows = measure(user, endpoint, repeats)
        finally:
            endpoint.end()
        user.wait_until_nothing_runs()
    for row in rows:
        print({name: round(value, 2) for name, value in row.items()})
    for name in ("from_start", "from_end"):
        values = sorted(row[name] for row in rows)
        told = {"least": values[0], "median": statistics.median(values), "most": values[-1]}
        print(json.dumps({name: {what: round(value, 2) for what, value in told.items()}}))


if __name__ == "__main__":
    main()
