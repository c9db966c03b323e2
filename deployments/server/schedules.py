"""What a schedule costs at most: how often it starts a run, by the most that each may cost."""

import math
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from cronsim import CronSim

BEGINNING = datetime(2026, 1, 1, tzinfo=UTC)
"""Of a month of 31 days, which stands for any."""
DAYS = 31


@dataclass(frozen=True)
class Cost:
    """Dollars of one schedule at most; of a rule that is neither cron nor interval a run's only."""

    flow: str
    rule: str
    active: bool
    a_run: Decimal
    a_night: Decimal | None
    a_month: Decimal | None

    def __str__(self) -> str:
        switch = "on" if self.active else "off"
        if self.a_night is None:
            return f"{self.flow} ({self.rule}, {switch}): at most ${self.a_run:f} a run"
        most = f"at most ${self.a_night:f} a night and ${self.a_month:f} a month"
        return f"{self.flow} ({self.rule}, {switch}): {most}"


def costs(deployment: dict[str, Any]) -> list[Cost]:
    """Of each schedule of a deployment, as Prefect's API tells it; none where runs cost nothing."""
    schema = deployment["parameter_openapi_schema"]
    known = [model.get("properties", {}) for model in schema.get("definitions", {}).values()]
    default = [one["max_cost"]["default"] for one in known if "max_cost" in one]
    found = []
    for one in deployment["schedules"] if default else []:
        given = [one.get("parameters"), deployment.get("parameters")]
        told = [((values or {}).get("parameters") or {}).get("max_cost") for values in given]
        a_run = Decimal(str(next(value for value in [*told, *default] if value is not None)))
        rule = one["schedule"]
        a_day, a_month = _runs(rule)
        found.append(
            Cost(
                deployment["name"],
                str(rule.get("cron") or rule.get("rrule") or f"every {rule['interval']:g} s"),
                one["active"],
                a_run,
                None if a_day is None else a_run * a_day,
                None if a_month is None else a_run * a_month,
            )
        )
    return found


def _runs(rule: dict[str, Any]) -> tuple[int | None, int | None]:
    """How often a schedule starts a run on its fullest day, and in a month."""
    if seconds := rule.get("interval"):
        return math.ceil(86400 / seconds), math.ceil(DAYS * 86400 / seconds)
    if "cron" not in rule:
        return None, None
    days: dict[int, int] = {}
    for at in CronSim(rule["cron"], BEGINNING - timedelta(seconds=1)):
        day = (at - BEGINNING).days
        if day >= DAYS:
            break
        days[day] = days.get(day, 0) + 1
    return max(days.values(), default=0), sum(days.values())
