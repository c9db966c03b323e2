"""Warnings of the cost guard: each threshold is announced once a window, and again in the next."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from infra import database as db
from infra import ledger
from tasks.guard import steps as guard


@pytest.fixture
def events(database: db.Pool, monkeypatch: pytest.MonkeyPatch) -> list[dict]:
    """What was emitted; a budget of 100 dollars a day."""
    emitted: list[dict] = []
    monkeypatch.setattr(guard, "emit_event", lambda **event: emitted.append(event))
    ledger.set_budget(database, "project", "day", Decimal(100))
    return emitted


def reserve(pool: db.Pool, key: str, amount: int) -> None:
    ledger.reserve(pool, key, [], Decimal(amount), datetime.now(UTC) + timedelta(seconds=1))


def test_each_threshold_is_announced_once(database: db.Pool, events: list[dict]) -> None:
    assert guard.warn.fn(False) == []
    reserve(database, "a", 60)
    assert [one.percent for one in guard.warn.fn(True)] == [50] and events == []
    assert [one.percent for one in guard.warn.fn(False)] == [50]
    assert guard.warn.fn(False) == []
    reserve(database, "b", 40)
    assert [one.percent for one in guard.warn.fn(False)] == [80, 100]
    assert [event["payload"]["percent"] for event in events] == [50, 80, 100]
    assert {event["event"] for event in events} == {"nightshift.budget.threshold"}
    resource = events[0]["resource"]
    assert resource["prefect.resource.id"] == "nightshift.budget.project.day"


def test_a_sweep_that_dies_before_it_noted_its_warning_repeats_it(
    database: db.Pool, events: list[dict], monkeypatch: pytest.MonkeyPatch
) -> None:
    reserve(database, "a", 60)

    def die(**_event) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as dying:
        dying.setattr(guard, "emit_event", die)
        with pytest.raises(KeyboardInterrupt):
            guard.warn.fn(False)
    assert [one.percent for one in guard.warn.fn(False)] == [50]


def test_the_report_says_what_was_done(database: db.Pool) -> None:
    report = guard.GuardReport(
        dry_run=True,
        done=["x ran; stopped"],
        warnings=[],
        charged_usd=Decimal(0),
        machines=[],
        files={},
    )
    text = guard.markdown(report, ledger.budgets(database), [], [])
    assert "What would be done" in text and "- x ran; stopped" in text
