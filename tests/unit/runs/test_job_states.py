"""The state machine of a job, tried in full: what follows each outcome, and that it always ends."""

import re
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.settings import REPOSITORY
from tasks.runs.states import (
    FRUITLESS_ATTEMPTS,
    RENEWALS,
    Decision,
    History,
    Outcome,
    next_step,
)

GOES_ON = (Decision.AGAIN, Decision.ELSEWHERE)
FIXED = {
    Outcome.SUCCEEDED: Decision.SUCCEED,
    Outcome.FAILED: Decision.FAIL,
    Outcome.STOPPED: Decision.STOP,
    Outcome.AWAY: Decision.INTERRUPT,
    Outcome.NO_ROOM: Decision.ELSEWHERE,
}
HISTORIES = [
    History(*counts)
    for counts in product(range(RENEWALS + 1), range(FRUITLESS_ATTEMPTS), (-1, 0, 7))
]


@pytest.mark.parametrize("outcome", FIXED)
def test_what_needs_no_memory_is_decided_the_same_after_every_history(outcome: Outcome) -> None:
    for history, step in product(HISTORIES, (0, 7, 8)):
        assert next_step(history, outcome, step) == (FIXED[outcome], history)


def test_a_late_machine_is_reserved_again_three_times_and_is_no_fruitless_attempt() -> None:
    for history in HISTORIES:
        decision, after = next_step(history, Outcome.LATE)
        assert after == History(history.renewals + 1, history.fruitless, history.furthest)
        assert decision is (Decision.FAIL if history.renewals == RENEWALS else Decision.AGAIN)


@pytest.mark.parametrize("outcome", [Outcome.TO_CONTINUE, Outcome.LOST])
def test_an_attempt_that_can_go_on_does_until_it_is_hopeless(outcome: Outcome) -> None:
    for history, step in product(HISTORIES, (0, 7, 8)):
        decision, after = next_step(history, outcome, step)
        assert after.renewals == history.renewals + (outcome is Outcome.TO_CONTINUE)
        assert after.furthest == max(step, history.furthest)
        got_on = step > history.furthest
        assert after.fruitless == (0 if got_on else history.fruitless + 1)
        hopeless = after.renewals > RENEWALS or after.fruitless == FRUITLESS_ATTEMPTS
        assert decision is (Decision.GIVE_UP if hopeless else Decision.AGAIN)


def test_every_outcome_is_tried_above() -> None:
    assert {*FIXED, Outcome.LATE, Outcome.TO_CONTINUE, Outcome.LOST} == set(Outcome)


WITHOUT_END = (Outcome.NO_ROOM, Outcome.LATE, Outcome.TO_CONTINUE, *[Outcome.LOST] * 9)


@given(
    st.lists(st.tuples(st.sampled_from(WITHOUT_END), st.integers(0, 5)), min_size=60, max_size=60),
    st.integers(0, 4),
)
def test_it_always_ends(attempts: list[tuple[Outcome, int]], places: int) -> None:
    """A job of 5 steps that nothing ends by itself, with so many more places to ask."""
    history, decisions = History(), []
    hours_passed, without_progress, furthest = 0, 0, -1
    for outcome, step in attempts:
        if outcome is Outcome.NO_ROOM and decisions.count(Decision.ELSEWHERE) == places:
            return  # `launch` finds no place that was not full
        decision, history = next_step(history, outcome, step)
        decisions.append(decision)
        hours_passed += outcome in (Outcome.LATE, Outcome.TO_CONTINUE)
        if outcome in (Outcome.TO_CONTINUE, Outcome.LOST):
            without_progress = 0 if step > furthest else without_progress + 1
            furthest = max(step, furthest)
        if decision not in GOES_ON:
            return
        assert hours_passed <= RENEWALS and without_progress < FRUITLESS_ATTEMPTS
    raise AssertionError(f"it goes on after {len(attempts)} attempts: {decisions}")


def test_the_drawing_shows_every_outcome_with_what_follows() -> None:
    text = (REPOSITORY / "docs/money.md").read_text()
    drawing = text.partition("stateDiagram-v2")[2].partition("```")[0]
    drawn = set(re.findall(r"attempt --> (\w+): (\w+)", drawing))
    ends = {
        Decision.SUCCEED: "succeeded",
        Decision.FAIL: "failed",
        Decision.STOP: "stopped",
        Decision.GIVE_UP: "failed",
        Decision.INTERRUPT: "interrupted",
        Decision.ELSEWHERE: "elsewhere",
        Decision.AGAIN: "again",
    }
    followed = {
        (ends[next_step(history, outcome, step)[0]], outcome.name)
        for history, outcome, step in product(HISTORIES, Outcome, (0, 7, 8))
    }
    assert drawn == followed
