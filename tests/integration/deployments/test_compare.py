"""`nightshift models compare` on what two runs have really stored, and the names of versions."""

import json
from pathlib import Path
from typing import Any

import pytest

from infra import objects
from infra.compute import jobs
from infra.contract import Artifact, JobResult
from infra.errors import InputError
from infra.models import registry
from infra.models.registry import ModelVersion
from infra.records import runs
from infra.records.runs import Run
from tasks.runs import offers
from tasks.runs.purse import Purse
from tests.helpers.commands import say, tell
from tests.helpers.launching import job

PROMPTS = [f"What is {n}?" for n in range(20)]


def answers(reward: float, text: str) -> list[dict[str, Any]]:
    return [
        {
            "completion": f"{text} {n}",
            "reward": reward + n / 100,
            "success": None,
            "length": 4.0 + n,
        }
        for n in range(len(PROMPTS))
    ]


def night(purse: Purse, folder: Path, name: str, sides: dict[str, list[dict]]) -> str:
    """A run that has made a version of `name` and judged it on PROMPTS; the version."""
    run = runs.begin(purse.pool, "nightly-ppo", {"of": f"{name} {len(registry.versions(name))}"})
    version = register(name, run.id)
    rows = [
        {"prompt": prompt} | {side: found[n] for side, found in sides.items()}
        for n, prompt in enumerate(PROMPTS)
    ]
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    judged(purse, run, folder, objects.put(path, f"{folder.as_uri()}/{run.id}/evaluation"))
    score = {"name": "reward", "champion": 0.1, "candidate": 0.4, "gain": 0.3}
    report = {
        "model": name,
        "champion": str(int(version) - 1),
        "candidate": version,
        "scores": [score | {"low": 0.2, "high": 0.4, "base": None}],
    }
    runs.end(purse.pool, run, "finished", report)
    return version


def register(name: str, run: str) -> str:
    uri, base = f"file:///{run}", "file:///base"
    one = ModelVersion(kind="policy", model=name, version="", uri=uri, sha256=run, base=base)
    return registry.register(run, one).version


def judged(purse: Purse, run: Run, home: Path, evaluation: Artifact) -> None:
    wanted = job(home, f"{run.id}/validate")
    quote = offers.cheapest(wanted.resources, "local")
    jobs.record_launch(purse.pool, run, wanted, quote, None)
    result = JobResult(status="succeeded", artifacts={"evaluation": evaluation})
    jobs.record_end(purse.pool, wanted.key, "succeeded", result)


def test_what_both_were_asked_is_paired_and_answers_stand_side_by_side(
    purse: Purse, tmp_path: Path
) -> None:
    registry._client.cache_clear()
    name = f"pair-{purse.run.id}"
    register(name, "base")
    low, middle, high = answers(0.1, "low"), answers(0.4, "middle"), answers(0.7, "high")
    second = night(purse, tmp_path, name, {"champion": low, "candidate": middle})
    third = night(purse, tmp_path, name, {"base": low, "champion": middle, "candidate": high})

    told = tell("models", "compare", f"{name}@{second}", f"{name}@{third}")
    assert told["prompts"] == len(PROMPTS) and len(told["answers"]) == 3
    assert [one["name"] for one in told["paired"]] == ["reward", "length"], "no success was told"
    reward = told["paired"][0]
    assert reward["gain"] == pytest.approx(0.3) == pytest.approx(reward["low"])
    assert told["answers"][0]["first"]["completion"].startswith("middle")
    assert told["first"]["held_out"][0]["low"] == 0.2

    said = say("models", "compare", f"{name}@1", f"{name}@{second}")
    assert "low " in said and "middle " in said, "the base, by the run that judged against it"
    assert f"On the {len(PROMPTS)} prompts that both have answered" in said
    assert "not judged" in said, "no run has made it"
    told = tell("models", "compare", f"{name}@1", f"{name}@{third}")
    assert told["paired"][0]["gain"] == pytest.approx(0.6), "every run asks the base, too"


def test_what_cannot_be_compared_is_said(purse: Purse, tmp_path: Path) -> None:
    registry._client.cache_clear()
    first, other = f"one-{purse.run.id}", f"other-{purse.run.id}"
    for name in (first, other):
        register(name, "base")
    assert "No prompt is stored" in say("models", "compare", f"{first}@1", f"{other}@1")
    with pytest.raises(InputError, match="the same version"):
        say("models", "compare", f"{first}@1", f"{first}@1")
    with pytest.raises(InputError, match="has no 'champion'") as missed:
        say("models", "compare", first, f"{other}@1")
    assert "there are 1" in missed.value.remedy
    with pytest.raises(InputError, match="there is no model 'nobody'"):
        say("models", "export", "nobody", str(tmp_path / "new"))
