"""What `nightshift runs` says of runs that were really paid for."""

from pathlib import Path

import click
import pytest

from infra.database import Pool
from infra.errors import InputError
from infra.records import runs
from tasks.runs import launch
from tasks.runs.purse import Purse
from tasks.runs.reconcile import run_lock
from tests.helpers.commands import say, tell
from tests.helpers.launching import job


def test_a_run_is_listed_with_its_cost_and_shown_with_its_report(home: Path, purse: Purse) -> None:
    run = purse.run
    wanted = job(home, f"{run.id}/step", seconds=0.3).model_copy(update={"max_hours": 20 / 3600})
    launch.run_job(wanted, purse)
    (row,) = [row for row in tell("runs", "list") if row["run"] == run.id]
    assert row["state"] == "begun" and row["ended"] is None and float(row["usd"]) > 0
    assert "has begun" in say("runs", "show", run.id) and "no report" in say("runs", "show", run.id)

    runs.swap_flow_run(purse.pool, run, None, "the disk is full")
    assert tell("runs", "show", run.id)["state"] == "interrupted"
    shown = say("runs", "show", run.id)
    assert "the disk is full" in shown and f"{run.id}/config.yaml" in shown
    runs.swap_flow_run(purse.pool, run, "taken up")
    with run_lock(run.id):
        assert "has begun" in say("runs", "show", run.id)
    assert tell("runs", "show", run.id)["state"] == "interrupted"
    assert "Its process was killed." in say("runs", "show", run.id)

    report = home / "report.md"
    report.write_text("# The night\n\n**All is well.**\n")
    runs.end(purse.pool, run, "finished", {"files": {"markdown": str(report)}})
    ending = run.id[-8:]
    assert "All is well." in say("runs", "show", ending)
    told = tell("runs", "show", ending)
    assert told["jobs"] == [{"key": wanted.key, "state": "succeeded"}]
    assert told["state"] == "finished" and told["report"]["files"]["markdown"] == str(report)
    report.unlink()
    assert "written elsewhere" in say("runs", "show", ending)
    assert run.id in say("runs", "list")


def test_a_failed_run_says_why(home: Path, purse: Purse) -> None:
    runs.end(purse.pool, purse.run, "failed")
    runs.swap_flow_run(purse.pool, purse.run, None, "--reward: it raised ValueError")
    shown = say("runs", "show", purse.run.id)
    assert "has failed" in shown and "--reward: it raised ValueError" in shown


def test_none_and_several_are_told_apart(database: Pool) -> None:
    assert "No runs yet" in say("runs", "list")
    ids = [runs.begin(database, "cost-guard", {"number": number}).id for number in range(40)]
    assert len(tell("runs", "list")) == 30 and len(tell("runs", "list", "--limit", "40")) == 40
    endings = [id_[-1] for id_ in ids]
    shared = next(one for one in endings if endings.count(one) > 1)
    for wrong, says in (("", "is empty"), ("nowhere", "names none"), (shared, "several: ")):
        with pytest.raises(InputError, match=says):
            say("runs", "show", wrong)
    with pytest.raises(click.BadParameter):
        say("runs", "list", "--limit", "0")
