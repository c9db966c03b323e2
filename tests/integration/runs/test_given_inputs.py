"""What a job is given: the bytes that the database knows, whatever became of the object store."""

from pathlib import Path

import pytest

from infra import objects
from infra.contract import JobResult, JobSpec, Resources
from infra.models.registry import ModelVersion
from tasks.runs import run as frame
from tasks.runs.given import stored_once
from tasks.runs.parameters import RunParameters
from tasks.runs.plan import Step
from tasks.runs.purse import Purse
from tasks.runs.run import Work

STEP = Step[RunParameters]("step", "basic.steps", "train", lambda _: 1, Resources())


@pytest.fixture
def work(purse: Purse) -> Work[RunParameters]:
    return Work(purse.run, purse, RunParameters(), (STEP,))


def test_a_job_is_told_the_checksum_of_each_input(
    work: Work[RunParameters], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[JobSpec] = []

    def run_job(spec: JobSpec, *_: object) -> JobResult:
        asked.append(spec)
        return JobResult(status="succeeded")

    monkeypatch.setattr(frame, "run_job", run_job)
    path = work.folder / "rows"
    path.write_text("rows")
    rows = objects.put(path, f"{work.uri}/rows")
    champion = ModelVersion(
        model="m", kind="policy", version="1", uri="s3://b/1", sha256="f" * 64, base="", flow_run=""
    )
    work.job(STEP, RunParameters(), {"rows": rows, "champion": champion})
    assert asked[0].inputs == {"rows": rows.uri, "champion": "s3://b/1"}
    assert asked[0].checksums == {"rows": rows.sha256, "champion": "f" * 64}


def test_what_was_exported_once_is_known_by_the_database(work: Work[RunParameters]) -> None:
    written: list[Path] = []

    def write() -> Path:
        written.append(work.folder / "rows")
        written[-1].write_text("ours")
        return written[-1]

    first = stored_once(work, "rows", write)
    objects.delete(first.uri)
    written[0].write_text("theirs")
    objects.put(written[0], first.uri)
    assert stored_once(work, "rows", write) == first and len(written) == 1
