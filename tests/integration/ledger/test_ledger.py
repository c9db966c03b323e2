"""The ledger by example: what is kept free, what is refused and what a refusal says."""

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from infra import ledger
from infra.database import Pool
from infra.errors import BudgetExceeded, InputError, ReservationConflict
from tests.helpers.reservations import HOUR, NOW, hold, limit, project_day


def test_new_database_has_the_daily_budget_of_the_settings(
    database: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    [budget] = ledger.budgets(database)
    assert (budget.scope, budget.period, budget.limit) == ("project", "day", Decimal(200))
    limit(database, "50")
    assert ledger.budgets(database)[0].limit == 50, "it is made once, not again"


def test_first_reservation_of_a_new_database_is_under_that_budget(database: Pool) -> None:
    hold(database, "a", "199.9999")
    with pytest.raises(BudgetExceeded, match="limit 200"):
        hold(database, "b", "0.0002")


def test_setting_another_budget_first_leaves_the_daily_one(database: Pool) -> None:
    limit(database, "1000", period="month")
    assert [(b.period, b.limit) for b in ledger.budgets(database)] == [
        ("day", Decimal(200)),
        ("month", Decimal(1000)),
    ]


def test_life_of_a_reservation(database: Pool) -> None:
    reservation = hold(database, "job", "3", 1, "flow:dpo")
    assert reservation.state == "open"
    assert reservation.scopes == ("flow:dpo", "project")
    assert ledger.find(database, "job") == reservation == ledger.get(database, reservation.id)
    assert ledger.open_reservations(database) == [reservation]
    assert project_day(database) == (0, 3)
    charged = ledger.charge(database, reservation.id, "job/1", Decimal(1), NOW, NOW + HOUR / 3)
    assert (charged.spent, charged.state) == (1, "open")
    assert project_day(database) == (1, 2)
    settled = ledger.settle(database, reservation.id, now=NOW + HOUR)
    assert (settled.state, settled.closed_at) == ("settled", NOW + HOUR)
    assert project_day(database) == (1, 0)
    assert ledger.open_reservations(database) == []
    assert ledger.charged(database, "flow:dpo") == ledger.charged(database, "project") == 1
    assert ledger.charged(database, "flow:other") == 0
    assert ledger.audit(database) == []


def test_denial_says_everything_and_leaves_nothing(database: Pool) -> None:
    ledger.set_budget(database, "project", "day", Decimal(10), "Europe/Berlin", now=NOW)
    first = hold(database, "night/train", "4")
    ledger.charge(database, first.id, "c", Decimal(1), NOW, NOW + HOUR)
    hold(database, "night/judge", "2.5")
    with pytest.raises(BudgetExceeded) as denied:
        hold(database, "greedy", "6")
    assert denied.value.message == (
        "the daily budget of project has no room for 6.0000 dollars: limit 10.0000, charged "
        "1.0000, reserved 5.5000 (by night/train 3.0000, night/judge 2.5000). Its day began "
        "2026-11-21 00:00 and resets 2026-11-22 00:00 Europe/Berlin"
    )
    assert "nightshift budget set" in denied.value.remedy
    assert ledger.find(database, "greedy") is None
    assert project_day(database) == (1, Decimal("5.5"))
    assert ledger.audit(database) == []


def test_denial_by_the_narrowest_of_several_budgets(database: Pool) -> None:
    limit(database, "5", "run:r1", "total")
    limit(database, "7", "flow:f", "month")
    hold(database, "a", "4.5", 1, "flow:f", "run:r1")
    with pytest.raises(BudgetExceeded, match="total budget of run:r1") as denied:
        hold(database, "b", "1", 1, "flow:f", "run:r1")
    assert "--max-cost" in denied.value.remedy
    with pytest.raises(BudgetExceeded, match=r"monthly budget of flow:f.*a 4\.5000"):
        hold(database, "c", "3", 1, "flow:f", "run:r2")
    hold(database, "d", "2.5", 1, "flow:f", "run:r2")
    assert ledger.audit(database) == []


def test_many_holders_are_counted(database: Pool) -> None:
    for number in range(8):
        hold(database, f"job-{number}", str(10 + number))
    with pytest.raises(BudgetExceeded, match=r"by job-7 17.0000, .*job-3 13.0000, 3 more\)"):
        hold(database, "more", "200")


def test_zero_limit_denies_everything(database: Pool) -> None:
    limit(database, "0", "flow:f")
    with pytest.raises(BudgetExceeded, match="flow:f"):
        hold(database, "a", "0.0001", 1, "flow:f")
    hold(database, "b", "0.0001", 1, "flow:g")


def test_last_ten_thousandth_fits(database: Pool) -> None:
    limit(database, "1")
    hold(database, "a", "0.9999")
    hold(database, "b", "0.0001")
    with pytest.raises(BudgetExceeded):
        hold(database, "c", "0.0001")


def test_job_across_midnight_is_kept_and_charged_in_both_days(database: Pool) -> None:
    evening = NOW.replace(hour=22)
    reservation = ledger.reserve(
        database, "night", ["flow:f"], Decimal("1"), evening + 3 * HOUR, now=evening
    )
    tomorrow = NOW + timedelta(days=1)
    assert project_day(database, evening) == (0, Decimal("0.6666"))
    assert project_day(database, tomorrow) == (0, Decimal("0.3334"))
    half_past = evening + 1.5 * HOUR
    ledger.charge(database, reservation.id, "c", Decimal("0.3"), half_past, half_past + HOUR)
    assert project_day(database, evening) == (Decimal("0.15"), Decimal("0.5166"))
    assert project_day(database, tomorrow) == (Decimal("0.15"), Decimal("0.1834"))
    ledger.settle(database, reservation.id)
    days = ledger.history(database, now=tomorrow)
    assert [(day.day, day.flow, day.charged) for day in days] == [
        (date(2026, 11, 21), "f", Decimal("0.15")),
        (date(2026, 11, 22), "f", Decimal("0.15")),
    ]


def test_full_tomorrow_denies_what_runs_into_it(database: Pool) -> None:
    limit(database, "10")
    tomorrow = NOW + 24 * HOUR
    ledger.reserve(database, "t", [], Decimal(9), tomorrow + HOUR, now=tomorrow)
    hold(database, "today", "4", 6)
    with pytest.raises(BudgetExceeded, match=r"2\.0000 of the 4\.0000.*began 2026-11-22 00:00"):
        hold(database, "over", "4", 24)


def test_days_of_23_and_25_hours(database: Pool) -> None:
    ledger.set_budget(database, "project", "day", Decimal(200), "Europe/Berlin", now=NOW)
    for midnight, hours in (
        (datetime(2026, 3, 28, 23, tzinfo=UTC), 23),
        (datetime(2026, 10, 24, 22, tzinfo=UTC), 25),
        (datetime(2026, 11, 20, 23, tzinfo=UTC), 24),
    ):
        until = midnight + 48 * HOUR
        ledger.reserve(database, str(hours), [], Decimal(48), until, now=midnight)
        budget = ledger.budgets(database, now=midnight)[0]
        assert budget.reserved == hours
        assert budget.resets_at == midnight + hours * HOUR


def test_overrun_is_recorded_marked_and_blocks(database: Pool) -> None:
    reservation = hold(database, "job", "1", 1, "flow:f")
    over = ledger.charge(database, reservation.id, "bill", Decimal(3), NOW, NOW + HOUR)
    assert (over.state, over.spent, over.closed) == ("overdrawn", 3, False)
    assert project_day(database) == (3, 0)
    with pytest.raises(
        BudgetExceeded, match=r"while job is overdrawn: 3\.0000 dollars spent, 1\.0"
    ):
        hold(database, "other", "1", 1, "flow:g")
    assert ledger.open_reservations(database) == [over]
    settled = ledger.settle(database, reservation.id)
    assert (settled.state, settled.spent) == ("settled", 3)
    hold(database, "other", "1", 1, "flow:g")
    assert ledger.audit(database) == []


def test_overrun_beyond_the_limit_blocks_after_it_is_settled(database: Pool) -> None:
    limit(database, "2")
    reservation = hold(database, "job", "1")
    ledger.charge(database, reservation.id, "bill", Decimal(5), NOW, NOW + HOUR)
    ledger.settle(database, reservation.id)
    with pytest.raises(BudgetExceeded, match="charged 5"):
        hold(database, "other", "0.0001")
    assert ledger.budgets(database, now=NOW)[0].remaining == -3


def test_extension_adds_money_for_the_added_hours(database: Pool) -> None:
    reservation = hold(database, "job", "1", 12)
    longer = ledger.extend(
        database, reservation.id, "more", Decimal(2), NOW + 16 * HOUR, now=NOW + HOUR
    )
    assert (longer.amount, longer.expires_at) == (3, NOW + 16 * HOUR)
    assert project_day(database) == (0, 1)
    assert project_day(database, NOW + 24 * HOUR) == (0, 2)
    again = ledger.extend(database, reservation.id, "more", Decimal(2), NOW + 17 * HOUR, now=NOW)
    assert again == longer
    with pytest.raises(ReservationConflict, match="more extended"):
        ledger.extend(database, reservation.id, "more", Decimal(1), NOW + 16 * HOUR, now=NOW)


def test_refused_extension_changes_nothing(database: Pool) -> None:
    limit(database, "2")
    reservation = hold(database, "job", "1", 1)
    with pytest.raises(BudgetExceeded, match=r"reserved 1.0000 \(by job 1.0000\)"):
        ledger.extend(database, reservation.id, "x", Decimal(2), NOW + 2 * HOUR, now=NOW)
    assert ledger.get(database, reservation.id) == reservation
    assert ledger.audit(database) == []


def test_extension_pays_an_overrun_first(database: Pool) -> None:
    reservation = hold(database, "job", "1")
    ledger.charge(database, reservation.id, "bill", Decimal(3), NOW, NOW + HOUR)
    short = ledger.extend(database, reservation.id, "a", Decimal(1), NOW + 2 * HOUR, now=NOW)
    assert (short.state, project_day(database)) == ("overdrawn", (3, 0))
    paid = ledger.extend(database, reservation.id, "b", Decimal(4), NOW + 2 * HOUR, now=NOW)
    assert (paid.state, project_day(database)) == ("open", (3, 3))
    hold(database, "other", "1")


def test_repeating_changes_nothing(database: Pool) -> None:
    reservation = hold(database, "job", "3", 1, "flow:f")
    assert hold(database, "job", "3", 2, "flow:f") == reservation, "a retry comes later"
    extended = ledger.extend(database, reservation.id, "e", Decimal(1), NOW + 2 * HOUR, now=NOW)
    assert hold(database, "job", "3", 1, "flow:f") == extended
    bill: tuple[Any, ...] = (reservation.id, "c", Decimal(1), NOW, NOW + HOUR)
    charged = ledger.charge(database, *bill)
    assert ledger.charge(database, *bill) == charged
    settled = ledger.settle(database, reservation.id, now=NOW)
    assert ledger.settle(database, reservation.id, now=NOW + HOUR) == settled
    assert ledger.charge(database, *bill) == settled
    assert project_day(database) == (1, 0)
    free = hold(database, "free", "1")
    released = ledger.release(database, free.id)
    assert released.state == "released"
    assert ledger.release(database, free.id) == released == ledger.settle(database, free.id)


def test_same_key_for_something_else_is_a_conflict(database: Pool) -> None:
    reservation = hold(database, "job", "3", 1, "flow:f")
    with pytest.raises(ReservationConflict, match=r"3\.0000 dollars for flow:f, project, not 4"):
        hold(database, "job", "4", 1, "flow:f")
    with pytest.raises(ReservationConflict, match="for project"):
        hold(database, "job", "3", 1)
    ledger.charge(database, reservation.id, "c", Decimal(1), NOW, NOW + HOUR)
    for amount, end in ((2, NOW + HOUR), (1, NOW + 2 * HOUR)):
        with pytest.raises(ReservationConflict, match=r"c charged 1\.0000"):
            ledger.charge(database, reservation.id, "c", Decimal(amount), NOW, end)
    with pytest.raises(ReservationConflict, match=r"1\.0000 dollars charged: settle it"):
        ledger.release(database, reservation.id)
    ledger.settle(database, reservation.id)
    with pytest.raises(ReservationConflict, match="job is already settled"):
        hold(database, "job", "3", 1, "flow:f")
    with pytest.raises(ReservationConflict, match="cannot be extended: it is already settled"):
        ledger.extend(database, reservation.id, "x", Decimal(1), NOW + HOUR, now=NOW)


def test_late_bill_is_recorded(database: Pool) -> None:
    reservation = hold(database, "job", "1")
    ledger.release(database, reservation.id)
    late = ledger.charge(database, reservation.id, "bill", Decimal(2), NOW, NOW + HOUR)
    assert (late.state, late.spent, late.closed) == ("settled", 2, True)
    assert project_day(database) == (2, 0)
    assert ledger.audit(database) == []


def test_charge_beyond_a_days_part_frees_no_more_than_it_spends(database: Pool) -> None:
    evening = NOW.replace(hour=22)
    reservation = ledger.reserve(database, "n", [], Decimal(4), evening + 4 * HOUR, now=evening)
    charged = ledger.charge(database, reservation.id, "c", Decimal(3), evening, evening + HOUR)
    assert charged.state == "open"
    assert project_day(database, evening) == (3, 0)
    assert project_day(database, evening + 3 * HOUR) == (0, 1)


def test_new_limit_holds_at_once_and_lowering_only_blocks(database: Pool) -> None:
    limit(database, "10")
    reservation = hold(database, "a", "8", 24)
    limit(database, "3")
    budget = ledger.budgets(database, now=NOW)[0]
    assert (budget.limit, budget.reserved, budget.remaining) == (3, 4, -1)
    with pytest.raises(BudgetExceeded, match="limit 3"):
        hold(database, "b", "0.5")
    with pytest.raises(BudgetExceeded, match="limit 3"):
        ledger.reserve(database, "c", [], Decimal(1), NOW + 26 * HOUR, now=NOW + 25 * HOUR)
    ledger.charge(database, reservation.id, "c", Decimal(2), NOW, NOW + HOUR)
    limit(database, "10")
    hold(database, "b", "0.5")


def test_past_days_keep_their_limit(database: Pool) -> None:
    hold(database, "a", "8")
    ledger.set_budget(database, "project", "day", Decimal(5), now=NOW + 24 * HOUR)
    with database.connection() as connection:
        [window] = connection.execute("SELECT limit_usd FROM budget_windows").fetchall()
    assert window["limit_usd"] == 200


def test_new_budget_counts_what_is_there_already(database: Pool) -> None:
    reservation = hold(database, "a", "8", 1, "flow:f")
    ledger.charge(database, reservation.id, "c", Decimal(3), NOW, NOW + HOUR)
    limit(database, "9", "flow:f", "month")
    [budget] = [b for b in ledger.budgets(database, now=NOW) if b.scope == "flow:f"]
    assert (budget.charged, budget.reserved, budget.remaining) == (3, 5, 1)
    with pytest.raises(BudgetExceeded, match="flow:f"):
        hold(database, "b", "1.0001", 1, "flow:f")
    assert ledger.audit(database) == []


def test_another_time_zone_moves_the_money(database: Pool) -> None:
    evening = NOW.replace(hour=20)
    reservation = ledger.reserve(database, "a", [], Decimal(6), evening + 3 * HOUR, now=evening)
    ledger.charge(database, reservation.id, "c", Decimal(2), evening - 2 * HOUR, evening)
    ledger.set_budget(database, "project", "day", Decimal(200), "Asia/Kolkata", now=evening)
    assert project_day(database, evening - 2 * HOUR) == (Decimal("0.5"), 0)
    assert project_day(database, evening) == (Decimal("1.5"), 4)
    assert ledger.audit(database) == []


def test_budgets_show_holders_and_only_running_purses(database: Pool) -> None:
    limit(database, "5", "run:old", "total")
    limit(database, "5", "run:new", "total")
    hold(database, "a", "2", 1, "run:new")
    project, run = ledger.budgets(database, now=NOW)
    assert (run.scope, run.resets_at, run.remaining) == ("run:new", None, 3)
    assert run.holders == (ledger.Holder(key="a", amount=Decimal(2)),)
    assert project.holders == run.holders
    assert project.resets_at == datetime(2026, 11, 22, tzinfo=UTC)


@pytest.mark.parametrize("amount", ["0", "-1", "NaN", "Infinity", "0.00001", "100000000"])
def test_amounts_that_are_none(database: Pool, amount: str) -> None:
    reservation = hold(database, "job", "1")
    with pytest.raises(InputError, match="dollars"):
        hold(database, "bad", amount)
    with pytest.raises(InputError, match="dollars"):
        ledger.charge(database, reservation.id, "bad", Decimal(amount), NOW, NOW + HOUR)
    with pytest.raises(InputError, match="dollars"):
        ledger.extend(database, reservation.id, "bad", Decimal(amount), NOW + 2 * HOUR, now=NOW)
    if amount != "0":
        with pytest.raises(InputError, match="dollars"):
            limit(database, amount)


def test_other_bad_input(database: Pool) -> None:
    good = [database, "k", ["flow:f"], Decimal(1), NOW + HOUR]
    for place, value in (
        (1, ""),
        (2, ["flow:"]),
        (2, ["team:x"]),
        (3, 1.5),
        (4, NOW - HOUR),
        (4, datetime(2026, 11, 22)),
    ):
        bad: list[Any] = [*good[:place], value, *good[place + 1 :]]
        with pytest.raises(InputError):
            ledger.reserve(*bad, now=NOW)
    with pytest.raises(InputError, match="no window"):
        ledger.set_budget(database, "project", "week", Decimal(1))
    with pytest.raises(InputError, match="Mars/Olympus"):
        ledger.set_budget(database, "project", "day", Decimal(1), "Mars/Olympus")
    with pytest.raises(InputError, match="no reservation 77"):
        ledger.settle(database, 77)
    with pytest.raises(InputError, match="no reservation 77"):
        ledger.get(database, 77)
    reservation = hold(database, "job", "1")
    with pytest.raises(InputError, match="in their order"):
        ledger.charge(database, reservation.id, "c", Decimal(1), NOW, NOW - HOUR)
