"""The local launcher with real processes: ends, deadlines, re-attachment, GPUs, leftovers."""

import contextlib
import errno
import fcntl
import os
import subprocess
import sys
import time
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import psutil
import pytest

from infra.compute.launcher import Handle
from infra.compute.local import is_model
from infra.contract import Resources
from infra.errors import LaunchError, StorageFull
from infra.settings import settings
from tests.helpers.launching import alive, job, launcher, money, wait, wait_until_none_is_alive


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
        "import sys; from tests.helpers.launching import *; from pathlib import Path;"
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
    wait_until_none_is_alive(home)
    again = local.launch(spec, money())
    assert again.attempt == 2
    status = wait(local, again)
    assert status.result and status.result.metrics == {"total": float(sum(range(30)))}
    assert status.result.resumed_from


def test_deadline_holds_when_the_launching_process_is_dead(home: Path) -> None:
    code = (
        "import sys; from tests.helpers.launching import *; from pathlib import Path;"
        "home=Path(sys.argv[1]);"
        "[launcher(home).launch(job(home, f'run/{deaf}', steps=9999, deaf=deaf, grandchild=True),"
        " money(8)) for deaf in (False, True)]"
    )
    subprocess.run([sys.executable, "-c", code, str(home)], check=True)
    began = datetime.now(UTC)
    local = launcher(home)
    handles = {handle.key: handle for handle in local.running()}
    for key, state in (("run/False", "continue"), ("run/True", "lost")):
        status = wait(local, handles[key], seconds=20)
        assert status.state == state
        assert (status.seen - began).total_seconds() < 10
    wait_until_none_is_alive(home)


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
    assert [visible_gpus(handle) for handle in (first, second)] == ["0,1", "2"]
    local.stop(first)
    third = local.launch(job(home, "run/c", gpus=1, steps=9999), money())
    assert visible_gpus(third) == "0"
    local.stop(second)
    local.stop(third)
    with pytest.raises(LaunchError, match="3 GPUs"):
        local.quotes(job(home, gpus=4).resources)
    assert str(local.quotes(job(home, gpus=2).resources)[0].hourly_usd) == "2.15"
    wait_until_none_is_alive(home)


def visible_gpus(handle: Handle) -> str:
    (variables,) = variables_of(handle)
    return variables["CUDA_VISIBLE_DEVICES"]


def variables_of(handle: Handle, seconds: float = 10) -> list[dict[str, str]]:
    """The environment variables of each process of a job that has just been launched."""
    deadline = time.monotonic() + seconds
    while True:
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get("NIGHTSHIFT_JOB") == handle.place:
                    found.append(process.environ())
        if found:
            return found
        assert time.monotonic() < deadline, f"{handle.key} is not running"
        time.sleep(0.02)


def test_job_sees_no_secret_of_the_control_plane(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NIGHTSHIFT_DATABASE_URL", "postgresql://u:hunter2@h/d")
    monkeypatch.setenv("PREFECT_API_KEY", "hunter2")
    local = launcher(home)
    handle = local.launch(job(home, steps=9999), money())
    for variables in variables_of(handle):
        assert "hunter2" not in str(variables)
    local.stop(handle)
    wait_until_none_is_alive(home)


def test_credentials_reach_the_job_and_no_file(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    local = launcher(home)
    handle = local.launch(job(home, steps=9999), money())
    assert [each["AWS_SECRET_ACCESS_KEY"] for each in variables_of(handle)] == ["hunter2"]
    local.stop(handle)
    files = [path for path in home.rglob("*") if path.is_file()]
    assert len(files) > 5
    assert [path for path in files if b"hunter2" in path.read_bytes()] == []
    wait_until_none_is_alive(home)


def test_nothing_escapes_by_leaving_its_session_and_its_variables(home: Path) -> None:
    """A daemon: a new session, its parent has ended, no variable of ours is left."""
    command = ["sleep", "600.125"]
    daemon = f"env -i setsid sh -c 'exec {' '.join(command)}' & exit 0"
    local = launcher(home)
    handle = local.launch(job(home, steps=40, shell=daemon), money())
    deadline = time.monotonic() + 20
    while not (found := [one for one in psutil.process_iter() if command_of(one) == command]):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    (escaped,) = found
    assert "NIGHTSHIFT_JOB" not in escaped.environ()
    assert wait(local, handle).state == "succeeded"
    with contextlib.suppress(psutil.NoSuchProcess):
        assert escaped.status() == psutil.STATUS_ZOMBIE
    wait_until_none_is_alive(home)


def command_of(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def test_a_short_reservation_leaves_half_of_its_time_before_the_job_is_asked_to_end(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NIGHTSHIFT_STOP_GRACE_SECONDS", "600")
    settings.cache_clear()
    local = launcher(home)
    status = wait(local, local.launch(job(home, steps=9999), money(4)))
    assert status.state == "continue" and status.started and status.progress
    assert 1.5 < (status.seen - status.started).total_seconds() < 4


def test_followed_logs_are_whole_lines_and_end_with_the_job(home: Path) -> None:
    local = launcher(home)
    print_in_pieces = "sleep 0.3; for n in 1 2; do printf half; sleep 0.4; echo -whole; done"
    handle = local.launch(job(home, steps=1, seconds=3, shell=print_in_pieces), money())
    lines = list(local.logs(handle, follow=True))
    assert lines.count("half-whole") == 2
    assert local.poll(handle).state == "succeeded"
    wait_until_none_is_alive(home)


def test_a_program_that_does_not_exist_fails_with_its_last_lines(home: Path) -> None:
    local = launcher(home)
    spec = job(home).model_copy(update={"name": "basic.absent"})
    handle = local.launch(spec, money())
    status = wait(local, handle)
    assert (status.state, status.exit_code, status.result) == ("failed", 1, None)
    assert "No module named tests.programs.basic.absent" in list(local.logs(handle))[-1]
    wait_until_none_is_alive(home)


def test_an_interrupted_launch_leaves_nothing_that_starts_later(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local = launcher(home)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(local, "_confirmed", interrupted)
    with pytest.raises(KeyboardInterrupt):
        local.launch(job(home, steps=9999), money())
    assert local.running() == []
    wait_until_none_is_alive(home)


def test_a_full_disk_is_named_before_anything_runs(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, value: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr("infra.compute.local.write_whole", full)
    with pytest.raises(StorageFull, match="NIGHTSHIFT_HOME"):
        launcher(home).launch(job(home), money())
    assert alive(home) == []


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"cpus": 4096}, "CPU cores"),
        ({"memory_gb": 1e6}, "GB of memory"),
        ({"accelerators": {"GPU": 99}}, "99"),
        ({"use_spot": True}, "spot"),
    ],
)
def test_a_quote_says_why_this_machine_cannot(home: Path, asked: dict, said: str) -> None:
    with pytest.raises(LaunchError, match=said):
        launcher(home).quotes(Resources(**asked))


def test_accelerators_are_matched_by_name(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`nvidia-smi -L` is the machine's own, or in its place a program that says the same."""
    listed = (
        "GPU 0: NVIDIA A100-SXM4-80GB (UUID: GPU-0)\nGPU 1: NVIDIA A100-SXM4-80GB (UUID: GPU-1)"
    )
    home.mkdir()
    program = home / "nvidia-smi"
    program.write_text(f"#!/bin/sh\nprintf '{listed}\\n'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{home}:{os.environ['PATH']}")
    local = launcher(home)
    for name in ("A100", "A100-80GB", "GPU"):
        assert local.quotes(Resources(accelerators={name: 2}))[0].hourly_usd == Decimal("2.15")
    with pytest.raises(LaunchError, match="no H100 but NVIDIA A100"):
        local.quotes(Resources(accelerators={"H100": 1}))
    with pytest.raises(LaunchError, match="has 2 GPUs"):
        local.quotes(Resources(accelerators={"A100": 3}))


@pytest.mark.parametrize(
    ("accelerator", "model", "same"),
    [
        ("L4", "NVIDIA L4", True),
        ("L4", "NVIDIA L40S", False),
        ("RTX4090", "NVIDIA GeForce RTX 4090", True),
        ("H100", "NVIDIA H100 80GB HBM3", True),
        ("A100-40GB", "NVIDIA A100-SXM4-80GB", False),
    ],
)
def test_names_of_accelerators(accelerator: str, model: str, same: bool) -> None:
    assert is_model(accelerator, model) is same


def test_a_job_runs_as_soon_as_its_watchdog_does(home: Path) -> None:
    handle = launcher(home).launch(job(home, steps=1), money())
    wait(launcher(home), handle)
    wait_until_none_is_alive(home)
    assert launcher(home).running() == []
    with (Path(handle.place) / "lock").open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)  # as a watchdog whose program is still to come
        assert launcher(home).running() == [handle]
