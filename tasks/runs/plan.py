"""The jobs of a flow as one table, which its runs and `--plan` both read: they cannot drift."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from decimal import Decimal
from functools import cache
from typing import Any, Generic, TypeVar

from pydantic import BaseModel

from infra.compute.launcher import Quote
from infra.contract import Resources
from infra.errors import InputError
from tasks.runs.offers import cheapest, price
from tasks.runs.parameters import RunParameters
from tasks.runs.purse import Target
from tasks.runs.states import RENEWALS

P = TypeVar("P", bound=RunParameters)


@dataclass(frozen=True)
class Step(Generic[P]):
    """A job that a flow has done: which program of jobs/, where, for how long at most."""

    name: str
    """In its key, its log and its line of the report."""
    program: str
    environment: str
    hours: Callable[[P], float]
    """Its window: it is ended after so many hours."""
    resources: Resources | Callable[[P], Resources]
    here: bool = False
    """On this machine whatever --target says: it takes seconds and needs what lies here."""
    sandboxed: bool = True
    """As in JobSpec."""
    planned: Callable[[P], bool] = field(default=lambda _: True, compare=False)
    """Whether a run with these parameters has it done."""
    remark: str | Callable[[P], str] = field(default="", compare=False)
    """What a plan says of it, e.g. that it is done once; of a run with these parameters."""

    def needs(self, parameters: P) -> Resources:
        """What it asks of the machine."""
        return self.resources(parameters) if callable(self.resources) else self.resources

    def target(self, parameters: P) -> Target:
        """Where it may run."""
        return "local" if self.here else parameters.target


class PlannedStep(BaseModel):
    """One job of a plan; prices in dollars."""

    step: str
    environment: str
    launcher: str
    resources: str
    max_hours: float
    hourly_usd: Decimal
    usd_a_window: Decimal
    usd_at_most: Decimal
    """With every renewal: its hours may pass so often."""


def plan(steps: Iterable[Step[Any]], parameters: RunParameters) -> list[PlannedStep]:
    """What a run would launch, each at the cheapest place for it; nothing is run or reserved.

    Raises LaunchError where there is no place.
    """

    @cache  # a provider is asked once for machines that are alike
    def quote(needs: str, target: Target) -> Quote:
        return cheapest(Resources.model_validate_json(needs), target)

    planned: list[PlannedStep] = []
    for step in steps:
        if step.planned(parameters):
            needs = step.needs(parameters)
            found = quote(needs.model_dump_json(), step.target(parameters))
            planned.append(_priced(step, parameters, needs, found))
    return planned


def usd_at_most(planned: Iterable[PlannedStep], parameters: RunParameters) -> Decimal:
    """Dollars that a run may cost: that of its jobs with their renewals, and never above its own
    budget."""
    return min(sum((one.usd_at_most for one in planned), Decimal(0)), parameters.max_cost)


def require_budget(planned: Iterable[PlannedStep], parameters: RunParameters) -> None:
    """Raises InputError where the hours of one job alone cost more than the whole run may."""
    for one in planned:
        if one.usd_a_window > parameters.max_cost:
            raise InputError(
                f"--max-cost: the run may cost ${parameters.max_cost:f}, and its job {one.step} "
                f"of {one.max_hours:g} hours costs ${one.usd_a_window:f}: it could never begin",
                f"Give --max-cost at least {one.usd_a_window:f}, or the job fewer hours "
                "(`--hours`; `--help` names those of each job).",
            )


def _priced(
    step: Step[Any], parameters: RunParameters, needs: Resources, quote: Quote
) -> PlannedStep:
    hours = step.hours(parameters)
    window = price(quote, hours)
    remark = step.remark(parameters) if callable(step.remark) else step.remark
    gpus = ", ".join(f"{count} × {kind}" for kind, count in needs.accelerators.items())
    return PlannedStep(
        step=f"{step.name} ({remark})" if remark else step.name,
        environment=step.environment,
        launcher=quote.launcher if quote.launcher == "local" else quote.region,
        resources=gpus or f"{needs.cpus} CPU, {needs.memory_gb:g} GB",
        max_hours=hours,
        hourly_usd=quote.hourly_usd,
        usd_a_window=window,
        usd_at_most=window * (1 + RENEWALS),
    )
