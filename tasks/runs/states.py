"""The state machine of a job: what follows how an attempt came out. docs/money.md draws it.

It decides and does nothing: `launch` reserves, launches, waits and records. So every case can be
tried without a database, a process or a machine.
"""

from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import assert_never

RENEWALS = 3
"""How often a job that ran into its deadline may reserve its hours again."""
FRUITLESS_ATTEMPTS = 5
"""A job that dies this often without a new progress step is given up."""


class Outcome(Enum):
    """How one attempt came out."""

    SUCCEEDED = auto()
    FAILED = auto()  # by its own error, or no launcher can run it
    STOPPED = auto()  # by a person
    AWAY = auto()  # its provider or its object store does not answer
    NO_ROOM = auto()  # the place has no such machine now
    LATE = auto()  # there was no machine before the reservation expired
    TO_CONTINUE = auto()  # its hours passed, or it was told to checkpoint and end
    LOST = auto()  # it was killed, or its machine was taken away


class Decision(Enum):
    """What is done about it."""

    SUCCEED = auto()  # record its result, for good
    FAIL = auto()  # record its error, for good
    STOP = auto()  # it is recorded as stopped
    GIVE_UP = auto()  # record that it does not get on, for good
    INTERRUPT = auto()  # tell the error; the same command goes on later
    ELSEWHERE = auto()  # reserve and launch at another place
    AGAIN = auto()  # reserve and launch anew; it goes on from its checkpoint


@dataclass(frozen=True)
class History:
    """What is remembered of a job's earlier attempts, since this process took it up.

    `renewals`: how often its hours passed; `fruitless`: how many attempts in a row came no further
    than the step `furthest`, -1 before the first has ended.
    """

    renewals: int = 0
    fruitless: int = 0
    furthest: int = -1


def next_step(history: History, outcome: Outcome, step: int = 0) -> tuple[Decision, History]:
    """What follows an attempt that came out like this at progress `step`, and the new history."""
    match outcome:
        case Outcome.SUCCEEDED:
            return Decision.SUCCEED, history
        case Outcome.FAILED:
            return Decision.FAIL, history
        case Outcome.STOPPED:
            return Decision.STOP, history
        case Outcome.AWAY:
            return Decision.INTERRUPT, history
        case Outcome.NO_ROOM:
            return Decision.ELSEWHERE, history
        case Outcome.LATE:
            history = replace(history, renewals=history.renewals + 1)
            return Decision.AGAIN if history.renewals <= RENEWALS else Decision.FAIL, history
        case Outcome.TO_CONTINUE | Outcome.LOST:
            history = History(
                renewals=history.renewals + (outcome is Outcome.TO_CONTINUE),
                fruitless=0 if step > history.furthest else history.fruitless + 1,
                furthest=max(step, history.furthest),
            )
            is_hopeless = history.renewals > RENEWALS or history.fruitless == FRUITLESS_ATTEMPTS
            return Decision.GIVE_UP if is_hopeless else Decision.AGAIN, history
        case _:
            assert_never(outcome)
