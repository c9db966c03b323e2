"""What every job program shares."""

import math
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import BaseModel

from infra import objects
from infra.contract import JobResult, JobSpec
from infra.errors import InputError, IntegrityError
from jobs.runtime import Job, Outcome, main, require_finite


class Config(BaseModel):
    """Nothing to say."""


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_metrics_that_are_no_numbers_are_named(value: float) -> None:
    require_finite({"reward": 0.5})
    with pytest.raises(InputError, match="loss"):
        require_finite({"reward": 0.5, "loss": value})


def test_an_input_that_is_not_the_one_of_the_database_is_refused(tmp_path: Path) -> None:
    reward = tmp_path / "reward.py"
    reward.write_text("ours")
    stored = objects.put(reward, f"file://{tmp_path}/store/reward")
    spec = JobSpec(
        name="basic.steps",
        environment="node",
        config={},
        inputs={"reward": stored.uri},
        checksums={"reward": stored.sha256},
        output=f"file://{tmp_path}/out",
        max_hours=1,
        key="run/step",
    )
    objects.delete(stored.uri)
    reward.write_text("theirs")
    objects.put(reward, stored.uri)
    (tmp_path / "spec.json").write_text(spec.model_dump_json())
    with pytest.raises(IntegrityError, match=f"expected was {stored.sha256}"):
        Job(tmp_path, Config).input("reward")
    assert not (tmp_path / "inputs" / "reward").exists()


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


THREAD = """
import threading, time
from infra.contract import JobConfig
from jobs.runtime import Outcome, main
def program(job):
    threading.Thread(target=time.sleep, args=(60,)).start()
    print("begun")
    return Outcome({"reward": 1.0})
main(JobConfig, program)
"""


def test_a_thread_that_the_users_code_leaves_keeps_no_job(tmp_path: Path) -> None:
    spec = JobSpec(
        name="basic.steps", environment="node", config={}, output="-", max_hours=1, key="run/step"
    )
    (tmp_path / "spec.json").write_text(spec.model_dump_json())
    command = [sys.executable, "-c", THREAD, str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert (ended.returncode, ended.stdout) == (0, "begun\n"), ended.stderr
    result = JobResult.model_validate_json((tmp_path / "result.json").read_text())
    assert result.status == "succeeded"
