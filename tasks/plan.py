"""What a flow would launch, where and at which price; made without running anything."""

from decimal import Decimal

from pydantic import BaseModel

from jobs.contract import Resources
from tasks.launch import cheapest, price
from tasks.purse import Target


class Step(BaseModel):
    """One job of a plan; prices in dollars."""

    step: str
    environment: str
    launcher: str
    resources: str
    max_hours: float
    hourly_usd: Decimal
    usd_at_most: Decimal


def step(
    name: str, environment: str, resources: Resources, max_hours: float, target: Target
) -> Step:
    """The cheapest place for one job. Raises LaunchError where there is none."""
    quote = cheapest(resources, target)
    gpus = ", ".join(f"{count} × {kind}" for kind, count in resources.accelerators.items())
    return Step(
        step=name,
        environment=environment,
        launcher=quote.launcher if quote.launcher == "local" else quote.region,
        resources=gpus or f"{resources.cpus} CPU, {resources.memory_gb:g} GB",
        max_hours=max_hours,
        hourly_usd=quote.hourly_usd,
        usd_at_most=price(quote, max_hours),
    )
