"""A round of a federation beside the bare Flower app with the same model, and with more tenants.

    nightshift run benchmarks --suite federated

All have a SuperLink, one SuperNode for each tenant, TLS and node keys on loopback, each a process
of its own, and stand ready before the first round. Tenants have ROWS made-up rows each. Ours is
what a job runs: answers are checked, who is late is left out, a checkpoint follows. Bare is
Flower's FedAvg with a ClientApp that trains the same model on the same rows: by the clock as Flower
starts it, which imports it anew for each message; in CPU time in processes forked as ours are, so
that the rest of our own code is what is compared. Flower's node looks for messages every 3 s and
its server for answers, too; ours every second, of many on one machine less often, and every half:
a round by the clock of few tenants is mostly that.
"""

import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import jobs.federated.train  # noqa: F401 (settings of Flower that must come before its import)

# isort: split
import numpy as np
import psutil
from flwr.cli.build import build_fab_from_files
from flwr.common.serde import fab_to_proto, user_config_to_proto
from flwr.proto.control_pb2 import StartRunRequest
from flwr.supercore.cli.flower_superexec import flower_superexec
from flwr.supercore.fab import Fab

from benchmarks.federated_apps import ASKED, TOLD
from benchmarks.figures import Take, figure, yardstick
from jobs.benchmarks.statistics import FEWEST_ROUNDS
from jobs.federated import federation
from jobs.federated.config import DATA, FederatedConfig
from jobs.federated.federation import APP, LocalFederation
from jobs.federated.processes import EXECUTOR_LOOK, LOOK
from jobs.federated.server import NODES
from jobs.runtime import Job

TENANTS = 4
GROWTH = (16, 50)
"""Tenants, besides TENANTS, with which a round is measured."""
ROWS, FEATURES = 200, 24
ROUNDS = 1000
"""More than are ever asked for."""
ROUND_SECONDS = 120.0
"""Twice the flow's default: a round that is late is measured, and not given up."""
OURS = "benchmarks.federated_apps:ours", "jobs.federated.client:app"
BARE = "benchmarks.federated_apps:bare", "benchmarks.federated_apps:bare_client"
PACE = {LOOK: "3", EXECUTOR_LOOK: "1"}
"""Flower's own, by which the bare app's nodes look for messages."""


class Apps(LocalFederation):
    """A federation of this machine that runs those apps."""

    def run_apps(self, server: str, client: str, job: Path) -> None:
        """As `run`, with other apps."""
        told = APP["pyproject.toml"].decode()
        told = told.replace("jobs.federated.server:app", server)
        told = told.replace("jobs.federated.client:app", client)
        content = build_fab_from_files(APP | {"pyproject.toml": told.encode()})[0]
        fab = Fab(hashlib.sha256(content).hexdigest(), content, {})
        self.control.StartRun(
            StartRunRequest(
                fab=fab_to_proto(fab), override_config=user_config_to_proto({"job": str(job)})
            )
        )


@dataclass
class Rounds:
    """A federation that stands ready for a round of its apps, by the pipes of its ServerApp."""

    asked: TextIO
    told: TextIO

    def seconds(self) -> float:
        """Of one round, by the clock of the ServerApp."""
        self.asked.write("round\n")
        line = self.told.readline()
        if not line:
            raise RuntimeError("the ServerApp has ended: the lines above say why")
        return float(line)

    def cpu_seconds(self) -> float:
        """Of one round, of all processes of the federation."""
        before = spent()
        self.seconds()
        return spent() - before


def spent() -> float:
    """CPU seconds of all processes below this one, those that have ended included."""
    return sum(sum(one.cpu_times()[:4]) for one in psutil.Process().children(recursive=True))


@contextmanager
def ready(apps: tuple[str, str], tenants: int = TENANTS) -> Iterator[Rounds]:
    """A federation of so many tenants, with the apps of its server and its nodes."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        job, place = write_job(Path(name), tenants), Path(name) / "federation"
        place.mkdir(mode=0o700)
        os.environ["FLWR_HOME"] = str(place / "home")
        folders = {one: Path(job.config.tenants) / one for one in job.config.names}
        started = Apps(place, folders, base="")
        if apps == BARE:
            started.pace = PACE
        try:
            started.start()
            (job.scratch / NODES).write_text(json.dumps(started.names))
            for pipe in (ASKED, TOLD):
                os.mkfifo(job.folder / pipe)
            started.run_apps(*apps, job.folder)
            with (
                (job.folder / ASKED).open("w", buffering=1) as asked,
                (job.folder / TOLD).open() as told,
            ):
                if not told.readline():
                    raise RuntimeError("the ServerApp has ended: the lines above say why")
                yield Rounds(asked, told)
        finally:
            started.stop()


def write_job(place: Path, tenants: int) -> Job[FederatedConfig]:
    """A job of so many made-up tenants in that folder."""
    draw = np.random.default_rng(0)
    features = [f"marker_{number:02}" for number in range(FEATURES)]
    slope = draw.normal(0, 0.7, FEATURES)
    names = [f"tenant-{number:02}" for number in range(tenants)]
    for name in names:
        folder = place / "tenants" / name
        folder.mkdir(parents=True)
        x = draw.normal(0, 1, (ROWS, FEATURES)).round(3)
        y = (draw.random(ROWS) < 1 / (1 + np.exp(-x @ slope))).astype(int)
        rows = [",".join([*features, "label"])]
        rows += [",".join(map(str, [*row, label])) for row, label in zip(x, y, strict=True)]
        (folder / DATA).write_text("\n".join(rows) + "\n")
    spec = {
        "name": "federated.train",
        "environment": "federated",
        "config": {
            "tenants": str(place / "tenants"),
            "names": names,
            "features": features,
            "label": "label",
            "seed": 0,
            "centralised": False,
            "rounds": {"rounds": ROUNDS, "round_seconds": ROUND_SECONDS},
            "privacy": {},
            "spent": {},
        },
        "output": (place / "output").as_uri(),
        "max_hours": 1,
        "key": "benchmark",
    }
    folder = place / "job"
    folder.mkdir()
    (folder / "spec.json").write_text(json.dumps(spec))
    return Job(folder, FederatedConfig)


@figure("federated", "s/round", better="less", beside="bare_flower_round", rounds=FEWEST_ROUNDS)
def federated_round() -> Iterator[Take]:
    """With TENANTS tenants."""
    with ready(OURS) as rounds:
        yield rounds.seconds


@yardstick("s/round")
def bare_flower_round() -> Iterator[Take]:
    """Of the bare app, as Flower starts apps."""
    federation.superexec = flower_superexec
    os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # of its programs
    with ready(BARE) as rounds:
        yield rounds.seconds


@yardstick("CPU s/round")
def bare_app_cpu() -> Iterator[Take]:
    """Of the bare app with TENANTS tenants, forked as ours are."""
    with ready(BARE) as rounds:
        yield rounds.cpu_seconds


def of_tenants(count: int, beside: str | None) -> None:
    """The figure of a round with so many tenants: CPU time of all processes."""

    def prepare() -> Iterator[Take]:
        with ready(OURS, count) as rounds:
            yield rounds.cpu_seconds

    prepare.__name__ = f"federated_cpu_of_{count}"
    figure(
        "federated",
        "CPU s/round",
        better="less",
        beside=beside,
        size=count,
        counted="tenants",
        rounds=FEWEST_ROUNDS,
    )(prepare)


of_tenants(TENANTS, "bare_app_cpu")
for more in GROWTH:
    of_tenants(more, None)
