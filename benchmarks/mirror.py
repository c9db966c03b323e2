"""How much a job on a rented node is held up by the copying of its checkpoints.

    python -m benchmarks.mirror [--mib 128] [--steps 60] [--rounds 5]

The same program, which computes on one thread and saves a checkpoint of that size every tenth step,
in turn: by the local launcher alone, and as on a node, where `infra.compute.node` copies state, log
and each newest checkpoint to an S3 server (moto, of its own, at the lowest priority, since a real
one has its own machine) every two seconds. Printed: seconds between the first and the last step,
their medians, and how much longer the copied job took.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import boto3
import psutil

from infra.compute.local import LocalLauncher
from infra.compute.node import Order, run
from infra.contract import JobSpec
from tests.helpers.s3_server import moto_server


@dataclass(frozen=True)
class Money:
    """A reservation, as far as a launcher looks at it."""

    id: int
    expires_at: datetime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--mib", type=int, default=128, help="size of a checkpoint")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=5, help="repetitions, interleaved")
    options = parser.parse_args()
    os.environ |= {"AWS_ACCESS_KEY_ID": "benchmark", "AWS_SECRET_ACCESS_KEY": "benchmark"}
    times: dict[str, list[float]] = {"alone": [], "copied": []}
    with tempfile.TemporaryDirectory() as place, moto_server(Path(place) / "moto.log") as url:
        os.environ["NIGHTSHIFT_S3_ENDPOINT_URL"] = url
        boto3.client("s3", endpoint_url=url).create_bucket(Bucket="bench")
        _renice(url)
        for number in range(options.rounds):
            for how in times:
                times[how].append(measure(Path(place), f"{how}-{number}", how, options))
                print(f"round {number}, {how}: {times[how][-1]:.1f} s", flush=True)
    alone, copied = (statistics.median(times[how]) for how in times)
    print(f"medians: alone {alone:.1f} s, copied {copied:.1f} s, {copied / alone - 1:+.1%}")
    print(json.dumps(times))


def measure(place: Path, key: str, how: str, options: argparse.Namespace) -> float:
    """Seconds from the job's first step to its last."""
    spec = JobSpec(
        name="basic.saving",
        environment="node",
        config={"steps": options.steps, "mib": options.mib, "loops": 4_000_000},
        output=f"s3://bench/{key}",
        max_hours=1,
        key=key,
    )
    ends = datetime.now(UTC) + timedelta(hours=1)
    local = LocalLauncher(place, Path(sys.executable), "tests.programs", whole_machine=True)
    if how == "copied":
        order = Order(
            spec=spec,
            id=1,
            expires_at=ends,
            attempt=1,
            requested_at=datetime.now(UTC),
            package="tests.programs",
            sync_seconds=2,
            checkpoint_seconds=2,
            checkpoint_key="of the benchmark",
        )
        assert run(order, place) == 0
    else:
        handle = local.launch(spec, Money(1, ends))
        while local.poll(handle).state == "running":
            time.sleep(2)
    steps = local.progress(key)
    return steps[-1].time - steps[0].time


def _renice(url: str) -> None:
    port = url.rpartition(":")[2]
    for process in psutil.Process().children():
        if port in process.cmdline():
            process.nice(19)


if __name__ == "__main__":
    main()
