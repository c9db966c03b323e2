"""What the commands `budget`, `jobs` and `models` say of really spent money and real jobs."""

import threading
from decimal import Decimal
from pathlib import Path
from typing import Any

import click
import pytest

from infra import ledger, objects
from infra.compute import jobs
from infra.database import Pool
from infra.errors import BudgetExceeded, GateError, InputError, JobFailed, JobStopped, StorageFull
from infra.models import registry, verdicts
from infra.models.registry import ModelVersion
from infra.records import runs
from infra.settings import settings
from tasks.champions.gate import first_version
from tasks.runs import charge, launch, offers
from tasks.runs.purse import Purse
from tests.helpers.commands import say, tell
from tests.helpers.launching import job, launcher, wait_until_none_is_alive


def short(home: Path, purse: Purse, step: str, **config: Any):
    return job(home, f"{purse.run.id}/{step}", **config).model_copy(update={"max_hours": 20 / 3600})


def test_budgets_tell_limit_charged_reserved_and_who_holds_it(home: Path, purse: Purse) -> None:
    told = {}

    def look(_progress: object) -> None:
        told["rows"] = {b["scope"]: b for b in tell("budget", "show")}
        told["table"] = say("budget", "show")

    wanted = short(home, purse, "step", seconds=0.3)
    launch.run_job(wanted, purse, look)
    project = told["rows"]["project"]
    held = Decimal(project["reserved"])
    assert (
        Decimal(0)
        < held
        <= offers.price(offers.cheapest(wanted.resources, "local"), wanted.max_hours)
    )
    assert Decimal(project["remaining"]) == 200 - held - Decimal(project["charged"])
    assert [holder["key"] for holder in project["holders"]] == [f"{purse.run.id}/step#1"]
    assert told["rows"][f"run:{purse.run.id}"]["limit"] == "1.0000"
    for words in ("project a day", "200.00", f"{purse.run.id}/step#1", "▒", "UTC", "never"):
        assert words in told["table"], words
    (charged,) = {b["charged"] for b in tell("budget", "show") if b["scope"] != "flow:test-flow"}
    assert Decimal(charged) == ledger.charged(purse.pool, f"run:{purse.run.id}") > 0


def test_budgets_are_set_and_closed(database: Pool) -> None:
    told = tell("budget", "set", "12.5", "--scope", "flow:dpo-training", "--window", "month")
    (flow,) = [budget for budget in told if budget["scope"] == "flow:dpo-training"]
    assert (flow["limit"], flow["period"], flow["timezone"]) == ("12.5000", "month", "UTC")
    table = say("budget", "set", "0", "--timezone", "Asia/Tokyo")
    assert "closed" in table and "JST" in table and "12.50" in table


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["much"], "LIMIT"),
        (["nan"], "nan"),
        (["-1"], "-1"),
        (["1", "--timezone", "Mars/Base"], "Mars/Base"),
        (["1", "--scope", "everybody"], "everybody"),
        (["1", "--scope", "flow:nightly-pop"], "nightly-pop"),
    ],
    ids=["no number", "nan", "negative", "timezone", "scope", "flow"],
)
def test_what_is_no_budget(database: Pool, words: list[str], named: str) -> None:
    before = tell("budget", "show")
    with pytest.raises(InputError) as caught:
        say("budget", "set", "--", *words) if words == ["-1"] else say("budget", "set", *words)
    assert named.lower() in str(caught.value).lower() and caught.value.remedy
    assert tell("budget", "show") == before


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["jobs", "logs", ""], "KEY is empty"),
        (["jobs", "stop", ""], "KEY is empty"),
        (["models", "list", "nowhere"], "nowhere"),
        (["models", "promote", "design", "abc"], "no version 'abc'"),
        (["quote", "--cpus", "0"], "--cpus"),
        (["quote", "--memory", "-1"], "--memory"),
        (["hooks", "deliveries", "nowhere"], "nowhere"),
    ],
    ids=" ".join,
)
def test_what_is_not_there_is_told(database: Pool, words: list[str], named: str) -> None:
    with pytest.raises(InputError, match=named):
        say(*words)


def test_jobs_are_listed_newest_first_with_what_they_cost(home: Path, purse: Purse) -> None:
    assert "No jobs yet" in say("jobs", "list")
    assert "No job is running." in say("jobs", "list", "--running")
    with pytest.raises(click.BadParameter, match="-3"):
        say("jobs", "list", "--limit", "-3")
    launch.run_job(short(home, purse, "good", seconds=0.2), purse)
    with pytest.raises(JobFailed):
        launch.run_job(short(home, purse, "bad", fail="the reward is NaN"), purse)
    bad, good = tell("jobs", "list")
    assert (good["key"], good["state"], good["error"]) == (
        f"{purse.run.id}/good",
        "succeeded",
        None,
    )
    assert bad["state"] == "failed" and "the reward is NaN" in bad["error"]
    assert Decimal(good["usd"]) + Decimal(bad["usd"]) == ledger.charged(purse.pool, "project")
    assert [row["key"] for row in tell("jobs", "list", "--limit", "1")] == [bad["key"]]
    assert tell("jobs", "list", "--running") == []
    table = say("jobs", "list")
    assert table.index(bad["key"]) < table.index(good["key"]) and good["usd"] in table


def test_logs_are_the_jobs_own(home: Path, purse: Purse) -> None:
    launch.run_job(short(home, purse, "good"), purse)
    assert "from step 0" in say("jobs", "logs", "/good")
    told = tell("jobs", "logs", f"{purse.run.id}/good", "--follow")
    assert told["key"] == f"{purse.run.id}/good"
    assert any("from step 0" in line for line in told["lines"])
    with pytest.raises(InputError, match="names none"):
        say("jobs", "logs", "nowhere")
    launch.run_job(short(home, purse, "also-good"), purse)
    with pytest.raises(InputError, match=r"names several: .*also-good"):
        say("jobs", "logs", "good")


def test_a_job_that_was_never_launched_has_no_log(home: Path, purse: Purse) -> None:
    wanted = short(home, purse, "never")
    quote = offers.cheapest(wanted.resources, "local")
    jobs.record_launch(purse.pool, purse.run, wanted, quote, None)
    assert tell("jobs", "logs", "never") == {"key": wanted.key, "lines": []}


@pytest.mark.parametrize("as_json", [True, False], ids=["json", "table"])
def test_a_running_job_is_stopped_and_settled(home: Path, purse: Purse, as_json: bool) -> None:
    wanted = short(home, purse, "endless", steps=9999)
    outcome: list[BaseException] = []
    stepped = threading.Event()

    def work() -> None:
        try:
            launch.run_job(wanted, purse, lambda _: stepped.set())
        except JobStopped as error:
            outcome.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    assert stepped.wait(30)
    assert [row["state"] for row in tell("jobs", "list", "--running")] == ["running"]
    assert "running" in say("jobs", "list")
    if as_json:
        assert tell("jobs", "stop", "endless") == {"key": wanted.key, "state": "stopped"}
    else:
        assert "stopped and settled" in say("jobs", "stop", "endless")
    thread.join(30)
    assert outcome and "stopped by a person" in str(outcome[0])
    wait_until_none_is_alive(home)
    assert launcher(home).running() == []
    assert ledger.open_reservations(purse.pool) == []
    (reservation,) = charge.reservations(purse.pool, wanted.key)
    assert Decimal(0) < reservation.spent < reservation.amount
    with pytest.raises(InputError, match="has stopped already"):
        say("jobs", "stop", "endless")


def test_a_job_without_money_took_no_time(home: Path, purse: Purse) -> None:
    ledger.set_budget(purse.pool, "project", "day", Decimal(0))
    with pytest.raises(BudgetExceeded):
        launch.run_job(short(home, purse, "step"), purse)
    with purse.pool.connection() as connection:
        connection.execute("UPDATE jobs SET created_at = now() - interval '1 hour'")
    (row,) = tell("jobs", "list")
    assert (row["state"], row["seconds"], Decimal(row["usd"])) == ("interrupted", 0, 0)


def test_no_models_are_told_as_such(database: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other tests of this server may have registered some."""
    monkeypatch.setattr(registry, "models", list)
    assert "No models yet" in say("models", "list")
    assert tell("models", "list") == []


def test_models_are_listed_promoted_served_and_rolled_back(database: Pool, home: Path) -> None:
    run = runs.begin(database, "test-flow", {})
    served = home / "serving" / "tabled" / "champion"
    home.mkdir(exist_ok=True)
    for number in (1, 2):
        (home / "weights").write_text(str(number))
        stored = objects.put(home / "weights", f"{home.as_uri()}/objects/{number}")
        version = ModelVersion(
            kind="policy",
            model="tabled", version="", uri=stored.uri, sha256=stored.sha256,
            base=stored.uri, metrics={"reward": number / 4}, parent="1" if number == 2 else None,
        )  # fmt: skip
        assert registry.register(f"run-{number}", version).version == str(number)
    with pytest.raises(GateError, match="version 2 of tabled"):
        say("models", "promote", "tabled", "2")
    with pytest.raises(InputError, match="no previous champion"):
        say("models", "rollback", "tabled")
    for number in ("1", "2"):
        verdicts.save(database, run, "tabled", number, "none", first_version())
    assert "champion" in say("models", "promote", "tabled", "1") and served.read_text() == "1"
    told = tell("models", "promote", "tabled", "2")
    assert [version["aliases"] for version in told] == [["champion"], ["previous"]]
    assert served.read_text() == "2"
    (home / "serving").rename(home / "kept")
    (home / "serving").touch()
    with pytest.raises(StorageFull):
        say("models", "rollback", "tabled")
    (home / "serving").unlink()
    (home / "kept").rename(home / "serving")
    told = tell("models", "rollback", "tabled")
    assert [version["aliases"] for version in told] == [["previous"], ["champion"]]
    assert served.read_text() == "1"
    table = say("models", "list")
    assert "reward 0.5" not in table, "that is of its training"
    for words in ("tabled", "not judged", "run-2", "champion", "previous"):
        assert words in table, words


def test_models_are_listed_with_what_they_had_on_held_out_items(database: Pool) -> None:
    run = runs.begin(database, "test-flow", {"judged": 1})
    score = {"name": "reward", "candidate": 0.61, "gain": 0.11}
    runs.end(database, run, "finished", {"candidate": "1", "scores": [score]})
    version = ModelVersion(
        kind="policy", model="judged", version="", uri="file:///x", sha256="", base="b",
        metrics={"reward_after": 0.9},
    )  # fmt: skip
    registry.register(run.id, version)
    table = say("models", "list", "judged")
    assert "reward 0.61 (+0.11)" in table and "0.9" not in table
    assert run.id in table
    (told,) = tell("models", "list", "judged")
    assert told["held_out"] == [score]


def test_a_plan_adds_up_and_runs_nothing(home: Path) -> None:
    told = tell("run", "nightly-ppo", "--preset", "demo", "--plan")
    steps = [step["step"] for step in told["steps"]]
    assert steps == ["base (once)", "preflight", "collect", "train", "validate"]
    assert Decimal(told["usd_at_most"]) == sum(Decimal(s["usd_at_most"]) for s in told["steps"])
    assert all(Decimal(s["usd_at_most"]) == 4 * Decimal(s["usd_a_window"]) for s in told["steps"])
    table = say("run", "nightly-ppo", "--preset", "demo", "--plan")
    assert f"At most ${Decimal(told['usd_at_most']):.4f}. Nothing was run or reserved." in table
    once = max(Decimal(s["usd_a_window"]) for s in told["steps"])
    bounded = say("run", "nightly-ppo", "--preset", "demo", "--plan", "--max-cost", str(once))
    assert f"At most ${once}." in bounded and "ends at the job" in " ".join(bounded.split())
    assert "promoted at once: NIGHTSHIFT_SERVED_MODELS lacks design" in table
    assert not home.exists()


def test_a_plan_refuses_a_budget_that_one_job_alone_exceeds(home: Path) -> None:
    with pytest.raises(InputError, match=r"(?s)--max-cost: .*0\.001.*could never begin.*at least"):
        say("run", "nightly-ppo", "--preset", "demo", "--plan", "--max-cost", "0.001")


def test_a_plan_tells_of_the_rollout_of_a_served_model(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NIGHTSHIFT_SERVED_MODELS", "mine,design")
    settings.cache_clear()
    words = "run", "nightly-ppo", "--preset", "demo", "--plan", "--stage-requests", "77"
    assert "5%, then 25%, then 100% of the requests" in tell(*words)["promotion"]
    table = " ".join(say(*words).split())
    assert "77 requests each, 4 hours at most" in table and "`nightshift serve policy" in table
