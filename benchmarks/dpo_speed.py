"""CPU time of a step of DPO: our job's program beside TRL's trainer as one writes it alone.

    nightshift run benchmarks --suite training

Both have the same small Llama of random weights, pairs, arguments and one thread; TRL's script is
that of `benchmarks.dpo_overhead`, which measures what the orchestration adds in wall time. CPU time
between the first and the last step: a loaded machine changes it least.
"""

import json
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

import torch

from benchmarks.dpo_overhead import CONFIG, bare_steps
from benchmarks.figures import Take, figure, yardstick
from infra.objects import put
from jobs.design.base import make_model, make_tokenizer
from jobs.design.config import BaseModelConfig
from jobs.design.requests import rows
from jobs.dpo import build, train
from jobs.dpo.config import BuildConfig, DPOConfig
from jobs.runtime import Job

STEPS = 8
PAIRS = 200


@contextmanager
def material() -> Iterator[tuple[Path, Path, Path]]:
    """A place, a model's folder and a dataset of pairs."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        tokenizer = make_tokenizer(0)
        torch.manual_seed(0)
        make_model(BaseModelConfig(), tokenizer).save_pretrained(place / "base")
        tokenizer.save_pretrained(place / "base")
        draw = Random(0)
        pairs = [
            {"prompt": row["prompt"], "chosen": row["target"], "rejected": other["target"]}
            for row, other in zip(rows("train", PAIRS, 0), rows("train", PAIRS, 1), strict=True)
        ]
        draw.shuffle(pairs)
        lines = place / "pairs.jsonl"
        lines.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
        config = {"workers": 1, "near_duplicate": 1}
        job = job_at(place / "build", BuildConfig, "dpo.build", config, pairs=lines)
        yield place, place / "base", build.program(job).artifacts["dataset"]


def job_at(folder: Path, model: Any, name: str, config: dict[str, Any], **inputs: Path) -> Any:
    """A job of that program in `folder`, as a launcher leaves one."""
    folder.mkdir()
    stored = (folder / "inputs-of").as_uri()
    spec = {
        "name": name,
        "environment": "train",
        "config": config,
        "inputs": {key: put(path, f"{stored}/{key}").uri for key, path in inputs.items()},
        "output": (folder / "output").as_uri(),
        "max_hours": 1,
        "key": folder.name,
    }
    (folder / "spec.json").write_text(json.dumps(spec))
    return Job(folder, model)


class Timed(Job[DPOConfig]):
    """A job that knows the seconds of its clock at each of its steps."""

    times: list[tuple[int, float]]
    clock: Callable[[], float]

    def progress(self, step: int, total: int, message: str = "", **metrics: float) -> None:
        if step:
            self.times.append((step, self.clock()))
        super().progress(step, total, message, **metrics)


def steps(clock: Callable[[], float]) -> Iterator[Take]:
    """Milliseconds by `clock` of a step of `jobs.dpo.train`."""
    number = 0
    with material() as (place, base, dataset):

        def take() -> float:
            nonlocal number
            number += 1
            folder = place / f"run-{number}"
            config = CONFIG | {"max_steps": STEPS}
            job_at(folder, DPOConfig, "dpo.train", config, base=base, dataset=dataset)
            job = Timed(folder, DPOConfig)
            job.times, job.clock = [], clock
            train.program(job)
            (first, began), (last, ended) = job.times[0], job.times[-1]
            return (ended - began) / (last - first) * 1000

        yield take


@figure("training", "CPU ms/step", better="less", beside="bare_trl_dpo")
def dpo_step() -> Iterator[Take]:
    """On a CPU."""
    yield from steps(time.process_time)


@figure("training", "ms/step", better="less", beside="bare_trl_dpo_gpu", gpu=True)
def dpo_step_gpu() -> Iterator[Take]:
    """On a GPU, which both sides take where there is one."""
    yield from steps(time.perf_counter)


@yardstick("ms/step")
def bare_trl_dpo_gpu() -> Iterator[Take]:
    """A step of TRL's DPOTrainer, by the clock."""
    with material() as (_, base, dataset):
        yield lambda: 1000 / bare_steps(base, dataset, STEPS)[0]


@yardstick("CPU ms/step")
def bare_trl_dpo() -> Iterator[Take]:
    """A step of TRL's DPOTrainer."""
    with material() as (_, base, dataset):
        yield lambda: bare_steps(base, dataset, STEPS)[1] * 1000
