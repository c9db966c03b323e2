"""Train a LoRA adapter on preferences with TRL's DPOTrainer (Rafailov et al. 2023).

    python -m jobs.dpo.train JOB_FOLDER

Inputs: `dataset` (a folder of jobs.dpo.build), and optionally `base` (model folder), `champion`
(candidate folder of an earlier run). Artefact: `candidate`, a folder with `adapter/` in PEFT's
format and `base.json`. The reference is the base (the adapter switched off), or the champion where
training goes on from one.

What the machine cannot hold at once is accumulated (jobs.dpo.fit); where memory runs out all the
same, the micro-batch is halved and training goes on from the last checkpoint. On several GPUs one
process runs for each, which accelerate joins.
"""

import gc
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import pyarrow.compute as pc
import torch
from accelerate.utils.memory import should_reduce_batch_size
from datasets import Dataset
from transformers import set_seed
from trl import DPOConfig as TRLConfig
from trl import DPOTrainer

from infra.errors import InputError
from jobs.dpo.config import DPOConfig
from jobs.dpo.fit import Fit, fit, machine, shape_of
from jobs.dpo.pairs import cut_answers, fitting, for_trainer, limit_of, load
from jobs.dpo.validation import Validation, split
from jobs.policy.inputs import base_identity
from jobs.policy.model import (
    LEARNING_RATE_TIMES_WIDTH,
    Policy,
    check_base,
    load_base,
    load_candidate,
    new_adapter,
    save_candidate,
)
from jobs.policy.trainer import run, trainer_arguments
from jobs.runtime import Interrupted, Job, Outcome, main, optional_input

LOGGED = {
    "rewards/accuracies": "accuracy",
    "rewards/margins": "margin",
    "logps/chosen": "chosen_logps",
    "logps/rejected": "rejected_logps",
}
"""TRL's names → ours."""
SMOOTHED = {"robust", "exo_pair", "aot", "aot_unpaired"}
"""Losses of TRL that know a label smoothing."""
SORTING = {"aot", "aot_unpaired"}
"""Losses of TRL that compare the sorted margins of a micro-batch."""
WEIGHT_OF_CORRECTIONS = 10.0
LEAST_SMOOTHING, MOST_SMOOTHING = 1e-3, 0.4
FIT = "fit.json"
OUT_OF_MEMORY = "out-of-memory"


def program(job: Job[DPOConfig]) -> Outcome:
    plan = planned(job)
    while True:
        require_whole_batch(job.config, plan)
        for reason in plan.reasons:
            print(f"fit: {reason}", flush=True)
        job.progress(0, 0, "; ".join(plan.reasons), micro_batch=float(plan.micro_batch))
        try:
            metrics = in_processes(job, plan) if plan.processes > 1 else train(job, plan)
            return Outcome(
                {
                    **metrics,
                    "micro_batch": float(plan.micro_batch),
                    "accumulation": float(plan.accumulation),
                    "processes": float(plan.processes),
                    "quantised": float(plan.quantised),
                    "gradient_checkpointing": float(plan.gradient_checkpointing),
                    "bfloat16": float(plan.dtype == "bfloat16"),
                },
                {"candidate": job.scratch / "candidate"},
            )
        except RuntimeError as error:
            if not should_reduce_batch_size(error):
                raise
            plan = plan.halved()
        plan.save(job.folder / FIT)
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def require_whole_batch(config: DPOConfig, plan: Fit) -> None:
    """Raises InputError for a loss over sorted batches where a micro-batch is only part of one."""
    if config.loss in SORTING and plan.micro_batch != config.effective_batch:
        raise InputError(
            f"--loss {config.loss} sorts a whole batch, of which {plan.micro_batch} pairs of "
            f"{config.effective_batch} are on a GPU at a time",
            f"Lower --effective-batch to {plan.micro_batch} on one GPU, set --max-tokens lower, or "
            "take another --loss.",
        )


def planned(job: Job[DPOConfig]) -> Fit:
    """How to train here; as before, where an earlier attempt had to halve its batch."""
    saved = job.folder / FIT
    if saved.is_file():
        return Fit.load(saved)
    shapes = load_base(job.config, optional_input(job, "base"), weights=False)
    tokens = limit_of(shapes, job.config.max_tokens)
    plan = fit(machine(), shape_of(shapes.model), job.config, tokens)
    plan.save(saved)
    return plan


def train(job: Job[DPOConfig], plan: Fit) -> dict[str, float]:
    """Train as planned and write the candidate; the metrics."""
    config = job.config.model_copy(update={"dtype": plan.dtype})
    base, champion = base_identity(job), optional_input(job, "champion")
    if champion:
        check_base(champion, base)
    set_seed(config.seed)  # a new adapter is drawn from it
    policy = load_base(config, optional_input(job, "base"), quantised=plan.quantised)
    require_special_tokens(policy)
    stored = load(job.input("dataset") / "train.parquet", job.scratch / "cache")
    fit_in = fitting(stored, policy, config.max_tokens)
    pairs, apart = split(fit_in, 0 if unjudged(plan) else config.validation_pairs)
    adapter = None
    if champion:
        load_candidate(policy, champion, trainable=True)
    else:
        adapter = new_adapter(config, policy)
    told = TRLConfig(**arguments(job, plan, policy, pairs))
    trainer = DPOTrainer(
        model=policy.model,
        args=told,
        train_dataset=for_trainer(pairs),
        processing_class=policy.tokenizer,
        peft_config=adapter,
    )
    rows = cast(Dataset, trainer.train_dataset)
    cut = cut_answers(_lengths(rows), limit_of(policy, config.max_tokens))
    policy.model = trainer.model
    weight = likelihood_weight(config, pairs["source"])
    validation = Validation(job, policy, apart, weight)
    if apart:
        trainer.add_callback(validation)
    run(job, trainer, config.seed, LOGGED)
    policy.model = trainer.accelerator.unwrap_model(trainer.model)
    validation.best.put_back(policy)
    if trainer.is_world_process_zero():
        folder = job.scratch / "candidate"
        folder.mkdir(exist_ok=True)
        save_candidate(policy, folder, base)
    history = trainer.state.log_history
    losses = [entry["loss"] for entry in history if "loss" in entry]
    return {
        "loss": float(losses[-1]),
        "accuracy": _last(history, "rewards/accuracies"),
        "margin": _last(history, "rewards/margins"),
        "steps": float(trainer.state.global_step),
        "pairs": float(len(rows)),
        "too_long": float(len(stored) - len(fit_in)),
        "validation": float(len(apart)),
        "cut": float(cut),
        "trained": float(min(len(rows), trainer.state.global_step * config.effective_batch)),
        "label_smoothing": float(told.label_smoothing),
        "sft_weight": weight,
        **validation.metrics,
    }


def unjudged(plan: Fit) -> bool:
    """Whether looking at pairs would spoil the training: on a CPU bitsandbytes packs weights of 4
    bits anew for inference, and cannot train on them afterwards."""
    return plan.quantised and not torch.cuda.is_available()


def arguments(job: Job[DPOConfig], plan: Fit, policy: Policy, pairs: Any) -> dict[str, Any]:
    """TRL's arguments, where they follow from the pairs, too."""
    config = job.config
    confidence = sum(pairs["confidence"]) / len(pairs)
    smoothing = config.label_smoothing
    if smoothing is None:
        smoothing = min(max(1 - confidence, LEAST_SMOOTHING), MOST_SMOOTHING)
    anchor = likelihood_weight(config, pairs["source"])
    rate = config.learning_rate or LEARNING_RATE_TIMES_WIDTH / policy.width
    return {
        **trainer_arguments(job, rate),
        "per_device_train_batch_size": plan.micro_batch,
        "gradient_accumulation_steps": plan.accumulation,
        "gradient_checkpointing": plan.gradient_checkpointing,
        "bf16": plan.dtype == "bfloat16" and torch.cuda.is_available(),
        "loss_type": [config.loss, "sft"] if anchor else [config.loss],
        "loss_weights": [1.0, anchor] if anchor else None,
        "beta": config.beta,
        "label_smoothing": smoothing if config.loss in SMOOTHED else 0.0,
        "num_train_epochs": config.epochs,
        "max_steps": config.max_steps or -1,
        "warmup_steps": config.warmup,
        "lr_scheduler_type": "linear",
        "max_grad_norm": config.max_gradient_norm,
        "max_length": limit_of(policy, config.max_tokens),
        "precompute_ref_log_probs": config.precompute_reference,
        "save_steps": config.checkpoint_interval,
    }


def _lengths(rows: Dataset) -> list[int]:
    """Tokens of each row's prompt with the longer of its answers, as TRL has made them."""
    found: list[int] = []
    columns = rows.select_columns(["prompt_ids", "chosen_ids", "rejected_ids"])
    for batch in columns.with_format("arrow").iter(1000):
        sizes: Any = [pc.call_function("list_value_length", [c]) for c in cast(Any, batch).columns]
        prompt, chosen, rejected = (size.to_numpy() for size in sizes)
        found += (prompt + np.maximum(chosen, rejected)).tolist()
    return found


def likelihood_weight(config: DPOConfig, sources: Sequence[str]) -> float:
    """What the likelihood of the chosen answers weighs: a correction shows what to say and is
    imitated, a preferred answer only beats another one."""
    if config.loss == "sft":
        return 0.0
    if config.sft_weight is not None:
        return config.sft_weight
    return WEIGHT_OF_CORRECTIONS * sum(s == "correction" for s in sources) / len(sources)


def require_special_tokens(policy: Policy) -> None:
    """TRL ends answers with the end-of-sequence token and pads with it where there is no other.

    Raises InputError naming --model.
    """
    if policy.tokenizer.eos_token is None:
        raise InputError(
            "the tokenizer of --model has no end-of-sequence token: answers would never end",
            "Set eos_token in its tokenizer_config.json.",
        )
    if policy.tokenizer.pad_token is None:
        policy.tokenizer.pad_token = policy.tokenizer.eos_token
    policy.require_known([policy.tokenizer.pad_token_id, policy.tokenizer.eos_token_id])


def in_processes(job: Job[DPOConfig], plan: Fit) -> dict[str, float]:
    """The same as `train` in several processes, one a GPU."""
    plan.save(job.folder / FIT)
    job.latest_checkpoint()  # remembers where this attempt goes on
    marker, result = job.scratch / OUT_OF_MEMORY, job.scratch / "metrics.json"
    for path in (marker, result):
        path.unlink(missing_ok=True)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", str(plan.processes), "-m", "jobs.dpo.process", str(job.folder)]
    threads = os.environ.get("OMP_NUM_THREADS", "1")
    process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": threads})
    while True:
        try:
            code = process.wait(timeout=0.5)
            break
        except subprocess.TimeoutExpired:
            if job.stopping:
                process.send_signal(signal.SIGTERM)
                process.wait()
                raise Interrupted from None
    if marker.exists():
        raise RuntimeError("a process ran out of memory.")
    if code:
        raise subprocess.CalledProcessError(code, command)
    return json.loads(result.read_text())


def _last(history: list[dict[str, Any]], name: str) -> float:
    return float(next((entry[name] for entry in reversed(history) if name in entry), 0.0))


if __name__ == "__main__":
    main(DPOConfig, program)
