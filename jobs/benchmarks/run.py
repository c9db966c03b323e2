"""Measure the figures of a suite, each in rounds that take its sides in random order.

    python -m jobs.benchmarks.run JOB_FOLDER

The sides of a figure are `now`, our tree; `then`, that of another revision, where one is given; and
`beside`, what it is held beside. Artefact `samples`: a folder with `samples.jsonl`, every sample
that was taken, and `session.json`, the machine and the figures. A figure that was killed in its
middle is measured anew; `session.json` says which of its attempts counts, and which figures need a
GPU that is not there: they are not measured.
"""

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from random import Random
from typing import Any

from infra.errors import InputError
from jobs.benchmarks import machine
from jobs.benchmarks.config import BenchmarkConfig
from jobs.benchmarks.rounds import MOST_WARM_UP, Taken, interleaved
from jobs.benchmarks.samplers import Sampler, listed
from jobs.benchmarks.statistics import judge, looks, paired_ratio
from jobs.runtime import Job, Outcome, main, stop_when_told, write_whole


def program(job: Job[BenchmarkConfig]) -> Outcome:
    folder = job.scratch / "samples"
    folder.mkdir(exist_ok=True)
    known = machine.facts()
    figures = _chosen(job.config)
    no_gpu = [] if known["gpus"] else [one for one in figures if one["gpu"]]
    figures = [one for one in figures if one not in no_gpu]
    done: dict[str, dict[str, Any]] = {}
    if found := job.latest_checkpoint():
        done = json.loads((found[1] / "figures.json").read_text())
    attempt = _attempt(job.folder)
    most = _looks(job.config)[-1]
    total = len(figures) * most

    def tell(begun: int) -> Callable[[int, str], None]:
        return lambda rounds, what: job.progress(begun + rounds, total, what)

    for number, figure in enumerate(figures):
        if figure["name"] in done:
            continue
        begun = number * most
        done[figure["name"]] = measure(job, figure, attempt, folder / "samples.jsonl", tell(begun))
        text = json.dumps(done)
        job.save_checkpoint(
            number + 1, lambda place, text=text: (place / "figures.json").write_text(text)
        )
    job.progress(total, total, "all measured")
    session = {"key": machine.key(known), "environment": known, "figures": done, "no_gpu": no_gpu}
    write_whole(folder / "session.json", json.dumps(session, indent=1))
    return Outcome({"figures": float(len(done))}, {"samples": folder})


def measure(
    job: Job[BenchmarkConfig],
    figure: dict[str, Any],
    attempt: int,
    path: Path,
    tell: Callable[[int, str], None],
) -> dict[str, Any]:
    """Append the samples of one figure to `path`; what is known of it. `tell` is told the rounds.

    A side that cannot be measured is left out, as an older revision may lack what is called;
    `missing` says which.
    """
    config = job.config
    known = figure | {"attempt": attempt, "missing": [], "warm_up": 0}
    order = Random(f"{config.seed} {figure['name']}")
    tell(0, figure["name"])
    with ExitStack() as stack, path.open("a") as stream:
        takes = {}
        for side, (tree, name) in _sides(config, figure).items():
            try:
                takes[side] = stack.enter_context(Sampler(tree, config.suite, name)).take
            except InputError:
                known["missing"].append(side)
        if "now" not in takes:
            raise InputError(
                f"the figure {figure['name']} cannot be measured", "The lines above say why."
            )

        def is_sure(values: Mapping[str, Sequence[float]]) -> bool:
            ratio = paired_ratio(values["now"], values["then"])
            return judge(ratio, figure["better"], config.least_effect).kind != "cannot tell"

        counts = _looks(config) if "then" in takes else _looks(config)[:1]
        counts = sorted({min(one, figure["rounds"] or one) for one in counts})
        for taken in interleaved(takes, counts, is_sure, order):
            stream.write(json.dumps(_line(figure, attempt, taken)) + "\n")
            stream.flush()
            if taken.warm_up:
                known["warm_up"] = taken.round + 1
            if taken.position == 0:
                rounds, warms = (0, " warms up") if taken.warm_up else (taken.round, "")
                tell(rounds, figure["name"] + warms)
            stop_when_told(job)
    known["steady"] = known["warm_up"] < MOST_WARM_UP
    return known


def _looks(config: BenchmarkConfig) -> list[int]:
    """Where nothing is compared, the rounds of the first look will do."""
    return looks(config.rounds) if "then" in config.trees else looks(config.rounds)[:1]


def _sides(config: BenchmarkConfig, figure: dict[str, Any]) -> dict[str, tuple[Path, str]]:
    """Tree and name of each side."""
    sides = {side: (Path(tree), figure["name"]) for side, tree in config.trees.items()}
    if figure["beside"]:
        sides["beside"] = (Path(config.trees["now"]), figure["beside"])
    return sides


def _line(figure: dict[str, Any], attempt: int, taken: Taken) -> dict[str, Any]:
    facts = {"figure": figure["name"], "unit": figure["unit"], "attempt": attempt}
    return facts | vars(taken) | {"load": os.getloadavg()[0], "time": time.time()}


def _chosen(config: BenchmarkConfig) -> list[dict[str, Any]]:
    """The figures that are measured. Raises InputError for one that there is not."""
    figures = listed(Path(config.trees["now"]), config.suite)
    if config.figures is None:
        return figures
    names = [one["name"] for one in figures]
    for name in config.figures:
        if name not in names:
            raise InputError(
                f"the suite {config.suite} has no figure {name!r}",
                f"It has {', '.join(names)}.",
            )
    return [one for one in figures if one["name"] in config.figures]


def _attempt(folder: Path) -> int:
    """How often this job has been started."""
    path = folder / "starts"
    count = int(path.read_text()) + 1 if path.exists() else 1
    write_whole(path, str(count))
    return count


if __name__ == "__main__":
    main(BenchmarkConfig, program)
