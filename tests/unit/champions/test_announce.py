"""Events of the gate: who hears of a candidate, and how often."""

import subprocess
import sys
from typing import Any

import pytest

from infra.models.registry import ModelVersion
from infra.models.verdicts import Check, Verdict
from tasks.champions import announce

CANDIDATE = ModelVersion(
    model="gears", kind="policy", version="7", uri="file:///7", sha256="7", base="file:///0"
)
HOUSE = CANDIDATE.model_copy(update={"kind": "surrogate"})


def verdict(promote: bool) -> Verdict:
    check = Check(name="gain", passed=promote, value=0, limit=0, explanation="gain +0.000")
    return Verdict(promote=promote, gain=0, confidence_interval=(0, 0), checks=[check])


@pytest.fixture
def emitted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, Any]]]:
    told: list[tuple[str, dict[str, Any]]] = []
    keep = "prefect.events.emit_event"
    monkeypatch.setattr(keep, lambda name, **about: told.append((name, about)))
    return told


def test_a_refusal_says_why_and_a_resumed_run_is_the_same_event(emitted) -> None:
    for _ in range(2):
        announce.judged(CANDIDATE, "6", verdict(False))
    (name, about), again = emitted
    assert name == "policy.refused" and again == (name, about), "the id makes it one"
    assert about["resource"] == {"prefect.resource.id": "nightshift.model.gears"}
    assert about["payload"] == {
        "model": "gears", "version": "7", "champion": "6", "why": "not promoted: gain +0.000"
    }  # fmt: skip
    announce.judged(HOUSE, "6", verdict(False))
    assert emitted[-1][0] == "surrogate.refused" and emitted[-1][1]["id"] != about["id"]


def test_a_promotion_is_announced_when_it_serves_not_when_it_is_judged(emitted) -> None:
    announce.judged(HOUSE, "6", verdict(True))
    assert emitted == []
    announce.promoted(HOUSE)
    ((name, about),) = emitted
    assert name == "surrogate.promoted" and about["payload"]["version"] == "7"


def test_commands_about_models_do_not_wait_for_prefect() -> None:
    code = "import sys, deployments.commands.tables; assert 'prefect' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
