"""From feedback to a better policy, with a model and a reward that the project never saw."""

import json
import subprocess
import sys
import time
from decimal import Decimal
from pathlib import Path

import pytest

from infra.settings import REPOSITORY

pytestmark = pytest.mark.timeout(900)

TRAINING = (
    "run dpo-training --name words --model model --dataset pairs.jsonl --reward myrewards:vowels"
    " --max-new-tokens 12 --max-tokens 48 --epochs 2 --learning-rate 0.01 --beta 0.3"
    " --hours 0.05 --data-hours 0.05 --transfer-hours 0.05 --deploy-hours 0.05 --max-cost 1"
    " --max-length-ratio 20 --max-perplexity-ratio 1000 --max-invalid-increase 1 --max-kl 1000"
).split()


@pytest.fixture
def training() -> list[str]:
    """The command of a whole training that takes seconds."""
    return list(TRAINING)


def write(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def vowels_win(count: int = 160) -> list[dict]:
    return [
        {
            "prompt": f"word {n}: ",
            "chosen": "aeiou"[: 2 + n % 4] * 2,
            "rejected": "xkcd" * 2,
            "weight": 1.0,
        }
        for n in range(count)
    ]


def test_a_training_and_what_it_leaves(user, training) -> None:
    write(user.folder / "pairs.jsonl", vowels_win())
    plan = user.json(*training, "--plan")
    steps = [step["step"] for step in plan["steps"]]
    assert steps == ["preferences", "preflight", "train", "validate"]

    report = user.json(*training)
    assert report["verdict"]["promote"], report["verdict"]
    assert report["verdict"]["confidence_interval"][0] > 0
    assert (report["champion"], report["candidate"]) == ("1", "2")
    names = [score["name"] for score in report["scores"]]
    assert names == ["reward", "pairs by reward", "pairs by likelihood"]
    assert report["scores"][1]["candidate"] > 0.9
    text = Path(report["files"]["markdown"]).read_text()
    for words in ("Version 2 is the new champion", "win", "at equal length", "The data", "KL"):
        assert words in text
    assert Path(report["files"]["plot"]).read_bytes().startswith(b"\x89PNG")
    served = user.home / "serving" / "words" / "champion" / "adapter" / "adapter_config.json"
    assert served.is_file()

    made = user.json("run", "build-preferences", "--name", "words", "--dataset", "pairs.jsonl")
    assert made["dataset"]["sha256"]
    again = [made["dataset"]["uri"] if word == "pairs.jsonl" else word for word in training]
    second = user.json(*again, "--max-steps", "2")
    assert second["champion"] == "2"
    jobs = [job["key"].partition("/")[2] for job in user.json("jobs", "list")]
    assert jobs.count("preferences") == 2, "a dataset that was made is not made again"
    spent = sum(Decimal(job["usd"]) for job in user.json("jobs", "list"))
    project = next(b for b in user.json("budget", "show") if b["scope"] == "project")
    assert Decimal(project["charged"]) == spent > 0
    assert Decimal(project["reserved"]) == 0
    user.wait_until_nothing_runs()


JUDGE = """
def vowels(prompts, first, second, **columns):
    def share(text):
        return sum(c in "aeiou" for c in text) / max(1, len(text))
    return [1.0 if share(a) > share(b) else 0.5 if share(a) == share(b) else 0.0
            for a, b in zip(first, second)]
"""


def test_a_judge_or_a_model_trained_on_the_pairs_decides(user, training) -> None:
    write(user.folder / "pairs.jsonl", vowels_win())
    (user.folder / "judge.py").write_text(JUDGE)
    at = training.index("--reward")
    without = training[:at] + training[at + 2 :]
    report = user.json(*without, "--judge", "judge.py:vowels")
    assert report["verdict"]["promote"], report["verdict"]
    assert "of the held-out prompts" in report["sections"]["Against the champion"]

    report = user.json(*without, "--name", "others")
    assert "judge" in [cost["job"] for cost in report["costs"]]
    assert report["scores"][0]["name"] == "reward"
    user.wait_until_nothing_runs()


def test_without_feedback_nothing_is_learned_and_nothing_spent(user, training) -> None:
    at = training.index("--dataset")
    report = user.json(*training[:at], *training[at + 2 :])
    assert report["nothing_to_learn"]
    assert "nothing was spent" in Path(report["files"]["markdown"]).read_text()
    assert user.json("run", "build-preferences", "--name", "words")["nothing_to_learn"]
    assert user.json("jobs", "list") == []


EVENTS = """
import psycopg
from infra import database
with psycopg.connect(database.url("prefect")) as connection:
    print(*connection.execute("SELECT event, resource_id FROM events").fetchall())
"""


def test_imported_feedback_is_told_without_a_server_that_stays(user) -> None:
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


def test_a_simulation_that_would_be_of_no_use_is_refused(user, training) -> None:
    at = training.index("--dataset")
    simulated = [*training[:at], *training[at + 2 :], "--simulate", "8", "--prompts", "words.jsonl"]
    code, _, err = user.run(*simulated)
    assert code == 2 and "--held-out" in err, "simulated pairs alone judge nothing"
    made = user.folder / "made"
    made.mkdir()
    for part in ("card.md", "train.parquet", "held_out.parquet", "prompts.jsonl"):
        (made / part).touch()
    (made / "card.json").write_text('{"simulated": 0}')
    code, _, err = user.run(*simulated, "--dataset", "made")
    assert code == 2 and "--simulate: a dataset that was made" in err
    assert user.json("jobs", "list") == []
    assert all(Decimal(budget["charged"]) == 0 for budget in user.json("budget", "show"))


@pytest.mark.parametrize(
    ("rows", "change", "named", "code"),
    [
        ([{"prompt": "p", "chosen": "a"}] * 3, {}, "line 1", 2),
        ([], {}, "holds no preference", 2),
        (None, {"--dataset": "nowhere.jsonl"}, "--dataset", 2),
        (None, {"--min-confidence": "0.9"}, "--min-confidence", 7),
        (None, {"--max-tokens": "8"}, "--max-tokens", 7),
        (None, {"--max-new-tokens": "60"}, "--max-new-tokens", 7),
        (None, {"--reward": "myrewards:broken"}, "--reward", 7),
        (None, {"--lora-targets": "no_such"}, "lora_targets", 7),
        (None, {"--scrub": "myrewards:no_such"}, "--scrub", 2),
        (None, {"--scrub": "json:no_such"}, "--scrub", 7),
        (None, {"--success": "json:no_such"}, "--success", 7),
        (None, {"--feedback-since": "yesterday"}, "--feedback-since", 2),
        (None, {"--micro-batch": "5"}, "--micro-batch", 2),
        (None, {"--simulate": "8"}, "--simulate", 2),
        (
            [{"prompt": [{"role": "user", "content": f"{n}"}], "chosen": "a", "rejected": "b"}
             for n in range(99)],
            {},
            "chat template",
            7,
        ),
    ],
)  # fmt: skip
def test_bad_input_is_one_clear_error_before_training(
    careless_user, training, rows, change, named, code
) -> None:
    user = careless_user
    write(user.folder / "pairs.jsonl", vowels_win() if rows is None else rows)
    for option, value in change.items():
        if option in training:
            training[training.index(option) + 1] = value
        else:
            training += [option, value]
    exit_code, out, err = user.run(*training)
    assert exit_code == code, out + err
    assert named in err
    assert "→" in err and "Traceback" not in err
    jobs = user.json("jobs", "list")
    assert not any(job["key"].endswith("/train") for job in jobs), "no machine is rented for it"
    assert all(Decimal(budget["reserved"]) == 0 for budget in user.json("budget", "show"))


def test_ctrl_c_checkpoints_and_the_same_command_goes_on(user, training) -> None:
    write(user.folder / "pairs.jsonl", vowels_win())
    training += ["--epochs", "20", "--checkpoint-interval", "5"]
    process = user.start(*training)
    deadline = time.monotonic() + 120
    while not list((user.home / "jobs").glob("*-train-*/checkpoints/step-*")):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.1)
    process.send_signal(2)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    user.wait_until_nothing_runs()
    report = user.json(*training)
    assert report["resumed"]
    (result,) = (user.home / "jobs").glob("*-train-*/result.json")
    assert json.loads(result.read_text())["resumed_from"] >= 5
    user.wait_until_nothing_runs()
