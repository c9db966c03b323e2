"""The MQTT bridge as a process that a test kills, what it is sent, and what it has stored."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from infra import database as db
from infra.settings import REPOSITORY
from tests.helpers.brokers import building_year
from tests.helpers.doors import NOWHERE

OBSERVED, EVENTS = "nightshift/observations/house", "nightshift/events/plant"
READINGS = "nightshift/readings/house/shed"


@dataclass
class BridgeProcess:
    """`nightshift mqtt run`, which may be killed and started again."""

    folder: Path
    url: str
    settings: dict[str, str]
    process: subprocess.Popen[bytes] | None = None
    program: Sequence[str] = ("-m", "deployments.cli")

    def start(self) -> None:
        with (self.folder / "bridge.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, *self.program, "mqtt", "run"],
                cwd=REPOSITORY,
                env=os.environ
                | {"NIGHTSHIFT_MQTT_BROKER": self.url, "PREFECT_API_URL": NOWHERE}
                | {"PREFECT_CLIENT_MAX_RETRIES": "0"}
                | self.settings,
                stdout=log,
                stderr=log,
            )

    def kill(self, how: signal.Signals = signal.SIGKILL) -> None:
        assert self.process is not None
        self.process.send_signal(how)
        self.process.wait(timeout=30)

    def log(self) -> str:
        return (self.folder / "bridge.log").read_text()


IMPATIENT = (
    "-c",
    "from infra import database; database.PATIENCE_SECONDS = 2\n"
    "from deployments.cli import main; main()",
)
"""The command, but it waits less long for a database that is away."""


@contextmanager
def bridging(
    folder: Path, url: str, program: Sequence[str] = BridgeProcess.program, **settings: str
) -> Iterator[BridgeProcess]:
    """A bridge that has connected, and so has its session at the broker."""
    running = BridgeProcess(folder, url, settings, program=program)
    running.start()
    try:
        wait_until(lambda: "takes nightshift/" in running.log(), running)
        yield running
    finally:
        running.kill(signal.SIGTERM)


def wait_until(condition: Callable[[], bool], running: BridgeProcess, seconds: float = 200) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, running.log()
        time.sleep(0.1)


def observed(pool: db.Pool) -> list[float]:
    with pool.connection() as connection:
        rows = connection.execute("SELECT row FROM observations ORDER BY id").fetchall()
    return [row["row"]["heating_front"] for row in rows]


def events(pool: db.Pool) -> list[int]:
    with pool.connection() as connection:
        rows = connection.execute(
            "SELECT payload FROM mqtt_messages WHERE state = 'waiting' ORDER BY received_at"
        ).fetchall()
    return [json.loads(row["payload"])["count"] for row in rows]


def batch(numbers: range) -> list[tuple[str, str]]:
    """An observation and an event for each number."""
    return [
        message
        for number in numbers
        for message in (
            (OBSERVED, json.dumps(building_year(number))),
            (EVENTS, json.dumps({"count": number})),
        )
    ]


def loads(numbers: range) -> list[float]:
    return [building_year(number)["heating_front"] for number in numbers]
