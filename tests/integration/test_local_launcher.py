"""The local launcher with real processes: ends, deadlines, re-attachment, GPUs, leftovers."""

import json
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import psutil
import pytest

from infra.errors import LaunchError
from infra.settings import settings
from tests.launching import alive, job, launcher, money, wait, wait_until_none_is_alive


@pytest.fixture(autouse=True)
def short_grace(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NIGHTSHIFT_STOP_GRACE_SECONDS", "1.5")
    settings.cache_clear()


def test_success_gives_result_progress_logs_and_leaves_nothing(home: Path) -> None:
    local = launcher(home)
    handle = local.launch(job(home, steps=3), money())
    status = wait(local, handle)
    assert status.state == "succeeded" and status.result
    assert status.result.metrics == {"total": 3.0}
    assert [p.step for p in local.progress(handle.key)] == [1, 2, 3]
    assert any("from step 0" in line for line in local.logs(handle))
    assert local.launch(job(home, steps=3), money()) == handle, "what has succeeded stays"
    wait_until_none_is_alive(home)
    assert local.running() == []


def test_failure_carries_the_jobs_own_error(home: Path) -> None:
    local = launcher(home)
    status = wait(local, local.launch(job(home, fail="the reward is NaN"), money()))
    assert (status.state, status.exit_code) == ("failed", 1)
    assert status.result and status.result.error == "the reward is NaN\n  → Do it right."


def test_second_launch_attaches_from_another_process_too(home: Path) -> None:
    local, spec = launcher(home), job(home, steps=40)
    first = local.launch(spec, money())
    code = (
        "import sys; from tests.launching import *; from pathlib import Path;"
        "home=Path(sys.argv[1]); print(launcher(home).launch(job(home, steps=40), money()).attempt)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(home)], capture_output=True, text=True, check=True
    )
    assert done.stdout == "1\n"
    assert local.running() == [first]
    assert len(alive(home)) == 2, "one watchdog and one program"
    local.stop(first)
    wait_until_none_is_alive(home)


def test_stop_lets_it_checkpoint_and_the_next_attempt_goes_on(home: Path) -> None:
    local, spec = launcher(home), job(home, steps=30)
    handle = local.launch(spec, money())
    while not local.progress(handle.key):
        time.sleep(0.02)
    local.stop(handle)
    assert local.poll(handle).state == "continue"
    assert alive(home) == []
    again = local.launch(spec, money())
    assert again.attempt == 2
    status = wait(local, again)
    assert status.result and status.result.metrics == {"total": float(sum(range(30)))}
    assert status.result.resumed_from


@pytest.mark.parametrize("deaf", [False, True])
def test_deadline_holds_when_the_launching_process_is_dead(home: Path, deaf: bool) -> None:
    code = (
        "import sys; from tests.launching import *; from pathlib import Path;"
        "home=Path(sys.argv[1]); deaf=sys.argv[2]=='True';"
        "launcher(home).launch(job(home, steps=9999, deaf=deaf, grandchild=True), money(4))"
    )
    subprocess.run([sys.executable, "-c", code, str(home), str(deaf)], check=True)
    began = datetime.now(UTC)
    local = launcher(home)
    (handle,) = local.running()
    status = wait(local, handle, seconds=15)
    assert status.state == ("lost" if deaf else "continue")
    assert (status.seen - began).total_seconds() < 6
    wait_until_none_is_alive(home, 2)


def test_other_parameters_under_the_same_key_are_refused(home: Path) -> None:
    local = launcher(home)
    handle = local.launch(job(home, steps=1), money())
    with pytest.raises(LaunchError, match="other parameters"):
        local.launch(job(home, steps=2), money())
    wait(local, handle)
    wait_until_none_is_alive(home)


def test_two_jobs_never_share_a_gpu(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NIGHTSHIFT_LOCAL_GPUS", "3")
    settings.cache_clear()
    local = launcher(home)
    first = local.launch(job(home, "run/a", gpus=2, steps=9999), money())
    second = local.launch(job(home, "run/b", gpus=1, steps=9999), money())
    with pytest.raises(LaunchError, match="not enough free GPUs"):
        local.launch(job(home, "run/c", gpus=1, steps=9999), money())
    assert [visible_gpus(home, handle) for handle in (first, second)] == ["0,1", "2"]
    local.stop(first)
    third = local.launch(job(home, "run/c", gpus=1, steps=9999), money())
    assert visible_gpus(home, third) == "0"
    local.stop(second)
    local.stop(third)
    with pytest.raises(LaunchError, match="3 GPUs"):
        local.quote(job(home, gpus=4).resources)
    assert str(local.quote(job(home, gpus=2).resources).hourly_usd) == "2.15"
    wait_until_none_is_alive(home)


def visible_gpus(home: Path, handle) -> str:
    for process in psutil.process_iter():
        try:
            variables = process.environ()
        except psutil.Error:
            continue
        if variables.get("NIGHTSHIFT_JOB") == handle.place:
            return variables["CUDA_VISIBLE_DEVICES"]
    raise AssertionError(f"{handle.key} is not running")


def test_job_sees_no_secret_of_the_control_plane(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NIGHTSHIFT_DATABASE_URL", "postgresql://u:hunter2@h/d")
    monkeypatch.setenv("PREFECT_API_KEY", "hunter2")
    local = launcher(home)
    handle = local.launch(job(home, steps=1), money())
    order = json.loads((Path(handle.place) / "launch.json").read_text())
    assert "hunter2" not in json.dumps(order)
    wait(local, handle)
    wait_until_none_is_alive(home)
