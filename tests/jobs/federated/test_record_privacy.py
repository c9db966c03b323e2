"""A real federation whose tenants protect single records, and what each of them has spent."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from jobs.federated import accountant, train
from jobs.federated.config import Spent
from jobs.federated.server import ASKED, remember_asked
from jobs.runtime import Job
from tests.jobs.federated.conftest import write_tenant

pytestmark = pytest.mark.timeout(900)
BEFORE = Spent(noise_multiplier=3, rounds=4, unit="record", steps=5)
"""So much that nothing is left."""


def test_who_was_asked_has_spent_it_whatever_came_of_it(
    tmp_path: Path, make_config: Callable[..., dict], make_job: Callable[[dict], Job]
) -> None:
    """`again` was asked by a server that was killed before its round was done; `spent` has nothing
    left of another night. The rounds go on with the others, and end where too few have some."""
    for number, name in enumerate(("again", "fresh", "spent", "west")):
        write_tenant(tmp_path / name, number)
    privacy = {"privacy_unit": "record", "noise_multiplier": 6, "max_epsilon": 6.5}
    rounds = {"rounds": 3, "local_steps": 5, "minimum_tenants": 3}
    spent = {"spent": [BEFORE.model_dump()]}
    ranges = [(-2, 2)] * 4
    config = make_config(tmp_path, privacy=privacy, rounds=rounds, spent=spent, ranges=ranges)
    job = make_job(config)
    remember_asked(job, ["again"])
    outcome = train.program(job)
    log = [json.loads(line) for line in outcome.artifacts["rounds"].read_text().splitlines()]
    assert [row["took_part"] for row in log] == [["again", "fresh", "west"]] * 2
    assert "its privacy is spent: epsilon 7.53 of 6.5" in log[0]["left_out"]["spent"]
    assert outcome.metrics["rounds"] == 2
    said = (job.folder / "progress.jsonl").read_text().splitlines()[-1]
    assert "ends: fewer than 3 tenants have privacy left; again: it was asked 3 times" in said
    assert json.loads((job.scratch / ASKED).read_text()) == {"again": 3, "fresh": 2, "west": 2}
    told = [json.loads(line) for line in outcome.artifacts["privacy"].read_text().splitlines()]
    assert {row["tenant"]: row["rounds"] for row in told} == {
        "again": 3,
        "fresh": 2,
        "spent": 0,
        "west": 2,
    }
    asked = Spent(noise_multiplier=6, rounds=3, unit="record", steps=5)
    epsilon = {row["tenant"]: row["epsilon"] for row in told}
    assert epsilon["again"] == pytest.approx(accountant.epsilon([asked], 1e-5, "record"))
    assert epsilon["spent"] == pytest.approx(accountant.epsilon([BEFORE], 1e-5, "record"))
    model = json.loads((outcome.artifacts["candidate"] / "model.json").read_text())
    assert model["ranges"] == [[-2, 2]] * 4
