"""Check files of observations and sum them up, one building-year each.

    python -m jobs.surrogate.collect JOB_FOLDER

Input: `files`, a folder of CSV or Parquet files. Artifact: `observations`, JSON lines of
config.INPUTS and what was measured of config.TARGETS. One bad file, and nothing is stored.
"""

import json

from infra.errors import InputError
from jobs.runtime import Job, Outcome, main
from jobs.surrogate.config import CollectConfig
from jobs.surrogate.observations import read_observation


def program(job: Job[CollectConfig]) -> Outcome:
    given = job.input("files")
    paths = sorted(p for p in given.iterdir() if p.suffix in (".csv", ".parquet"))
    if len(paths) < job.config.minimum:
        raise InputError(
            f"{len(paths)} observations are too few to learn from",
            f"Give at least {job.config.minimum} building-years (.csv or .parquet), or none.",
        )
    rows = []
    for number, path in enumerate(paths, 1):
        rows.append(read_observation(path))
        job.progress(number, len(paths), path.name)
    written = job.scratch / "observations.jsonl"
    written.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Outcome({"observations": float(len(rows))}, {"observations": written})


if __name__ == "__main__":
    main(CollectConfig, program)
