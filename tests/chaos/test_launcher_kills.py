"""kill -9 on watchdogs and programs at random moments: never two copies, never an orphan, and
the job ends with the result that it would have had."""

import random
import time
from pathlib import Path

import psutil
import pytest

from tests.launching import alive, job, launcher, money, wait_until_none_is_alive

KILLS = 25


@pytest.mark.parametrize("seed", range(2))
def test_random_kills(home: Path, seed: int) -> None:
    chance = random.Random(seed)
    local, spec = launcher(home), job(home, steps=60, seconds=0.03)
    kills = 0
    deadline = time.monotonic() + 120
    while True:
        assert time.monotonic() < deadline
        handle = local.launch(spec, money(120))
        assert sum("tests.programs.basic.steps" in line for line in alive(home)) <= 1
        if kills < KILLS:
            time.sleep(chance.random() * 0.5)
            kills += kill_one(home, chance)
        status = local.poll(handle)
        if status.state == "succeeded":
            break
        time.sleep(0.02)
    assert status.result and status.result.metrics == {"total": float(sum(range(60)))}
    assert kills >= 5
    wait_until_none_is_alive(home)
    assert local.running() == []


def kill_one(home: Path, chance: random.Random) -> int:
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
    if not victims:
        return 0
    try:
        chance.choice(victims).kill()
    except psutil.Error:
        return 0
    return 1
