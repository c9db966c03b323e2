"""What the README promises, with a model, prompts and a reward that the project never saw."""

import json
import time
from decimal import Decimal
from pathlib import Path

import pytest

pytestmark = pytest.mark.timeout(900)


def test_two_nights_and_everything_around_them(user, cycle) -> None:
    plan = user.json(*cycle, "--plan")
    assert [step["step"] for step in plan["steps"]] == ["preflight", "collect", "train", "validate"]
    assert user.json("jobs", "list") == [], "a plan launches nothing"

    first = user.json(*cycle)
    assert first["champion"] == "1" and first["candidate"] == "2"
    assert first["verdict"]["promote"], first["verdict"]
    assert first["verdict"]["confidence_interval"][0] > 0
    assert Path(first["files"]["plot"]).read_bytes().startswith(b"\x89PNG")
    assert "Version 2 is the new champion" in Path(first["files"]["markdown"]).read_text()
    champion = user.home / "serving" / "words" / "champion"
    assert (champion / "adapter" / "adapter_config.json").is_file()

    code, out, err = user.run(*cycle)  # the second night starts from the promoted champion
    assert code == 0, out + err
    assert "champion (v2)" in out and "What it cost" in out
    aliases = {v["version"]: v["aliases"] for v in user.json("models", "list", "words")}
    assert "champion" in (aliases["2"] + aliases["3"])
    assert user.json("models", "rollback", "words")[-1]["version"] == "1"

    jobs = user.json("jobs", "list")
    assert len(jobs) == 8 and {job["state"] for job in jobs} == {"succeeded"}
    spent = sum(Decimal(job["usd"]) for job in jobs)
    project = next(b for b in user.json("budget", "show") if b["scope"] == "project")
    assert Decimal(project["charged"]) == spent > 0
    assert Decimal(project["reserved"]) == 0
    assert user.json("jobs", "logs", jobs[0]["key"])["lines"]
    user.wait_until_nothing_runs()


@pytest.mark.parametrize(
    ("change", "named", "code"),
    [
        ({"--model": "/no/such/model"}, "--model", 2),
        ({"--prompts": "broken.jsonl"}, "line 2", 2),
        ({"--prompts": "nowhere.jsonl"}, "--prompts", 2),
        ({"--reward": "no colon"}, "--reward", 2),
        ({"--reward": "myrewards:broken"}, "--reward", 7),
        ({"--max-cost": "0"}, "--max-cost", 2),
        ({"--max-cost": "0.0001"}, "no room", 3),
        ({"--target": "sky"}, "--target", 2),
        ({"--hours": "-1"}, "--hours", 2),
        ({"--accelerators": "H100:8"}, "GPUs", 6),
    ],
    ids=lambda value: (
        "-".join(f"{k}{v}" for k, v in value.items()) if isinstance(value, dict) else ""
    ),
)
def test_bad_input_is_one_clear_error(careless_user, cycle, change, named, code) -> None:
    user = careless_user
    (user.folder / "broken.jsonl").write_text('{"prompt": "a"}\n{"prompt": \n')
    for option, value in change.items():
        if option in cycle:
            cycle[cycle.index(option) + 1] = value
        else:
            cycle += [option, value]
    exit_code, out, err = user.run(*cycle)
    assert exit_code == code, out + err
    assert named in err
    assert "→" in err and "Traceback" not in err
    budgets = user.json("budget", "show")
    assert all(Decimal(budget["reserved"]) == 0 for budget in budgets)


def test_closed_budget_denies_before_launch(user, cycle) -> None:
    user.run("budget", "set", "0")
    code, _, err = user.run(*cycle)
    assert code == 3
    assert "nightshift budget set" in err
    assert not list(user.home.glob("jobs/*")), "nothing was launched"
    user.run("budget", "set", "5")
    assert user.json(*cycle)["candidate"] == "2", "the same command goes on when there is money"
    user.wait_until_nothing_runs()


def test_unreachable_database_is_one_clear_error(user, cycle) -> None:
    user.settings["NIGHTSHIFT_DATABASE_URL"] = "postgresql://u:hunter2@127.0.0.1:1/nightshift"
    code, out, err = user.run(*cycle)
    assert code == 4
    assert "NIGHTSHIFT_DATABASE_URL" in err and "hunter2" not in out + err


def test_ctrl_c_checkpoints_settles_and_the_same_command_goes_on(user, cycle) -> None:
    cycle[cycle.index("--iterations") + 1] = "40"
    process = user.start(*cycle)
    training = user.home / "jobs"
    deadline = time.monotonic() + 120
    while not list(training.glob("*train*/checkpoints/step-*")):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.1)
    process.send_signal(2)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    user.wait_until_nothing_runs()
    assert all(Decimal(budget["reserved"]) == 0 for budget in user.json("budget", "show"))
    report = user.json(*cycle)
    assert report["resumed"]
    (result,) = training.glob("*train*/result.json")
    assert json.loads(result.read_text())["resumed_from"] >= 1
    user.wait_until_nothing_runs()
