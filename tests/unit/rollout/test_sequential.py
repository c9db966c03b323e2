"""The test of a canary may be looked at at any time: with equal versions it stays quiet."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from benchmarks.canary import CASES, stopped_after
from infra.records.rollouts import Opinion, Outcome
from tasks.serving.sequential import ALARM, Comparison, Pairing, e_value

NOW = datetime(2026, 1, 1, tzinfo=UTC)
counts = st.integers(0, 3000)
LEAST = 1e-3  # evidence of less may underflow to zero, and nobody asks for it


@settings(deadline=None)  # the first example imports scipy
@given(counts, counts)
@example(0, 1025)
@example(0, 1075)
def test_evidence_is_a_martingale_of_a_fair_coin(worse: int, better: int) -> None:
    now = e_value(worse, better)
    after = (e_value(worse + 1, better) + e_value(worse, better + 1)) / 2
    if now < 1e100:  # beyond it is cut off
        assert after == pytest.approx(now, rel=1e-6, abs=LEAST)


@settings(deadline=None)
@given(counts, counts, st.floats(0, 0.5))
def test_evidence_only_shrinks_where_the_challenger_is_better(w: int, b: int, share: float) -> None:
    now = e_value(w, b)
    after = share * e_value(w + 1, b) + (1 - share) * e_value(w, b + 1)
    if now < 1e100:
        assert after <= now * (1 + 1e-6) + LEAST


def test_evidence_begins_at_one_and_eight_errors_of_one_side_are_an_alarm() -> None:
    assert e_value(0, 0) == pytest.approx(1) and ALARM == 60
    assert e_value(7, 0) < ALARM < e_value(8, 0)
    assert e_value(0, 8) < 0.1


@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.floats(1, 9))), st.randoms())
def test_who_is_paired_depends_on_the_order_alone(rows, chance) -> None:
    def partners(latencies: list[float]) -> list[tuple[int, int]]:
        pairing = Pairing[Outcome]()
        found = []
        for number, ((ours, failed, _), latency) in enumerate(zip(rows, latencies, strict=True)):
            item = outcome(number, ours, failed=failed, latency=latency)
            if (partner := pairing.partner(item)) is not None:
                found.append((number, partner.id))
        return found

    latencies = [latency for *_, latency in rows]
    shuffled = chance.sample(latencies, len(latencies))
    pairs = partners(latencies)
    assert pairs == partners(shuffled)
    assert len({partner for _, partner in pairs}) == len(pairs)
    assert all(partner < number for number, partner in pairs)


def test_held_out_prompts_are_compared_with_each_other_only() -> None:
    comparison = Comparison()
    comparison.add_outcome(outcome(1, False, asked_by_us=True))
    comparison.add_outcome(outcome(2, True))
    assert comparison.pairs == 0
    comparison.add_outcome(outcome(3, True, asked_by_us=True))
    assert comparison.pairs == 1


def test_only_errors_are_compared_with_answers_of_long_ago() -> None:
    comparison = Comparison()
    comparison.add_outcome(outcome(1, False))
    comparison.add_outcome(outcome(2, True, failed=True))
    comparison.add_outcome(outcome(3, False))
    comparison.add_outcome(outcome(4, True, at=NOW + timedelta(hours=1), latency=900))
    assert comparison.pairs == 2 and comparison.measures["errors"].worse == 1
    latency = comparison.measures["latency"]
    assert latency.worse == latency.better == 0


def test_feedback_that_is_equal_says_nothing() -> None:
    comparison = Comparison()
    for number, (ours, score) in enumerate([(False, 1), (True, 1), (False, 1), (True, 0)]):
        comparison.add_opinion(Opinion(id=number, by_challenger=ours, score=score, at=NOW))
    feedback = comparison.measures["feedback"]
    assert (feedback.worse, feedback.better) == (1, 0)


@pytest.mark.parametrize("name", ["equal, thumbs", "equal, scores"])
def test_equal_versions_are_stopped_in_less_than_one_rollout_of_twenty(name: str) -> None:
    stopped = [stopped_after(CASES[name], 200, seed) for seed in range(60)]
    assert sum(one is not None for one in stopped) <= 3


@pytest.mark.parametrize("name", ["+50 % latency", "2 % errors", "-10 points, scores"])
def test_a_worse_challenger_is_stopped(name: str) -> None:
    passed = [seed for seed in range(8) if stopped_after(CASES[name], 1200, seed) is None]
    assert len(passed) <= 1, passed


def outcome(number: int, ours: bool, at: datetime = NOW, **other) -> Outcome:
    told = {"asked_by_us": False, "failed": False, "latency": 100.0} | other
    return Outcome(id=number, by_challenger=ours, at=at, **told)
