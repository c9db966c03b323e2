"""Which slowdowns of the code are found, and how often none is: planted in copies of this tree.

    python -m benchmarks.planted [--rounds 60] [--only ledger]

A copy of the tree has a PLACE changed so that its figure costs 0, 5, 10 or 20 % more CPU time: the
work of the place is repeated until so much of it has passed. All copies are measured beside this
tree in the same rounds, as `nightshift run benchmarks --against` measures two trees, and each is
judged as a run would do it. Ctrl-C ends a place early: its whole rounds count. Then 200 runs are
drawn of the same rounds, as `benchmarks.error_rates` does; with nothing planted the sides of each
round are exchanged at random.
"""

import argparse
import contextlib
import json
import shutil
import subprocess
import tempfile
import zlib
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from random import Random
from statistics import median

import numpy as np

from benchmarks.error_rates import DRAWN, PLANTED, exchanged, verdict
from infra.settings import REPOSITORY
from jobs.benchmarks.rounds import interleaved
from jobs.benchmarks.samplers import Sampler
from jobs.benchmarks.statistics import paired_ratio

SUITE = "control-plane"
CALIBRATING = 5
"""Samples by which the CPU time of a figure is known; the first is not counted."""
LEAST = 0.05


@dataclass(frozen=True)
class Place:
    """Before the line `before` of `file` the statement `work` is repeated; `figure` tells of it,
    whose unit is CPU milliseconds for each time that the line is passed."""

    figure: str
    file: str
    before: str
    work: str


PLACES = {
    "ledger": Place(  # a sleep takes no CPU time
        "ledger_pair_cpu", "infra/ledger/__init__.py", "    checks.key(key)\n", "pass"
    ),
    "cache": Place(
        "command_help",
        "deployments/cli.py",
        "import click\n",
        "compile(open(__file__).read(), __file__, 'exec')",  # as without its bytecode
    ),
    "copy": Place(
        "object_put_cpu",
        "infra/objects/__init__.py",
        "    before = signature(source)\n",
        "bytearray(1 << 20)[:]",
    ),
    "fsync": Place(
        "object_put_cpu",
        "infra/objects/__init__.py",
        "    before = signature(source)\n",
        "flush(next(source.iterdir()))",
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--only", choices=PLACES)
    options = parser.parse_args()
    columns = ["rounds", "effect", "verdict", "found"]
    print(f"{'place':8}{'planted':>9}" + "".join(f"{name:>14}" for name in columns))
    for name, place in PLACES.items():
        if options.only in (None, name):
            for share, pairs in record(place, options.rounds).items():
                told = tell(pairs, share)
                line = "".join(f"{value:>14}" for value in told.values())
                print(f"{name:8}{share:>9.0%}{line}", flush=True)
                facts = {"benchmark": "planted", "place": name, "planted": share}
                print(json.dumps(facts | told | {"pairs": pairs.tolist()}), flush=True)


def record(place: Place, rounds: int) -> dict[float, np.ndarray]:
    """By planted share: CPU time of the copy and of this tree in each round, (rounds, 2)."""
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        base = copy(Path(name) / "base")
        milliseconds = usual(base, place.figure)
        trees = {"base": base}
        for share in (0.0, *PLANTED):
            trees[f"{share}"] = copy(Path(name) / f"{share}")
            if share:
                plant(trees[f"{share}"], place, share * milliseconds / 1000)
        takes = {
            side: stack.enter_context(Sampler(tree, SUITE, place.figure)).take
            for side, tree in trees.items()
        }
        order = Random(zlib.crc32(place.figure.encode()))
        seen: dict[str, list[float]] = {side: [] for side in takes}
        with contextlib.suppress(KeyboardInterrupt):
            for taken in interleaved(takes, [rounds], lambda _: False, order):
                if not taken.warm_up:
                    seen[taken.side].append(taken.value)
    whole = min(map(len, seen.values()))
    return {
        share: np.array([seen[f"{share}"][:whole], seen["base"][:whole]]).T
        for share in (0.0, *PLANTED)
    }


def copy(folder: Path) -> Path:
    """The files of this tree that git knows."""
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
    return folder


def usual(tree: Path, figure: str) -> float:
    """Median of some samples."""
    with Sampler(tree, SUITE, figure) as sampler:
        return median([sampler.take()[0] for _ in range(CALIBRATING)][1:])


def plant(tree: Path, place: Place, seconds: float) -> None:
    """Repeat the work of the place until it has taken so much CPU time."""
    file = tree / place.file
    head, found, rest = file.read_text().partition(place.before)
    assert found, f"{place.before!r} is not in {place.file}"
    indent = place.before[: len(place.before) - len(place.before.lstrip())]
    lines = [
        "import time as planted",
        f"ends = planted.process_time() + {seconds}",
        "while planted.process_time() < ends:",
        f"    {place.work}",
    ]
    file.write_text(head + "".join(f"{indent}{line}\n" for line in lines) + found + rest)


def tell(pairs: np.ndarray, share: float) -> dict[str, str]:
    """What was measured of it, the verdict of the run, and the share of drawn runs that called it
    slower, or with nothing planted a change."""
    draw = np.random.default_rng(0)
    drawn = [pairs[draw.permutation(len(pairs))] for _ in range(DRAWN)]
    if not share:
        drawn = [exchanged(one, draw) for one in drawn]
    wanted = ("slower",) if share else ("slower", "faster")
    found = [verdict(1 / one, LEAST) in wanted for one in drawn]
    ratio = paired_ratio(list(pairs[:, 0]), list(pairs[:, 1]))
    return {
        "rounds": f"{len(pairs)}",
        "effect": f"{ratio.estimate - 1:+.1%}",
        "verdict": verdict(1 / pairs, LEAST),
        "found": f"{np.mean(found):.1%}",
    }


if __name__ == "__main__":
    main()
