"""kill -9 on launching processes, watchdogs and programs at random moments: never two copies,
never an orphan, and the job ends with the result that it would have had.
"""

import contextlib
import random
import time
from pathlib import Path

import psutil
import pytest

from infra.compute.launcher import JobStatus
from infra.compute.local import LocalLauncher
from infra.contract import JobSpec
from infra.settings import settings
from tests.helpers.launching import (
    alive,
    job,
    launch_and_die,
    launcher,
    money,
    wait_until_none_is_alive,
)

pytestmark = pytest.mark.timeout(0)
STEPS = 40


@pytest.fixture(autouse=True)
def short_grace(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NIGHTSHIFT_STOP_GRACE_SECONDS", "1")
    settings.cache_clear()


def test_a_job_survives_kills_of_watchdog_program_and_launcher(home: Path, kills: int) -> None:
    """The program takes a lock of its own, and fails where another copy of it is alive."""
    chance = random.Random(kills)
    local, spec = launcher(home), job(home, steps=STEPS + kills, seconds=0.02)
    for kill in range(kills):
        if kill % 3 == 0:
            launch_and_die(home, spec, chance.random() * 0.25)
        else:
            local.launch(spec, money(120))
            time.sleep(chance.random() * 0.6)
            kill_one(home, chance)
        assert sum("tests.programs.basic.steps" in line for line in alive(home)) <= 1
        states = [local.poll(attempt).state for attempt in local.attempts(spec.key)]
        assert "failed" not in states
        if states[-1:] == ["succeeded"]:
            spec = job(home, f"run-1/step-{kill}", steps=STEPS + kills, seconds=0.02)
    status = carry_through(local, spec)
    assert status.result and status.result.metrics == {"total": float(sum(range(STEPS + kills)))}
    wait_until_none_is_alive(home)
    assert local.running() == []


def test_stop_ends_a_job_whose_launcher_was_killed_at_any_moment(home: Path, kills: int) -> None:
    chance = random.Random(kills)
    local, spec = launcher(home), job(home, steps=9999)
    local.stop(local.launch(spec, money()))
    for _ in range(kills // 3):
        launch_and_die(home, spec, chance.random() * 0.12)
        local.stop(local.attempts(spec.key)[-1])
        number = len(local.attempts(spec.key))
        assert local.running() == []
        wait_until_none_is_alive(home)  # a watchdog that comes late finds its order withdrawn
        assert len(local.attempts(spec.key)) == number, "it began after it was stopped"


def carry_through(local: LocalLauncher, spec: JobSpec) -> JobStatus:
    deadline = time.monotonic() + 60
    while (status := local.poll(local.launch(spec, money(120)))).state != "succeeded":
        assert time.monotonic() < deadline and status.state != "failed", status
        time.sleep(0.02)
    return status


def kill_one(home: Path, chance: random.Random) -> None:
    victims = []
    for process in psutil.process_iter():
        try:
            line = process.cmdline()
        except psutil.Error:
            continue
        watchdog = "infra.compute.watchdog" in line
        program = any("tests.programs.basic.steps" in word for word in line)
        if (watchdog or program) and line[-1].startswith(str(home)):
            victims.append(process)
    if victims:
        with contextlib.suppress(psutil.Error):
            chance.choice(victims).kill()
