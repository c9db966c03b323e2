"""The quality of champions comes from the verdicts that made them."""

from decimal import Decimal

import pytest

from infra.models import registry, verdicts
from infra.models.registry import ModelVersion
from infra.models.verdicts import Check, Verdict
from infra.records import runs
from tasks.benchmarks import quality


@pytest.fixture
def registered(database):
    registry._client.cache_clear()

    def make(gain, low, high, champion, promote=True):
        run = runs.begin(database, "nightly-ppo", {"gain": gain, "champion": champion})
        version = ModelVersion(
            model="mine",
            kind="policy",
            version="",
            uri=f"file:///{run.id}",
            sha256=run.id,
            base="b",
        )
        stored = registry.register(run.id, version)
        check = Check(name="gain", passed=promote, value=low, limit=0, explanation="it gained")
        verdict = Verdict(
            promote=promote, gain=gain, confidence_interval=(low, high), checks=[check]
        )
        verdicts.save(database, run, "mine", stored.version, champion, verdict)
        if promote:
            registry.promote("mine", stored.version)
        return stored.version

    yield make
    registry._client.cache_clear()


def test_improvement_adds_up_along_the_line_of_the_champion(database, registered):
    first = registered(0, 0, 0, "none")
    second = registered(0.2, 0.1, 0.3, first)
    registered(0.9, -0.2, 2.0, second, promote=False)
    third = registered(0.1, 0.05, 0.15, second)
    (found,) = quality.champions(database)
    assert (found.version, found.baseline) == (third, first)
    assert found.gain == 0.1 and found.improvement == pytest.approx(0.3)
    assert (found.improvement_low, found.improvement_high) == pytest.approx((0.15, 0.45))
    assert found.usd_per_point == Decimal(0)
    registry.rollback("mine")
    (back,) = quality.champions(database)
    assert back.version == second and back.improvement == 0.2


def test_a_first_version_has_gained_nothing(database, registered):
    registered(0, 0, 0, "none")
    (found,) = quality.champions(database)
    assert found.improvement == 0 and found.usd_per_point is None
