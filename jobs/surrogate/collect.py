"""Check observations before anything is simulated, and sum them up.

    python -m jobs.surrogate.collect JOB_FOLDER

Input: `files`, a folder of CSV or Parquet files, one building-year each, or `readings`, the same
made of what sensors sent. Artifact, with `files`: `observations`, JSON lines of config.INPUTS and
what was measured of config.TARGETS; one bad file, and nothing is stored. Artifact, with `readings`:
`verdicts`, JSON lines with the `file` and its `row` or the `error`; each is judged by itself.
"""

import json

from infra.errors import InputError
from jobs.runtime import Job, Outcome, main
from jobs.surrogate.config import CollectConfig
from jobs.surrogate.observations import read_observation

KINDS = (".csv", ".parquet")


def program(job: Job[CollectConfig]) -> Outcome:
    if "readings" in job.spec.inputs:
        return _judged(job)
    given = job.input("files")
    paths = sorted(p for p in given.iterdir() if p.suffix in KINDS)
    rows = []
    for number, path in enumerate(paths, 1):
        rows.append(read_observation(path))
        job.progress(number, len(paths), path.name)
    written = job.scratch / "observations.jsonl"
    written.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Outcome({"observations": float(len(rows))}, {"observations": written})


def _judged(job: Job[CollectConfig]) -> Outcome:
    verdicts = []
    paths = sorted(job.input("readings").iterdir())
    for number, path in enumerate(paths, 1):
        try:
            verdicts.append({"file": path.name, "row": read_observation(path)})
        except InputError as error:
            said = f"{error.message.removeprefix(f'{path.name}: ')}. {error.remedy}"
            verdicts.append({"file": path.name, "error": said})
        job.progress(number, len(paths), path.name)
    written = job.scratch / "verdicts.jsonl"
    written.write_text("".join(json.dumps(one) + "\n" for one in verdicts))
    good = sum("row" in one for one in verdicts)
    return Outcome({"observations": float(good)}, {"verdicts": written})


if __name__ == "__main__":
    main(CollectConfig, program)
