"""The page of figures has what was measured, and every target with its source."""

import json

import pytest
from pydantic import ValidationError

from benchmarks.page import page
from tasks.benchmarks.results import Target
from tasks.benchmarks.steps import targets
from tests.unit.benchmarks.test_results import newest


def test_the_page_has_each_suites_figures_and_all_targets(tmp_path):
    machine = {"cpu": "EPYC 9", "cores": 2.0, "memory_gib": 23, "gpus": [], "python": "3.11"}
    machine |= {"blas": "OpenBLAS", "libraries": "abc"}
    session = {"key": "k", "environment": machine, "no_gpu": [{"name": "on_gpu", "unit": "s"}]}
    (tmp_path / "control-plane").mkdir()
    (tmp_path / "control-plane" / "session.json").write_text(json.dumps(session))
    lines = [json.dumps({"load": load, "time": 1.8e9}) + "\n" for load in (2, 3, 7)]
    (tmp_path / "control-plane" / "samples.jsonl").write_text("".join(lines))
    row = newest({"now": 102, "beside": 200}).model_dump(mode="json")
    other = row | {"suite": "training", "figure": "of_another_suite"}
    (tmp_path / "report.json").write_text(json.dumps([row, other]))
    wanted = targets() | {"pairs": Target(capability="money", of_beside=0.5, source="a log")}
    text = page({"control-plane": (tmp_path, "abc1234")}, wanted)
    assert "## control-plane, of `abc1234`" in text and "of_another_suite" not in text
    assert "| pairs, pairs/s | 102 |" in text and "| ✓ ≥ 0.5 |" in text
    assert "| control-plane | 2027-01-15 | 3.0 (2.0 to 7.0) | k |" in text
    assert "on_gpu is not measured: no GPU" in text
    assert "| money | pairs | ✓ ≥ 0.5 | a suite | a log |" in text
    assert "## training\n\nNo whole run" in text and "| not measured | a suite |" in text
    for name, one in wanted.items():
        assert f"| {one.capability} | {name} | " in text and one.source in text


def test_every_target_says_what_is_wanted_and_each_of_no_suite_how_it_is_measured():
    for name, one in targets().items():
        assert (one.value is None) != (one.of_beside is None), name
        own = [one.unit, one.better, one.by]
        assert all(own) or own == [None] * 3, name
    with pytest.raises(ValidationError, match="valeu"):
        Target.model_validate({"capability": "x", "source": "y", "valeu": 3})
