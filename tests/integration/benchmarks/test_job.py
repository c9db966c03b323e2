"""The job measures each side in its own tree, and what was killed does not count."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from infra.settings import REPOSITORY
from jobs.benchmarks import machine
from tests.helpers.trees import make_up_figures


@pytest.fixture
def trees(tmp_path):
    sides = {}
    for side, seconds in (("now", 3.0), ("then", 2.0)):
        (tmp_path / side).mkdir()
        make_up_figures(tmp_path / side, seconds)
        sides[side] = str(tmp_path / side)
    return sides


def start(folder, trees, **config):
    spec = {
        "name": "benchmarks.run",
        "environment": "control",
        "config": {"suite": "control-plane", "trees": trees, "rounds": 10, "seed": 1} | config,
        "output": (folder / "output").as_uri(),
        "max_hours": 1,
        "key": "run/control-plane",
    }
    folder.mkdir(exist_ok=True)
    (folder / "spec.json").write_text(json.dumps(spec))
    return subprocess.Popen(
        [sys.executable, "-m", "jobs.benchmarks.run", str(folder)],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def told(folder):
    place = folder / "scratch" / "samples"
    samples = [json.loads(line) for line in (place / "samples.jsonl").read_text().splitlines()]
    return json.loads((place / "session.json").read_text()), samples


def values(samples, figure, side):
    return [
        one["value"]
        for one in samples
        if (one["figure"], one["side"], one["warm_up"]) == (figure, side, False)
    ]


def test_each_side_is_measured_in_its_own_tree(tmp_path, trees):
    process = start(tmp_path / "job", trees, figures=["step", "steps"])
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0, out
    session, samples = told(tmp_path / "job")
    for side, seconds in (("now", 3.0), ("then", 2.0), ("beside", 1.0)):
        found = values(samples, "step", side)
        assert len(found) == 10 and found == pytest.approx([seconds] * 10, rel=0.01)
    assert {one["side"] for one in samples if one["figure"] == "steps"} == {"now", "then"}
    assert all(len(one["raw"]) == 70 for one in samples if one["figure"] == "steps")
    assert session["figures"]["step"]["missing"] == [] and session["key"]
    assert session["no_gpu"] == []
    progress = (tmp_path / "job" / "progress.jsonl").read_text().splitlines()
    assert json.loads(progress[0])["message"] == "step"
    assert json.loads(progress[-1])["step"] == json.loads(progress[-1])["total"] == 20


def test_a_figure_ends_when_its_verdict_is_sure_and_without_another_tree_at_once(tmp_path, trees):
    process = start(tmp_path / "job", trees, figures=["step"], rounds=40)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0, out
    _, samples = told(tmp_path / "job")
    assert len(values(samples, "step", "now")) == len(values(samples, "step", "beside")) == 10
    (tmp_path / "then" / "pace.py").write_text("SECONDS = 3.0001\n")
    process = start(tmp_path / "open", trees, figures=["step"], rounds=40, least_effect=1e-3)
    process.communicate(timeout=60)
    _, samples = told(tmp_path / "open")
    assert len(values(samples, "step", "then")) == 40, "a thousandth is not told from noise of 1 %"
    figures = ["steps", "in_few_rounds"]
    process = start(tmp_path / "alone", {"now": trees["now"]}, figures=figures, rounds=40)
    process.communicate(timeout=60)
    _, samples = told(tmp_path / "alone")
    assert len(values(samples, "steps", "now")) == 10
    assert len(values(samples, "in_few_rounds", "now")) == 9


@pytest.mark.skipif(bool(machine.gpus()), reason="there is a GPU")
def test_a_figure_of_a_gpu_is_not_measured_without_one(tmp_path, trees):
    process = start(tmp_path / "job", trees, figures=["on_gpu", "step"])
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0, out
    session, samples = told(tmp_path / "job")
    assert [one["name"] for one in session["no_gpu"]] == ["on_gpu"]
    assert list(session["figures"]) == ["step"]
    assert {one["figure"] for one in samples} == {"step"}


def test_a_revision_that_cannot_do_it_is_left_out_and_our_own_is_an_error(tmp_path, trees):
    (tmp_path / "then" / "pace.py").write_text("# there was no pace then\n")
    process = start(tmp_path / "job", trees, figures=["step"])
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0 and "cannot import name 'SECONDS'" in out
    session, samples = told(tmp_path / "job")
    assert session["figures"]["step"]["missing"] == ["then"]
    assert values(samples, "step", "now") and not values(samples, "step", "then")

    (tmp_path / "now" / "pace.py").write_text("SECONDS = 0 / 0\n")
    process = start(tmp_path / "other", trees, figures=["step"])
    process.communicate(timeout=60)
    result = json.loads((tmp_path / "other" / "result.json").read_text())
    assert result["status"] == "failed" and "cannot be read" in result["error"]


def test_what_is_killed_in_its_middle_is_measured_anew(tmp_path, trees):
    folder = tmp_path / "job"
    process = start(folder, trees, figures=["step", "slow_to_take"])
    path = folder / "scratch" / "samples" / "samples.jsonl"
    deadline = time.monotonic() + 60
    while not (path.exists() and path.read_text().count("slow_to_take") >= 4):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert not (folder / "result.json").exists()

    process = start(folder, trees, figures=["step", "slow_to_take"])
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0, out
    session, samples = told(folder)
    attempts = {name: known["attempt"] for name, known in session["figures"].items()}
    assert attempts == {"step": 1, "slow_to_take": 2}
    counted = [one for one in samples if attempts[one["figure"]] == one["attempt"]]
    assert len(values(counted, "slow_to_take", "now")) == 10
    assert len(values(samples, "step", "now")) == 10
    assert len(samples) > len(counted), "what was killed is there"


def test_every_tree_keeps_its_bytecode_whatever_the_environment_says(tmp_path, trees, monkeypatch):
    """A tree that is compiled anew for each process seemed 6 % slower than one that is not."""
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    process = start(tmp_path / "job", trees, figures=["step"])
    process.communicate(timeout=60)
    for tree in trees:
        assert list((tmp_path / tree / "__pycache__").glob("pace.*.pyc")), tree
