"""The champion and its quantised variants, one after another under the same load.

    python -m jobs.serving.measure JOB_FOLDER

Inputs: `asked` (JSON lines with the `ids` of each prompt), each variant of the config under its
name, and optionally `base` and `champion`, an adapter on it. Artefacts: `answers`, JSON lines
{"variant", "completion", "ids"}, and `measured`, JSON lines with what jobs.serving.load tells of
each without its answers, its `bytes` on the disk, and its `error` where it cannot be served. What
is measured is a checkpoint.
"""

import json
import os
from pathlib import Path
from typing import Any

from infra.contract import VLLM_SETTINGS
from infra.errors import JobFailed
from jobs.apart import Apart, Failed
from jobs.runtime import Job, Outcome, main, optional_input
from jobs.serving.config import CHAMPION, LoadConfig

MEASURED = "measured.json"
OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}


def program(job: Job[LoadConfig]) -> Outcome:
    lines = job.input("asked").read_text().splitlines()
    prompts = [json.loads(line)["ids"] for line in lines]
    os.environ |= VLLM_SETTINGS | (OFFLINE if "base" in job.spec.inputs else {})
    apart = Apart(job, "jobs.serving.load:measure")
    sides = [CHAMPION, *job.config.variants]
    found = job.latest_checkpoint()
    rows: list[dict[str, Any]] = json.loads((found[1] / MEASURED).read_text()) if found else []
    for step, side in enumerate(sides[len(rows) :], len(rows) + 1):
        job.progress(step - 1, len(sides), side)
        rows.append({"variant": side} | _measured(apart, job, side, prompts))
        if error := rows[-1]["error"]:
            if side == CHAMPION:
                why = f"the champion cannot be served: {error}"
                raise JobFailed(why, "Serve it once by itself.")
            job.progress(step, len(sides), f"{side}: {error}")
        text = json.dumps(rows)
        job.save_checkpoint(step, lambda folder, text=text: (folder / MEASURED).write_text(text))
    job.progress(len(sides), len(sides), "all measured")
    answers, measured = job.scratch / "answers.jsonl", job.scratch / "measured.jsonl"
    with answers.open("w") as said, measured.open("w") as figures:
        for row in rows:
            for answer in row.pop("answers", []):
                said.write(json.dumps({"variant": row["variant"]} | answer) + "\n")
            figures.write(json.dumps(row) + "\n")
    served = sum(row["error"] is None for row in rows)
    return Outcome({"served": float(served)}, {"answers": answers, "measured": measured})


def _measured(
    apart: Apart, job: Job[LoadConfig], side: str, prompts: list[list[int]]
) -> dict[str, Any]:
    if side == CHAMPION:
        base, champion = optional_input(job, "base"), optional_input(job, CHAMPION)
        model, adapter = str(base or job.config.model), champion and champion / "adapter"
        folders = [folder for folder in (base, adapter) if folder]
    else:
        model, adapter = str(job.input(side)), None
        folders = [job.input(side)]
    size = sum(_bytes(folder) for folder in folders)
    try:
        log = job.folder / f"measure-{side}.txt"
        found = apart(job.config, model, adapter and str(adapter), prompts, log)
    except Failed as failed:
        return {"bytes": size, "error": str(failed)}
    return found | {"bytes": size, "error": None}


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


if __name__ == "__main__":
    main(LoadConfig, program)
