"""A provider's bill beside the ledger: each shape by its header, and what is refused."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from infra import ledger
from infra.compute import attempts, jobs
from infra.contract import JobSpec
from infra.errors import BudgetError, InputError
from tasks.runs.purse import Purse
from tests.helpers.commands import say, tell
from tests.helpers.providers import QUOTE
from tests.integration.runs.test_launch import spec

DAY = datetime(2026, 11, 27, 10, tzinfo=UTC)


@pytest.fixture
def place(home: Path, purse: Purse) -> str:
    """A machine on AWS that was charged two dollars on one day; 1 on Slurm is none of its bill."""
    names = []
    for step, region, dollars in (("aws", "aws/us-east-1", 2), ("slurm", "slurm/local", 1)):
        wanted: JobSpec = spec(home, purse, step)
        quote = QUOTE.model_copy(update={"region": region})
        jobs.record_launch(purse.pool, purse.run, wanted, quote, None)
        held = ledger.reserve(
            purse.pool, f"{wanted.key}#1", [], Decimal(5), DAY + timedelta(hours=9), now=DAY
        )
        names.append(attempts.begin(purse.pool, wanted, held, quote, "here").place)
        end = DAY + timedelta(hours=1)
        ledger.charge(purse.pool, held.id, f"{held.key}/1/0", Decimal(dollars), DAY, end)
        ledger.settle(purse.pool, held.id)
    return names[0]


@pytest.mark.parametrize(
    ("header", "row", "shape"),
    [
        (
            "lineItem/UsageStartDate,lineItem/UnblendedCost,resourceTags/user:Name",
            "2026-11-27T10:00:00Z,2.1,{}-abcd1234",
            "AWS Cost and Usage Report",
        ),
        (
            "line_item_usage_start_date,line_item_unblended_cost,resource_tags",
            '2026-11-27 10:00:00.000,2.1,"{{""user_name"":""{}-head""}}"',
            "AWS CUR 2.0",
        ),
        (
            "ChargePeriodStart,BilledCost,BillingCurrency,ResourceName",
            "2026-11-27T10:00:00Z,2.1,USD,{}",
            "FOCUS",
        ),
        ("date,cost,name", "2026-11-27,2.1,{}", "plain"),
    ],
)
def test_a_bill_is_known_by_its_header_and_its_machines_by_their_names(
    tmp_path: Path, place: str, header: str, row: str, shape: str
) -> None:
    bill = tmp_path / "bill.csv"
    bill.write_text("\ufeff" + header + "\n" + row.format(place) + "\n")
    assert shape in (told := say("budget", "reconcile", str(bill), "--tolerance", "999"))
    assert place in told and "+0.1000" in told
    (ours,) = [
        one
        for one in tell("budget", "reconcile", str(bill), "--tolerance", "999")
        if one["place"] == place
    ]
    assert (ours["charged"], ours["billed"]) == ("2.0000", "2.1")


def test_a_bill_without_names_is_compared_by_the_day_and_may_not_be_dearer(
    tmp_path: Path, place: str
) -> None:
    bill = tmp_path / "bill.csv"
    bill.write_text(
        "Service,EC2-Instances($),Total costs($)\nService total,2.5,2.5\n2026-11-27,2.5,2.5\n"
    )
    with pytest.raises(BudgetError, match=r"2026-11-27: 2\.5000 .* 2\.0000"):
        say("budget", "reconcile", str(bill))
    assert place in say("budget", "reconcile", str(bill), "--tolerance", "25")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "header"),
        ("when,what\n1,2\n", "header"),
        ("date,cost\n", "header"),
        ("date,cost\nyesterday,2\n", "line 2"),
        ("date,cost\n2026-11-27,NaN\n", "line 2"),
        ("date,cost,currency\n2026-11-27,2,EUR\n", "in EUR"),
    ],
)
def test_what_is_no_bill_in_dollars_is_refused(
    tmp_path: Path, purse: Purse, text: str, says: str
) -> None:
    bill = tmp_path / "bill.csv"
    bill.write_text(text)
    with pytest.raises(InputError, match=says):
        say("budget", "reconcile", str(bill))
