"""How a training ends: its candidate is promoted at once, or by a rollout where it is served."""

import json
import logging
from pathlib import Path
from unittest.mock import patch

import httpx
import pytest

from infra import objects
from infra.contract import JobResult
from infra.database import Pool
from infra.errors import ServiceUnavailable
from infra.models import registry
from infra.records import rollouts
from infra.serving.client import Client
from infra.serving.endpoint import address_file
from infra.settings import settings
from tasks.champions import announce
from tasks.champions import rollouts as ends
from tasks.policy.parameters import Stages
from tasks.serving import deploy as deploying
from tasks.serving.deploy import Deployed, deploy, look_ahead
from tests.helpers.rollouts import aliases, killed, last
from tests.integration.serving.conftest import StandIn, uri

QUICK = Stages(stage_minutes=0.0001, stage_requests=4, wait_minutes=0)


@pytest.fixture
def refused(model: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is announced as refused. The model is served here."""
    told: list[str] = []
    monkeypatch.setattr(announce, "refused", lambda _candidate, _champion, why: told.append(why))
    monkeypatch.setattr(deploying, "deploy_champion", deploying.deploy_champion.fn)
    monkeypatch.setattr("tasks.serving.report.show", lambda *_: None)
    monkeypatch.setenv("NIGHTSHIFT_SERVED_MODELS", f"other, {model}")
    settings.cache_clear()
    return told


def deploy_second(model: str, home: Path, stages: Stages = QUICK) -> Deployed:
    """Version 2 has passed the gate, which has asked a text and a chat."""
    asked = ["one", json.dumps([{"role": "user", "content": "two"}])]
    lines = home / "evaluation.jsonl"
    lines.write_text("".join(json.dumps({"prompt": one}) + "\n" for one in asked))
    kept = uri(home, "evaluation")
    judged = objects.describe(kept) if objects.exists(kept) else objects.put(lines, kept)
    evaluation = JobResult(
        status="succeeded", metrics={}, artifacts={"evaluation": judged}, seconds=1
    )
    return deploy(registry.named(f"{model}@2"), evaluation, stages)


def test_a_model_that_is_not_served_is_promoted_at_once(
    database: Pool, model: str, home: Path, refused: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NIGHTSHIFT_SERVED_MODELS", "other")
    settings.cache_clear()
    deployed = deploy_second(model, home)
    assert Path(str(deployed.served_from)).resolve().name == "2" and not deployed.not_promoted
    assert aliases(model)["2"] == ["champion"] and rollouts.unended(database) == []


def test_a_served_model_is_promoted_by_a_rollout_with_the_prompts_of_the_gate(
    database: Pool, model: str, home: Path, refused: list[str], endpoint: type[StandIn]
) -> None:
    deployed = deploy_second(model, home)
    assert last(database).state == "finished" and aliases(model)["2"] == ["champion"]
    assert Path(str(deployed.served_from)).resolve().name == "2"
    assert "Version 2 answers" in Path(str(deployed.rollout)).read_text()
    assert {"/v1/completions", "/v1/chat/completions"} == endpoint.asked
    assert refused == []


def test_a_rollout_that_is_rolled_back_leaves_the_champion_and_says_why(
    database: Pool, model: str, home: Path, refused: list[str], endpoint: type[StandIn]
) -> None:
    endpoint.failing = True
    deployed = deploy_second(model, home)
    assert deployed.not_promoted and deployed.served_from is None
    assert deployed.not_promoted.startswith("not promoted: the rollout of version 2: a smoke")
    assert refused == [deployed.not_promoted]
    assert last(database).state == "rolled back" and "champion" in aliases(model)["1"]


def test_without_an_endpoint_the_candidate_waits(
    database: Pool, model: str, home: Path, refused: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "nightshift")
    look_ahead(model, QUICK)
    assert f"nightshift serve policy --name {model}" in caplog.text and "5%" in caplog.text
    assert "no endpoint serves" in str(deploy_second(model, home).not_promoted)
    assert "champion" in aliases(model)["1"] and rollouts.unended(database) == []


def test_a_client_whose_endpoint_does_not_answer_is_closed(home: Path) -> None:
    address_file("gone").parent.mkdir(parents=True)
    address_file("gone").write_text("http://127.0.0.1:1")
    close = patch.object(httpx.Client, "close", autospec=True, side_effect=httpx.Client.close)
    with close as closed, pytest.raises(ServiceUnavailable):
        Client("gone")
    assert closed.call_args.args[0].is_closed


def test_another_rollout_of_the_model_excludes_it(
    database: Pool, model: str, home: Path, refused: list[str], endpoint: type[StandIn]
) -> None:
    with ends.lock(model):
        assert "another process" in str(deploy_second(model, home).not_promoted)
    assert "champion" in aliases(model)["1"]


def test_a_rollout_does_not_last_for_ever(
    database: Pool, model: str, home: Path, refused: list[str], endpoint: type[StandIn]
) -> None:
    brief = QUICK.model_copy(update={"stage_requests": 1_000_000, "rollout_hours": 0.0002})
    assert "was not over after 0.0002 h" in str(deploy_second(model, home, brief).not_promoted)
    assert last(database).state == "rolled back" and "champion" in aliases(model)["1"]


KILLED = [("loading", False), ("canary", True), ("promoting", False), ("promoting", True)]


@pytest.mark.parametrize(("state", "by_guard"), KILLED)
def test_a_night_that_was_killed_in_its_rollout_goes_on(
    database: Pool,
    model: str,
    home: Path,
    refused: list[str],
    endpoint: type[StandIn],
    state: str,
    by_guard: bool,
) -> None:
    left = killed(database, model, state, 0.25)
    if state == "promoting":
        registry.promote(model, "2")  # killed after the alias had moved
    if by_guard:
        assert ends.settle_dead(database, dry_run=False)
    deployed = deploy_second(model, home)
    assert Path(str(deployed.served_from)).resolve().name == "2"
    assert aliases(model)["2"] == ["champion"] and aliases(model)["1"] == ["previous"]
    assert last(database).state == "finished" and rollouts.unended(database) == []
    assert (last(database).id == left.id) == (state == "promoting" or not by_guard)
