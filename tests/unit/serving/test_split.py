"""Which requests a canary answers."""

from infra.contract import CANARY_SIDE, CHAMPION_SIDE
from jobs.serving.split import OPEN_TENANT, is_for_canary

TENANTS = [f"tenant-{number}" for number in range(2000)]


def chosen(share: float, canary: str = "abc") -> set[str]:
    """The tenants that the canary answers."""
    return {one for one in TENANTS if is_for_canary(one, "any", canary, share)}


def test_a_tenant_stays_with_the_canary_while_its_share_grows() -> None:
    few, more = chosen(0.05), chosen(0.25)
    assert chosen(0) == set() and few < more and chosen(1) == set(TENANTS)
    assert 60 < len(few) < 140 and 420 < len(more) < 580


def test_another_canary_has_other_tenants() -> None:
    assert len(chosen(0.25) & chosen(0.25, "def")) < 180


def test_requests_of_nobody_in_particular_are_split_one_by_one() -> None:
    requests = [str(number) for number in range(2000)]
    found = [is_for_canary(OPEN_TENANT, one, "abc", 0.25) for one in requests]
    assert 420 < sum(found) < 580


def test_a_rollout_gets_the_side_that_it_names() -> None:
    for share in (0.0, 1.0):
        assert is_for_canary(CANARY_SIDE, "any", "abc", share)
        assert not is_for_canary(CHAMPION_SIDE, "any", "abc", share)
