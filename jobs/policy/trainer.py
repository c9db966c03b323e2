"""What every trainer of TRL shares: arguments, checkpoints, progress."""

import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import (
    PrinterCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    set_seed,
)
from typing_extensions import override

from jobs.runtime import Interrupted, Job


def run(job: Job[Any], trainer: Any, seed: int, logged: dict[str, str] | None = None) -> None:
    """Train to the end from the last whole checkpoint. Raises Interrupted after a SIGTERM.

    `logged` are the trainer's names of what becomes progress, and ours; the loss always does.
    """
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(JobCallback(job, {"loss": "loss", **(logged or {})}))
    found = job.latest_checkpoint()
    set_seed(seed)  # right before training, else a resumed run differs
    trainer.train(resume_from_checkpoint=str(found[1]) if found else None)
    if job.stopping and trainer.state.global_step < trainer.state.max_steps:
        raise Interrupted


def trainer_arguments(job: Job[Any], learning_rate: float) -> dict[str, Any]:
    """What is the same for every trainer of TRL."""
    output = job.scratch / "trainer"
    shutil.rmtree(output, ignore_errors=True)
    cuda = torch.cuda.is_available()
    return {
        "output_dir": str(output),
        "seed": job.config.seed,
        "learning_rate": learning_rate,
        "bf16": cuda and job.config.dtype != "float32",
        "use_cpu": not cuda,
        "gradient_checkpointing": False,
        "report_to": "none",
        "save_strategy": "steps",
        "disable_tqdm": True,
        "logging_steps": 1,
        "dataloader_pin_memory": cuda,
    }


class JobCallback(TrainerCallback):
    """Reports the trainer's logs as progress and makes its checkpoints the job's."""

    def __init__(self, job: Job[Any], logged: dict[str, str]) -> None:
        self.job, self.logged = job, logged

    @override
    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        found = logs or {}
        measured = {ours: float(found[key]) for key, ours in self.logged.items() if key in found}
        if measured and state.is_world_process_zero:
            self.job.progress(state.global_step, state.max_steps, "steps", **measured)

    @override
    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        if _any_process(self.job.stopping):
            control.should_save = control.should_training_stop = True

    @override
    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        if not state.is_world_process_zero:
            return
        written = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
        self.job.save_checkpoint(state.global_step, written.rename)


def _any_process(stopping: bool) -> bool:
    """Whether any process of a distributed training was told to stop, so that all stop together."""
    if not torch.distributed.is_initialized():
        return stopping
    device = "cuda" if torch.cuda.is_available() else "cpu"
    flag = torch.tensor(int(stopping), device=device)
    torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MAX)
    return bool(flag)
