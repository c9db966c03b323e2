"""What every job program shares."""

import math
import sys
from pathlib import Path

import pytest
from pydantic import BaseModel

from infra import objects
from infra.errors import InputError
from jobs.contract import JobResult, JobSpec
from jobs.runtime import Job, Outcome, main, require_finite


class Config(BaseModel):
    """Nothing to say."""


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_metrics_that_are_no_numbers_are_named(value: float) -> None:
    require_finite({"reward": 0.5})
    with pytest.raises(InputError, match="loss"):
        require_finite({"reward": 0.5, "loss": value})


def test_a_start_killed_between_its_artefacts_and_its_result_is_followed_by_one_that_differs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = JobSpec(
        name="basic.steps",
        environment="node",
        config={},
        output=f"file://{tmp_path}/out",
        max_hours=1,
        key="run/step",
    )
    (tmp_path / "spec.json").write_text(spec.model_dump_json())
    monkeypatch.setattr(sys, "argv", ["x", str(tmp_path)])
    file = tmp_path / "file"
    results = []
    for content in ("first", "second"):

        def program(_job: Job[Config], content: str = content) -> Outcome:
            file.write_text(content)
            return Outcome({}, {"file": file})

        with pytest.raises(SystemExit, match="0"):
            main(Config, program)
        results.append(JobResult.model_validate_json((tmp_path / "result.json").read_text()))
        (tmp_path / "result.json").unlink()
    first, second = [result.artifacts["file"] for result in results]
    assert objects.describe(first.uri) == first
    fetched = objects.get(second.uri, tmp_path / "fetched", second.sha256)
    assert fetched.read_text() == "second"
