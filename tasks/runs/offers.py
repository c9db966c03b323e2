"""Where a job can run, and what it costs there."""

from decimal import ROUND_UP, Decimal

from infra import database
from infra.compute.launcher import Launcher, Quote
from infra.compute.local import LocalLauncher
from infra.compute.sky.launcher import SkyLauncher
from infra.compute.sky.quotes import price_list
from infra.contract import Resources
from infra.errors import InputError, LaunchError
from infra.settings import settings
from tasks.runs.charge import PLACES
from tasks.runs.purse import Target


def launchers(target: Target) -> dict[str, Launcher]:
    """The launchers that `--target` allows, by name."""
    found: dict[str, Launcher] = {}
    if target != "sky":
        found["local"] = LocalLauncher(settings().home)
    if target != "local":
        found["sky"] = SkyLauncher(database.pool())
    return found


def offers(resources: Resources, target: Target) -> list[Quote]:
    """Every offer for these resources, the cheapest first. Raises LaunchError: why none is."""
    quotes: list[Quote] = []
    refusals: list[LaunchError] = []
    for name, launcher in launchers(target).items():
        try:
            quotes += launcher.quotes(resources)
        except LaunchError as refusal:
            refusals.append(LaunchError(f"{name}: {refusal.message}", refusal.remedy))
    if not quotes:
        raise LaunchError(
            "no launcher can run this job: " + "; ".join(one.message for one in refusals),
            " ".join(one.remedy for one in refusals),
        )
    return sorted(quotes, key=lambda quote: quote.hourly_usd)


def listed(resources: Resources, target: Target) -> list[Quote]:
    """What rented machines with these accelerators cost where none can be rented from here."""
    if target == "local" or not resources.accelerators:
        return []
    return price_list(resources)


def cheapest(resources: Resources, target: Target) -> Quote:
    """The best offer for these resources. Raises LaunchError with every refusal."""
    if target != "local" and not settings().objects_uri.startswith("s3://"):
        if target == "sky":
            raise InputError(
                f"--target sky: a machine elsewhere cannot reach {settings().objects_uri}",
                "Set NIGHTSHIFT_OBJECTS to an s3:// bucket.",
            )
        target = "local"
    return offers(resources, target)[0]


def price(quote: Quote, hours: float) -> Decimal:
    """What `hours` cost at most, rounded up to the ledger's four places, and never nothing.

    With the time that it takes to make the machine ready and to end it.
    """
    due = quote.hourly_usd * (Decimal(str(hours)) + quote.overhead_hours)
    return max(PLACES, due.quantize(PLACES, ROUND_UP))
