"""The gate: it says yes to a sure gain, and no to luck, to a tenant's fall and to too few."""

from typing import Any

import numpy as np
import pytest

from tasks.champions.gate import paired_interval
from tasks.federated.gate import clustered_interval, judge, outcomes, tenant_gain
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


ENCODER = FederatedParameters.model_validate({"group": "kind"})


def queries(
    tenant: str, ours: np.ndarray, theirs: np.ndarray, groups: np.ndarray
) -> dict[str, Any]:
    """What a tenant tells of its queries, which are right (1) or not for two encoders."""
    gains, sizes = np.bincount(groups, ours - theirs), np.bincount(groups)
    won, lost = ((ours > theirs).sum(), (ours < theirs).sum())
    row = counts(tenant, len(ours), int(ours.sum()), int(won), int(lost))
    told = {"groups": len(sizes), "sizes-sizes": sizes @ sizes}
    told |= {"local-gains-gains": gains @ gains, "local-gains-sizes": gains @ sizes}
    return row | {name: float(value) for name, value in told.items()}


def drawn(seed: int, groups: int, each: int, apart: float) -> list[dict[str, Any]]:
    """Two tenants, in whose groups an encoder is better or worse in all queries, mostly."""
    rng = np.random.default_rng(seed)
    rows = []
    for tenant in "ab":
        places = np.repeat(np.arange(groups), rng.integers(1, each, groups))
        better = (rng.random(groups) < apart)[places] ^ (rng.random(len(places)) < 0.1)
        rows.append(queries(tenant, better.astype(float), 1.0 - better, places))
    return rows


def test_an_interval_of_groups_is_as_the_bootstrap_of_whole_groups() -> None:
    rng = np.random.default_rng(1)
    groups = np.repeat(np.arange(40), rng.integers(1, 9, 40))
    ours = (rng.random(40) < 0.6)[groups].astype(float)
    theirs = (rng.random(40) < 0.4)[groups].astype(float)
    half = groups < 20
    rows = [
        queries("a", ours[half], theirs[half], groups[half]),
        queries("b", ours[~half], theirs[~half], groups[~half] - 20),
    ]
    found = clustered_interval(rows, "local", 0.95)
    drawn_whole = paired_interval(list(ours), list(theirs), 0.95, list(groups))
    each_alone = paired_interval(list(ours), list(theirs))
    assert found[0] == pytest.approx(drawn_whole[0])
    assert found[2] - found[1] == pytest.approx(drawn_whole[2] - drawn_whole[1], rel=0.12)
    assert found[2] - found[1] > 1.5 * (each_alone[2] - each_alone[1])


def test_a_sure_gain_of_recall_is_promoted_and_that_of_few_groups_is_not() -> None:
    verdict = judge(drawn(1, 30, 6, apart=0.8), False, ENCODER)
    assert verdict.promote and "recall@1 +0" in verdict.reason, verdict.reason
    few = judge(drawn(1, 3, 60, apart=1.0), False, ENCODER)
    assert not few.promote and "6 groups that were asked for, by tenant, are too few" in few.reason
    assert not judge(drawn(3, 10, 6, apart=0.5), False, ENCODER).promote


def test_groups_that_all_gain_the_same_tell_nothing() -> None:
    same = queries("a", np.ones(40), np.zeros(40), np.arange(40) // 4)
    assert clustered_interval([same], "local", 0.95) == (1.0, 1.0, 1.0)
    assert not judge([same, same], False, ENCODER).promote
