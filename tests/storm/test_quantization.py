"""Every variant, through kills of run and jobs; what is registered answers by its number."""

import json
import time
from pathlib import Path

import pytest

from tests.helpers.quantising import QUANTISE, prepare
from tests.helpers.serving import Endpoint, stored
from tests.helpers.users import User

pytestmark = pytest.mark.timeout(3600)


PROGRAMS = {"quantise": "jobs.quantization.make", "measure": "jobs.serving.measure"}
"""Step → the program of its job."""


def kill_in(user: User, step: str) -> None:
    """Start it, and kill run and program once the step's job has its first checkpoint."""
    killed = user.start(*QUANTISE)
    deadline = time.monotonic() + 900
    while not list(user.home.glob(f"jobs/*-{step}-*/checkpoints/step-*")):
        assert killed.poll() is None and time.monotonic() < deadline, killed.communicate()
        time.sleep(0.1)
    killed.kill()
    killed.communicate()
    programs = user.processes(PROGRAMS[step])
    assert programs
    for process in programs:
        process.kill()


def test_a_killed_run_goes_on_and_what_it_made_is_served(user: User, train_python: Path) -> None:
    prepare(user, train_python)
    for step in PROGRAMS:
        kill_in(user, step)
    again = user.start(*QUANTISE, "--json")
    out, err = again.communicate(timeout=2400)
    assert again.returncode == 0, err
    report = json.loads(out)
    print(Path(report["files"]["markdown"]).read_text())
    assert report["resumed"]
    by = {one["variant"]: one for one in report["figures"]}
    assert list(by) == ["champion", "int8", "gptq", "awq", "fp8"]
    assert by["champion"]["error"] is None and by["int8"]["error"] is None, by
    for step in PROGRAMS:
        (result,) = user.home.glob(f"jobs/*-{step}-*/result.json")
        assert json.loads(result.read_text())["resumed_from"] >= 1, "what is done is done once"
    endpoint = Endpoint(user, f"tiny@{report['registered']}")
    try:
        endpoint.wait_for(endpoint.has_said(f"version {report['registered']} answers"))
        endpoint.ask()
    finally:
        assert endpoint.end() == 0
    (row,) = stored(user, "interactions")
    assert row["model_version"] == report["registered"] and row["model"] == "tiny"
