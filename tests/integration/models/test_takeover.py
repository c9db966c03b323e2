"""What homes of earlier releases hold is read: versions without a kind, jobs of moved programs."""

import json
from importlib.util import find_spec

import pytest

from infra import database as db
from infra.contract import RENAMED, Artifact, JobSpec
from infra.models import registry
from infra.records import runs
from tasks.policy.champion import current_champion
from tasks.policy.inputs import Inputs
from tasks.ppo import steps as ppo
from tasks.ppo.parameters import NightlyPPOParameters
from tasks.runs.purse import Purse
from tasks.runs.run import Work


@pytest.mark.parametrize(
    ("metrics", "kind"), [({"reward": 0.5}, "policy"), ({"fp32_kb": 80.0}, "surrogate")]
)
def test_a_version_without_a_kind_gets_one(
    database: db.Pool, metrics: dict[str, float], kind: str
) -> None:
    """As they were registered until November 2026."""
    client = registry._client()
    client.create_registered_model(f"old-{kind}")
    fields = {"uri": "file:///1", "sha256": "1", "base": "file:///0", "metrics": metrics}
    client.create_model_version(
        f"old-{kind}", "file:///1", tags={name: json.dumps(value) for name, value in fields.items()}
    )
    (version,) = registry.versions(f"old-{kind}")
    assert (version.kind, version.uri, version.metrics) == (kind, "file:///1", metrics)


def test_a_champion_that_a_run_under_way_has_pinned_gets_a_kind(database: db.Pool) -> None:
    run = runs.begin(database, "nightly-ppo", {})
    old = {
        "model": "taken-over",
        "version": "1",
        "uri": "file:///1",
        "sha256": "1",
        "base": "file:///1",
    }
    runs.pin(database, run, "champion", old | {"metrics": {}, "parent": None})
    work = Work(
        run, Purse(database, run, "local"), NightlyPPOParameters(name="taken-over"), ppo.STEPS
    )
    base = Artifact(uri="file:///1", sha256="1", bytes=1)
    assert current_champion.fn(work, Inputs(base=base)).kind == "policy"


@pytest.mark.parametrize("name", RENAMED)
def test_a_job_that_is_under_way_finds_its_moved_program(name: str) -> None:
    stored = {"name": name, "environment": "train", "config": {}, "output": "file:///out"}
    spec = JobSpec.model_validate_json(json.dumps(stored | {"max_hours": 1, "key": "run/step"}))
    assert find_spec(f"jobs.{name}") is None and find_spec(f"jobs.{spec.name}") is not None
