"""Quantised variants of a champion, each calibrated on the training prompts.

    python -m jobs.quantization.make JOB_FOLDER

Inputs: `prompts`, `held_out`, and optionally `base` and `champion`, an adapter on it, which is
merged first. Artefacts: each variant that could be made, under its name, as vLLM serves it;
`asked`, JSON lines with the `ids` of the tokens of each held-out prompt; `made`, JSON lines with
what became of each variant: {"variant", "seconds", "error"}. A variant made is a checkpoint.
"""

import json
import os
import shutil
import time
from pathlib import Path

import torch
from transformers import AutoConfig

from jobs.apart import Apart, Failed
from jobs.policy.data import read_prompts
from jobs.policy.inputs import base_identity
from jobs.policy.model import Policy, check_base, load_base, load_candidate
from jobs.quantization.config import QuantiseConfig, Variant
from jobs.runtime import Job, Outcome, main, optional_input

ASKED, MADE = "asked.jsonl", "made.jsonl"


def program(job: Job[QuantiseConfig]) -> Outcome:
    config = job.config
    whole = job.scratch / "whole"
    policy = _champion(job, whole)
    prompts = read_prompts(job.input("prompts"))[: config.calibration_prompts]
    calibration = [policy.encode(prompt)[: config.calibration_tokens] for prompt in prompts]
    held_out = [policy.encode(one) for one in read_prompts(job.input("held_out"), "--held-out")]
    del policy
    apart = Apart(job, "jobs.quantization.schemes:quantise")
    found = job.latest_checkpoint()
    done, before = found or (0, None)
    rows = _read(before / MADE) if before else []
    for step, variant in enumerate(config.variants[done:], done + 1):
        job.progress(step - 1, len(config.variants), variant)
        made = job.scratch / variant
        shutil.rmtree(made, ignore_errors=True)
        row = _make(apart, variant, whole, calibration, made, config.seed)
        rows.append(row)
        if row["error"]:
            job.progress(step, len(config.variants), f"{variant}: {row['error']}")

        def save(folder: Path, before: Path | None = before, made: Path = made) -> None:
            if before:
                shutil.copytree(before, folder, copy_function=os.link, dirs_exist_ok=True)
                (folder / MADE).unlink()
            if made.exists():
                shutil.copytree(made, folder / made.name, copy_function=os.link)
            _write(folder / MADE, rows)

        job.save_checkpoint(step, save)
        before = job.folder / "checkpoints" / f"step-{step:08d}"
    job.progress(len(config.variants), len(config.variants), "all made")
    assert before is not None
    asked = job.scratch / ASKED
    _write(asked, [{"ids": ids} for ids in held_out])
    variants = {row["variant"]: before / row["variant"] for row in rows if row["error"] is None}
    seconds = {f"{row['variant']}_seconds": row["seconds"] for row in rows}
    files = {"made": before / MADE, "asked": asked}
    return Outcome({"made": float(len(variants))} | seconds, files | variants)


def _champion(job: Job[QuantiseConfig], folder: Path) -> Policy:
    """The champion whole, its adapter merged in float32; written in its base's number format."""
    base, adapter = optional_input(job, "base"), optional_input(job, "champion")
    policy = load_base(job.config.model_copy(update={"dtype": "float32"}), base)
    if adapter:
        check_base(adapter, base_identity(job))
        load_candidate(policy, adapter)
        policy.model = policy.model.merge_and_unload()
    where = str(base or job.config.model)
    kept = getattr(AutoConfig.from_pretrained(where), "dtype", None) or torch.float32
    policy.model.to(kept).save_pretrained(folder)
    policy.tokenizer.save_pretrained(folder)
    return policy


def _make(
    apart: Apart,
    variant: Variant,
    whole: Path,
    calibration: list[list[int]],
    folder: Path,
    seed: int,
) -> dict:
    began, error = time.monotonic(), None
    try:
        apart(variant, whole, calibration, folder, seed)
    except Failed as failed:
        error = str(failed)
        shutil.rmtree(folder, ignore_errors=True)
    return {"variant": variant, "seconds": time.monotonic() - began, "error": error}


def _write(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


if __name__ == "__main__":
    main(QuantiseConfig, program)
