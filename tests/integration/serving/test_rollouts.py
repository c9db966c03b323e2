"""States of a rollout on PostgreSQL: wherever it was killed, it is finished or rolled back."""

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from infra import database as db
from infra.database import Pool
from infra.errors import AlreadyRunning, GateError, InputError, ServiceUnavailable
from infra.models import registry, verdicts
from infra.records import rollouts, runs
from infra.records.rollouts import Rollout
from tasks.champions import rollouts as ends
from tasks.champions.gate import first_version
from tasks.policy.parameters import Stages
from tasks.serving import steps as serving
from tasks.serving.parameters import RolloutParameters
from tests.helpers.commands import tell
from tests.helpers.rollouts import ANSWER, aliases, killed, last
from tests.integration.serving.conftest import StandIn


def told(model: str, prompts: Path | None = None, **other: Any) -> RolloutParameters:
    quick = {"stage_minutes": 0.0001, "stage_requests": 4, "wait_minutes": 0.0}
    place = str(prompts) if prompts else None
    stages = Stages.model_validate(quick | other)
    return RolloutParameters(model=f"{model}@2", prompts=place, stages=stages)


def roll_out(parameters: RolloutParameters) -> Rollout:
    """As the flow does it, without Prefect."""
    prompts = serving.held_out_prompts.fn(parameters)
    report = serving.roll_out(parameters.model, prompts, parameters.stages)
    ended = last(db.pool())
    assert report.state == ended.state
    return ended


def begun(parameters: RolloutParameters) -> AbstractContextManager[serving.Work]:
    client, version = serving.check(parameters.model)
    return serving.begin(
        parameters.stages, client, serving.held_out_prompts.fn(parameters), version
    )


STATES = [("loading", 0.0), ("canary", 0.05), ("canary", 1.0), ("promoting", 1.0)]


@pytest.mark.parametrize(("state", "share"), STATES)
def test_the_next_start_finishes_what_was_killed(
    database: Pool, model: str, endpoint: type[StandIn], prompts: Path, state: str, share: float
) -> None:
    left = killed(database, model, state, share)
    if state == "promoting":
        registry.promote(model, "2")  # killed after the alias had moved
    ended = roll_out(told(model, prompts))
    assert (ended.id, ended.state) == (left.id, "finished")
    assert aliases(model)["2"] == ["champion"] and aliases(model)["1"] == ["previous"]
    assert rollouts.unended(database) == []


@pytest.mark.parametrize(("state", "share"), STATES)
def test_the_guard_ends_what_was_killed_and_leaves_what_lives(
    database: Pool, model: str, state: str, share: float
) -> None:
    left = killed(database, model, state, share)
    with ends.lock(model):
        assert ends.settle_dead(database, dry_run=False) == []
    (line,) = ends.settle_dead(database, dry_run=True)
    assert rollouts.unended(database, model) == [left]
    assert ends.settle_dead(database, dry_run=False) == [line]
    forward = state == "promoting"
    assert last(database).state == ("finished" if forward else "rolled back")
    assert ("champion" in aliases(model)["2"]) == forward
    assert ends.settle_dead(database, dry_run=False) == []


def test_a_champion_that_came_between_is_not_replaced(database: Pool, model: str) -> None:
    killed(database, model, "promoting", 1)
    verdicts.save(database, runs.begin(database, "f", {}), model, "3", "1", first_version())
    registry.promote(model, "3")
    ends.settle_dead(database, dry_run=False)
    assert last(database).state == "rolled back" and "version 3" in str(last(database).reason)
    assert "champion" in aliases(model)["3"]


def test_two_rollouts_of_one_model_exclude_each_other(
    database: Pool, model: str, endpoint: type[StandIn]
) -> None:
    with ends.lock(model), pytest.raises(AlreadyRunning, match=model):
        roll_out(told(model))
    rollouts.begin(database, model, "1", "2")
    with pytest.raises(AlreadyRunning):
        rollouts.begin(database, model, "1", "3")


def test_an_idle_endpoint_never_passes_without_prompts(
    database: Pool, model: str, endpoint: type[StandIn], prompts: Path
) -> None:
    with pytest.raises(GateError, match="too few requests"):
        roll_out(told(model))
    assert last(database).state == "rolled back" and "champion" in aliases(model)["1"]


def test_a_challenger_that_fails_is_rolled_back(
    database: Pool, model: str, endpoint: type[StandIn], prompts: Path
) -> None:
    parameters = told(model, prompts, stage_requests=50)
    with (
        ends.lock(model),
        pytest.raises(GateError, match="worse by its errors: in 8 pairs"),
        begun(parameters) as work,
    ):
        serving.load(work)
        endpoint.failing = True
        serving.watch(work, 0.05)
    assert last(database).state == "rolled back"
    assert rollouts.split(database, model, "1") is None
    assert serving.report_file(last(database)).read_text().count("errors") == 2


def test_a_challenger_that_the_endpoint_refuses_is_rolled_back(
    database: Pool, model: str, endpoint: type[StandIn], prompts: Path
) -> None:
    endpoint.refusing = True
    with pytest.raises(GateError, match="it is broken"):
        roll_out(told(model, prompts))
    assert last(database).state == "rolled back"


def test_rollback_by_a_person_ends_a_rollout_and_then_goes_back(database: Pool, model: str) -> None:
    registry.promote(model, "2")
    registry.promote(model, "1")
    rollouts.begin(database, model, "1", "2")
    assert {one["version"]: one["aliases"] for one in tell("models", "rollback", model)} == {
        "3": [], "2": ["previous"], "1": ["champion"],
    }  # fmt: skip
    assert last(database).state == "rolled back" and "models rollback" in str(last(database).reason)
    assert tell("models", "rollback", model)[1]["aliases"] == ["champion"]


def test_what_cannot_be_rolled_out_is_told_before_anything_begins(
    database: Pool, model: str, home: Path
) -> None:
    with pytest.raises(ServiceUnavailable) as error:
        roll_out(told(model))
    assert f"nightshift serve policy --name {model}" in error.value.remedy
    for number, kind, words in (("1", InputError, "champion already"), ("3", GateError, "verdict")):
        with pytest.raises(kind, match=words):
            roll_out(told(model).model_copy(update={"model": f"{model}@{number}"}))
    with pytest.raises(InputError, match="has no 'challenger'"):
        roll_out(told(model).model_copy(update={"model": f"{model}@challenger"}))
    assert rollouts.unended(database) == []


def test_a_challenger_that_nobody_judges_gets_nothing(database: Pool, model: str) -> None:
    rollout = killed(database, model, "canary", 0.25)
    assert rollouts.split(database, model, "1") == ("2", 0.25)
    assert rollouts.split(database, model, "3") is None, "another champion"
    with database.connection() as connection:
        connection.execute("UPDATE rollouts SET watched_at = now() - %s", [rollouts.LEASE])
    assert rollouts.split(database, model, "1") is None
    rollouts.watch(database, rollout)
    assert rollouts.split(database, model, "1") == ("2", 0.25)


def test_what_is_compared_is_what_came_since(database: Pool, model: str) -> None:
    def answer(version: str, tenant: str, reason: str) -> None:
        with database.connection() as connection:
            connection.execute(ANSWER, [model, version, tenant, reason, 7])

    answer("1", "acme", "stop")
    rollout = rollouts.begin(database, model, "1", "2")
    for version, tenant, reason in (
        ("1", "acme", "stop"),
        ("2", "acme", "error"),
        ("3", "acme", "stop"),
        ("2", "@canary", "stop"),
    ):
        answer(version, tenant, reason)
    found = rollouts.outcomes(database, rollout, 0)
    assert [(one.by_challenger, one.failed, one.asked_by_us) for one in found] == [
        (False, False, False), (True, True, False), (True, False, True),
    ]  # fmt: skip
    assert rollouts.outcomes(database, rollout, found[0].id) == found[1:]
    with database.connection() as connection:
        for one, kind, value, text in ((0, "rating", 4, None), (2, "correction", None, "no")):
            connection.execute(
                "INSERT INTO feedback (interaction_id, kind, value, correction)"
                " VALUES (%s, %s, %s, %s)",
                [found[one].id, kind, value, text],
            )
    opinions = rollouts.opinions(database, rollout, 0)
    assert [(one.by_challenger, one.score) for one in opinions] == [(False, 0.75), (True, 0)]
