"""What the orchestration adds to a DPO training: the same TRL script bare and as a paid job.

    python -m benchmarks.dpo_overhead --base MODEL --dataset FOLDER --steps 60 --rounds 3

MODEL is a model folder, DATASET one of build-preferences. In each round, and each first in every
other one: the bare script (this file with --bare, in the job environment `train`), and the job
`dpo.train` reserved, launched, watched, charged and stored as a flow does, in a home folder of its
own with its own PostgreSQL. Both have the same model, pairs in the same order, arguments, one
thread and checkpoints. Printed: seconds in all, steps a second between the first and the last step,
and the CPU time of the training process for a step, by which a loaded machine can tell too.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import tempfile
import time
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import psutil

if TYPE_CHECKING:
    from infra.contract import Progress

CONFIG = {
    "epochs": 9,
    "max_tokens": 256,
    "micro_batch": 16,
    "seed": 0,
    "checkpoint_interval": 20,
    "sft_weight": 0,
}


class Run(NamedTuple):
    """Seconds in all, steps a second, CPU seconds of the training process for a step."""

    seconds: float
    rate: float
    cpu: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--dataset", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--bare", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.bare:
        print(json.dumps(bare_steps(options.base, options.dataset, options.steps)))
        return
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    found: dict[str, list[Run]] = {"bare": [], "job": []}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as place:
        Path(place).chmod(0o711)
        from infra.compute import environments

        python = environments.ensure("train")
        home = Path(place) / "home"
        home.mkdir()
        (home / "environments").symlink_to(python.parents[2])
        os.environ["NIGHTSHIFT_HOME"] = str(home)
        for number in range(options.rounds):
            for how in ("bare", "job") if number % 2 == 0 else ("job", "bare"):
                run = run_bare(python, options) if how == "bare" else run_as_job(number, options)
                found[how].append(run)
            print(f"round {number}: bare {found['bare'][-1]}, job {found['job'][-1]}", flush=True)
    for name, unit, scale in (
        ("seconds", "s", 1),
        ("rate", "steps/s", 1),
        ("cpu", "CPU ms/step", 1000),
    ):
        values = {how: [scale * getattr(run, name) for run in runs] for how, runs in found.items()}
        bare_median, job_median = (statistics.median(values[how]) for how in ("bare", "job"))
        changes = [
            job / alone - 1 for job, alone in zip(values["job"], values["bare"], strict=True)
        ]
        print(
            f"{unit}: bare {bare_median:.2f}, as a job {job_median:.2f}, medians; paired "
            + ", ".join(f"{change:+.1%}" for change in changes)
        )
    added = [
        job.seconds - alone.seconds for job, alone in zip(found["job"], found["bare"], strict=True)
    ]
    print(f"added: {', '.join(f'{value:+.1f}' for value in added)} s")
    print(json.dumps({"runs": found, "added": added}))


def run_bare(python: Path, options: argparse.Namespace) -> Run:
    """The script."""
    command = [str(python), "-W", "ignore", "-m", "benchmarks.dpo_overhead", "--bare"]
    command += ["--base", str(options.base), "--dataset", str(options.dataset)]
    began = time.monotonic()
    done = subprocess.run(
        [*command, "--steps", str(options.steps)], capture_output=True, text=True, check=True
    )
    return Run(time.monotonic() - began, *json.loads(done.stdout.splitlines()[-1]))


def run_as_job(number: int, options: argparse.Namespace) -> Run:
    """The job, from the reservation to the stored and settled result."""
    from infra import database
    from infra.contract import JobSpec
    from infra.objects import put
    from infra.records import runs
    from infra.settings import settings
    from tasks.runs.launch import run_job
    from tasks.runs.offers import launchers
    from tasks.runs.purse import Purse, fill

    pool = database.pool()
    run = runs.begin(pool, "benchmark", {"round": number})
    stored = settings().objects_uri
    spec = JobSpec(
        name="dpo.train",
        environment="train",
        config={**CONFIG, "max_steps": options.steps},
        inputs={
            "base": put(options.base, f"{stored}/base").uri,
            "dataset": put(options.dataset, f"{stored}/dataset").uri,
        },
        output=f"{stored}/{run.id}",
        max_hours=0.5,
        key=f"{run.id}/train",
    )
    purse = fill(Purse(pool, run, "local"), Decimal(5))
    seen: list[tuple[int, float]] = []

    def watch(progress: "Progress") -> None:
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                if progress.step > 0 and "jobs.dpo.train" in process.cmdline():
                    times = process.cpu_times()
                    seen.append((progress.step, times.user + times.system))

    began = time.monotonic()
    run_job(spec, purse, watch)
    seconds = time.monotonic() - began
    lines = [line for line in launchers("local")["local"].progress(spec.key) if line.step > 0]
    runs.end(pool, run, "finished")
    rate = (lines[-1].step - lines[0].step) / (lines[-1].time - lines[0].time)
    return Run(seconds, rate, statistics.linear_regression(*zip(*seen, strict=True)).slope)


def bare_steps(base: Path, dataset: Path, count: int) -> tuple[float, float]:
    """The script as one writes it for TRL alone; steps a second and CPU seconds for a step."""
    from datasets import load_dataset
    from peft import LoraConfig
    from transformers import (
        AutoModelForCausalLM,
        AutoTokenizer,
        PrinterCallback,
        TrainerCallback,
        set_seed,
    )
    from trl import DPOConfig, DPOTrainer

    times: list[tuple[float, float]] = []

    class Clock(TrainerCallback):
        def on_log(self, *_: Any, logs: dict[str, float] | None = None, **__: Any) -> None:
            if "loss" in (logs or {}):
                times.append((time.time(), time.process_time()))

    with tempfile.TemporaryDirectory() as place:
        set_seed(0)
        tokenizer = AutoTokenizer.from_pretrained(base)
        model = AutoModelForCausalLM.from_pretrained(base)
        pairs: Any = load_dataset(
            "parquet", data_files=str(dataset / "train.parquet"), cache_dir=place
        )
        trainer = DPOTrainer(
            model=model,
            args=DPOConfig(
                output_dir=place,
                seed=CONFIG["seed"],
                per_device_train_batch_size=CONFIG["micro_batch"],
                max_steps=count,
                learning_rate=0.128 / model.config.hidden_size,
                warmup_steps=0.1,
                max_length=CONFIG["max_tokens"],
                save_steps=CONFIG["checkpoint_interval"],
                save_total_limit=1,
                logging_steps=1,
                bf16=False,
                use_cpu=True,
                gradient_checkpointing=False,
                dataloader_pin_memory=False,
                report_to="none",
                disable_tqdm=True,
            ),
            train_dataset=pairs["train"].select_columns(["prompt", "chosen", "rejected"]),
            processing_class=tokenizer,
            peft_config=LoraConfig(
                r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"
            ),
        )
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(Clock())
        trainer.train()
        trainer.save_model()
    steps = len(times) - 1
    seconds, cpu = (last - first for first, last in zip(times[0], times[-1], strict=True))
    return steps / seconds, cpu / steps


if __name__ == "__main__":
    main()
