"""Which slowdowns of the code are found, and how often none is: planted in copies of this tree.

    python -m benchmarks.planted [--only ledger] [--rounds 60] [--runs 10] [--sessions 5]

A copy of the tree has a PLACE changed so that its figure costs 0, 5, 10 or 20 % more: the work of
the place is repeated until so much time has passed. All copies are measured beside this
tree in the same rounds, as `nightshift run benchmarks --against` measures two trees, and each run
of `--rounds` is judged as that does it. A session starts the processes of all copies anew and makes
`--runs` runs, one after the other. Printed is how many were called slower, of those with nothing
planted how many were called slower or faster, each with its interval of 95 % (Clopper and Pearson
1934). Samples are shorter than those of the suite, so that many runs can be made. Ctrl-C, or
`--minutes`, ends a place early: its whole runs count.
"""

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import tempfile
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

import numpy as np
from scipy.stats import binomtest

from benchmarks.error_rates import PLANTED, verdict
from infra.compute import environments
from infra.settings import REPOSITORY
from jobs.benchmarks.rounds import interleaved
from jobs.benchmarks.samplers import Sampler
from tasks.benchmarks.parameters import MEASURED, Suite

CALIBRATING = 5
"""Samples by which the CPU time of a figure is known; the first is not counted."""
LEAST = 0.05


@dataclass(frozen=True)
class Place:
    """Before the line `before` of `file` the statement `work` is repeated, for a share of what
    `figure` of `suite` tells, in milliseconds by `clock`, for each time that the line is passed.
    `short` makes the figure's samples shorter: in which file what is written instead of what.
    `each`: milliseconds for one of the figure's unit."""

    suite: Suite
    figure: str
    file: str
    before: str
    work: str
    short: tuple[tuple[str, str, str], ...] = ()
    clock: str = "process_time"
    each: float = 1.0


SMALL = (
    ("benchmarks/objects.py", "MIB = 32", "MIB = 4"),
    ("benchmarks/objects.py", "FILES = 200", "FILES = 30"),
)
"""An artefact of 4 MiB and 30 files."""
PLACES = {
    "ledger": Place(
        "control-plane",
        "ledger_pair_cpu",
        "infra/ledger/__init__.py",
        "    checks.key(key)\n",
        "pass",
    ),
    "sleep": Place(
        "control-plane",
        "ledger_pair_time",
        "infra/ledger/__init__.py",
        "    checks.key(key)\n",
        "planted.sleep(1e-5)",
        (("benchmarks/ledger.py", "SINGLE = 100", "SINGLE = 20"),),
        "perf_counter",
    ),
    "cache": Place(
        "control-plane",
        "command_help",
        "deployments/cli.py",
        "import click\n",
        "compile(open(__file__).read(), __file__, 'exec')",  # as without its bytecode
    ),
    "copy": Place(
        "control-plane",
        "object_put_cpu",
        "infra/objects/__init__.py",
        "    before = signature(source)\n",
        "bytearray(1 << 18)[:]",
        SMALL,
    ),
    "fsync": Place(
        "control-plane",
        "object_put_cpu",
        "infra/objects/__init__.py",
        "    before = signature(source)\n",
        "flush(next(source.iterdir()))",
        SMALL,
    ),
    "batch": Place(
        "surrogate",
        "surrogate_cpu",
        "jobs/surrogate/export.py",
        "    parts = [slice(",
        "work(slice(0, 64))",  # as if batches were smaller
        (("benchmarks/surrogate.py", "BATCH = 65536", "BATCH = 8192"),),
        each=8192 / 1000,  # the figure is in microseconds a design
    ),
    "training": Place(
        "training",
        "dpo_step",
        "jobs/policy/trainer.py",
        "        found = logs or {}\n",
        "pass",
        (
            ("benchmarks/dpo_speed.py", "STEPS = 8", "STEPS = 4"),
            ("benchmarks/dpo_speed.py", "PAIRS = 200", "PAIRS = 40"),
            (
                "benchmarks/dpo_overhead.py",
                '"micro_batch": 16',
                '"effective_batch": 4, "micro_batch": 4',
            ),
        ),
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", choices=PLACES)
    parser.add_argument("--rounds", type=int, default=60, help="of each run at most")
    parser.add_argument("--runs", type=int, default=10, help="of each session")
    parser.add_argument("--sessions", type=int, default=5)
    parser.add_argument("--minutes", type=float, default=600, help="for each place, at most")
    parser.add_argument(
        "--planted", type=float, nargs="+", default=[0.0, *PLANTED], help="shares, 0 for none"
    )
    options = parser.parse_args()
    print(f"{'place':10}{'planted':>9}{'effect':>9}{'runs':>6}{'told':>6}  interval of 95 %")
    for name, place in PLACES.items():
        if options.only in (None, name):
            loads: list[float] = []
            runs: dict[float, list[np.ndarray]] = {share: [] for share in options.planted}
            for recorded in record(place, options, loads):
                for share, pairs in recorded.items():
                    runs[share] += blocks(pairs, options.rounds)
            for share, made in runs.items():
                if made:
                    told = tell(made, share)
                    print(f"{name:10}{share:>9.0%}{line(told)}", flush=True)
                    facts = {"benchmark": "planted", "place": name, "planted": share}
                    facts |= {"load": [min(loads), median(loads), max(loads)]}
                    pairs = [one.tolist() for one in made]
                    print(json.dumps(facts | told | {"pairs": pairs}), flush=True)


def record(
    place: Place, options: argparse.Namespace, loads: list[float]
) -> Iterator[dict[float, np.ndarray]]:
    """Of each session, by planted share: values of the copy and of this tree in each round,
    (rounds, 2). The load averages at the rounds are added to `loads`."""
    ends = time.monotonic() + options.minutes * 60
    with tempfile.TemporaryDirectory() as name:
        base = copy(Path(name) / "base", place)
        usually = usual(base, place) * place.each
        trees = {"base": base}
        for share in options.planted:
            trees[f"{share}"] = copy(Path(name) / f"{share}", place)
            if share:
                plant(trees[f"{share}"], place, share * usually / 1000)
        for number in range(options.sessions):
            seen: dict[str, list[float]] = {side: [] for side in trees}
            order = Random(zlib.crc32(f"{place.figure} {number}".encode()))
            with ExitStack() as stack, contextlib.suppress(KeyboardInterrupt):
                takes = {
                    side: stack.enter_context(sampler(tree, place)).take
                    for side, tree in trees.items()
                }
                looks = [options.rounds * options.runs]
                for taken in interleaved(takes, looks, lambda _: False, order):
                    if not taken.warm_up:
                        seen[taken.side].append(taken.value)
                        loads.append(os.getloadavg()[0])
                    if time.monotonic() > ends:
                        break
            whole = min(map(len, seen.values()))
            yield {
                share: np.array([seen[f"{share}"][:whole], seen["base"][:whole]]).T
                for share in options.planted
            }
            if time.monotonic() > ends:
                return


def blocks(pairs: np.ndarray, rounds: int) -> list[np.ndarray]:
    """The whole runs of so many rounds."""
    return [pairs[at : at + rounds] for at in range(0, len(pairs) - rounds + 1, rounds)]


def copy(folder: Path, place: Place) -> Path:
    """The files of this tree that git knows, with the shorter samples of the place."""
    listed = subprocess.run(
        ["git", "-C", REPOSITORY, "ls-files", "--cached", "--others", "--exclude-standard"],
        capture_output=True,
        text=True,
        check=True,
    )
    for file in listed.stdout.splitlines():
        if (REPOSITORY / file).is_file():
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(REPOSITORY / file, folder / file)
    for file, usually, shorter in place.short:
        text = (folder / file).read_text()
        assert usually in text, f"{usually!r} is not in {file}"
        (folder / file).write_text(text.replace(usually, shorter, 1))
    return folder


def sampler(tree: Path, place: Place) -> Sampler:
    """A process that takes samples in `tree`, in the environment of the suite."""
    return Sampler(tree, place.suite, place.figure, environments.ensure(MEASURED[place.suite]))


def usual(tree: Path, place: Place) -> float:
    """Median of some samples."""
    with sampler(tree, place) as base:
        return median([base.take()[0] for _ in range(CALIBRATING)][1:])


def plant(tree: Path, place: Place, seconds: float) -> None:
    """Repeat the work of the place until it has taken so much time by the place's clock."""
    file = tree / place.file
    head, found, rest = file.read_text().partition(place.before)
    assert found, f"{place.before!r} is not in {place.file}"
    indent = place.before[: len(place.before) - len(place.before.lstrip())]
    lines = [
        "import time as planted",
        f"ends = planted.{place.clock}() + {seconds}",
        f"while planted.{place.clock}() < ends:",
        f"    {place.work}",
    ]
    file.write_text(head + "".join(f"{indent}{line}\n" for line in lines) + found + rest)


def tell(runs: Sequence[np.ndarray], share: float) -> dict[str, Any]:
    """Of `runs` of a place, each (rounds, 2): the median effect, how many were called slower, or
    with nothing planted a change, and the interval of 95 % of that share."""
    wanted = ("slower",) if share else ("slower", "faster")
    told = sum(verdict(1 / one, LEAST) in wanted for one in runs)
    interval = binomtest(told, len(runs)).proportion_ci(0.95, "exact")
    ratios = np.concatenate([one[:, 0] / one[:, 1] for one in runs])
    return {
        "effect": float(np.median(ratios)) - 1,
        "runs": len(runs),
        "told": told,
        "low": float(interval.low),
        "high": float(interval.high),
    }


def line(told: dict[str, Any]) -> str:
    """What `tell` says, in columns."""
    interval = f"{told['low']:.1%} to {told['high']:.1%}"
    return f"{told['effect']:>+9.1%}{told['runs']:>6}{told['told']:>6}  {interval}"


if __name__ == "__main__":
    main()
