"""DPO trainings that cost nothing: without feedback, and with input of no use."""

import json
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import pytest

from infra.settings import REPOSITORY
from tests.end_to_end.preferences import TRAINING, vowels_win, write

AT = TRAINING.index("--dataset")
WITHOUT_DATASET = TRAINING[:AT] + TRAINING[AT + 2 :]


def test_without_feedback_nothing_is_learned_and_nothing_spent(lasting_user) -> None:
    report = lasting_user.json(*WITHOUT_DATASET)
    assert report["nothing_to_learn"]
    assert "nothing was spent" in Path(report["files"]["markdown"]).read_text()
    assert lasting_user.json("run", "build-preferences", "--name", "words")["nothing_to_learn"]
    assert lasting_user.json("jobs", "list") == []


EVENTS = """
import psycopg
from infra import database
with psycopg.connect(database.url("prefect")) as connection:
    print(*connection.execute("SELECT event, resource_id FROM events").fetchall())
"""


def test_imported_feedback_is_told_without_a_server_that_stays(alone) -> None:
    user = alone
    liked = {"kind": "thumb", "prompt": "word", "completion": "aeiou", "value": 1}
    write(user.folder / "feedback.jsonl", [liked] * 3)
    user.settings["NIGHTSHIFT_FEEDBACK_THRESHOLD"] = "3"
    code, out, err = user.run("feedback", "import", "feedback.jsonl", "--name", "words")
    assert code == 0 and "3 new" in out
    assert "failed" not in err and "Error" not in err, "Prefect's worker for events"
    env = user.environment() | {"PYTHONPATH": str(REPOSITORY)}
    told = subprocess.run([sys.executable, "-c", EVENTS], env=env, capture_output=True, text=True)
    assert told.stdout == "('feedback.threshold-reached', 'nightshift.model.words')\n", told.stderr
    user.wait_until_nothing_runs()


def test_a_simulation_that_would_be_of_no_use_is_refused(lasting_user) -> None:
    user = lasting_user
    simulated = [*WITHOUT_DATASET, "--simulate", "8", "--prompts", "words.jsonl"]
    code, _, err = user.run_here(*simulated)
    assert code == 2 and "--held-out" in err, "simulated pairs alone judge nothing"
    made = user.folder / "made"
    made.mkdir()
    for part in ("card.md", "train.parquet", "held_out.parquet", "prompts.jsonl"):
        (made / part).touch()
    (made / "card.json").write_text('{"simulated": 0}')
    code, _, err = user.run_here(*simulated, "--dataset", "made")
    assert code == 2 and "--simulate: a dataset that was made" in err
    write(user.folder / "own.jsonl", vowels_win(3))
    judged = [*WITHOUT_DATASET, "--dataset", "made", "--held-out", "own.jsonl"]
    code, _, err = user.run_here(*judged)
    assert code == 2 and "--held-out: a dataset that was made" in err
    assert user.json("jobs", "list") == []
    assert all(Decimal(budget["charged"]) == 0 for budget in user.json("budget", "show"))


@pytest.mark.parametrize(
    ("rows", "change", "named", "code"),
    [
        ([{"prompt": "p", "chosen": "a"}] * 3, {}, "line 1", 2),
        ([], {}, "holds no preference", 2),
        (None, {"--dataset": "nowhere.jsonl"}, "--dataset", 2),
        (None, {"--min-confidence": "0.9"}, "--min-confidence", 7),
        (None, {"--reward": "myrewards:broken"}, "--reward", 7),
        (None, {"--scrub": "myrewards:no_such"}, "--scrub", 2),
        (None, {"--scrub": "json:no_such"}, "--scrub", 7),
        (None, {"--feedback-since": "yesterday"}, "--feedback-since", 2),
        (None, {"--micro-batch": "5"}, "--micro-batch", 2),
        (None, {"--simulate": "8"}, "--simulate", 2),
    ],
)
def test_bad_input_is_one_clear_error_before_training(
    lasting_user, rows, change, named, code
) -> None:
    """What else the jobs `build` and `preflight` refuse, tests/jobs/train shows."""
    user = lasting_user
    write(user.folder / "pairs.jsonl", vowels_win() if rows is None else rows)
    training = list(TRAINING)
    for option, value in change.items():
        if option in training:
            training[training.index(option) + 1] = value
        else:
            training += [option, value]
    exit_code, out, err = user.run_here(*training)
    assert exit_code == code, out + err
    assert named in err
    assert "→" in err and "Traceback" not in err
    jobs = json.loads(user.run_here("jobs", "list", "--json")[1])
    assert not any(job["key"].endswith("/train") for job in jobs), "no machine is rented for it"
    budgets = json.loads(user.run_here("budget", "show", "--json")[1])
    assert all(Decimal(budget["reserved"]) == 0 for budget in budgets)
