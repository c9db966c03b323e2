"""The gate: it says yes to a sure gain, and no to luck, to a tenant's fall and to too few."""

from typing import Any

import pytest

from tasks.federated.gate import judge, outcomes, tenant_gain
from tasks.federated.parameters import FederatedParameters

PARAMETERS = FederatedParameters.model_validate({})


def counts(
    tenant: str, rows: int, right: int, won: int, lost: int, other: str = "local"
) -> dict[str, Any]:
    """What a tenant tells: `right` of its `rows` for the candidate, of which `won` only for it."""
    return {
        "tenant": tenant,
        "held-out": float(rows),
        "candidate-right": float(right),
        f"{other}-won": float(won),
        f"{other}-lost": float(lost),
    }


def test_rows_are_known_from_their_counts() -> None:
    ours, theirs = outcomes([counts("a", 10, 7, won=3, lost=1)], "local")
    assert (sum(ours), sum(theirs), len(ours), len(theirs)) == (7, 5, 10, 10)
    pairs = list(zip(ours, theirs, strict=True))
    assert pairs.count((1, 0)) == 3 and pairs.count((0, 1)) == 1
    assert tenant_gain(counts("a", 10, 7, 3, 1), "local") == pytest.approx(0.2)


def test_a_sure_gain_is_promoted() -> None:
    rows = [counts(name, 100, 85, won=20, lost=4) for name in "ab"]
    verdict = judge(rows, False, PARAMETERS)
    assert verdict.promote and verdict.gain == pytest.approx(0.16)
    assert "over the local-only models" in verdict.reason


def test_luck_is_not() -> None:
    verdict = judge([counts(name, 20, 15, won=2, lost=1) for name in "ab"], False, PARAMETERS)
    assert not verdict.promote and "lower end must be above" in verdict.reason


def test_no_tenant_may_pay_for_the_others() -> None:
    rows = [
        counts("many", 400, 380, won=60, lost=4, other="champion"),
        counts("few", 50, 30, won=1, lost=9, other="champion"),
    ]
    verdict = judge(rows, True, PARAMETERS)
    assert not verdict.promote and verdict.confidence_interval[0] > 0
    assert [check.name for check in verdict.checks if not check.passed] == ["loss of few"]


def test_one_tenant_is_too_few() -> None:
    verdict = judge([counts("a", 100, 85, won=20, lost=4)], False, PARAMETERS)
    assert not verdict.promote and "tenants that judged 1, at least 2" in verdict.reason
