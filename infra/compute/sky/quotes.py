"""What SkyPilot's clouds offer, and at which price: from its optimizer and its catalogues."""

import importlib
import math
import re
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from decimal import ROUND_UP, Decimal
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from infra.compute.launcher import Quote
from infra.compute.sky.api import explain, overhearing, quietly, sdk
from infra.contract import Resources
from infra.errors import LaunchError
from infra.settings import settings

LISTED = (
    *("aws", "azure", "gcp", "lambda", "runpod", "nebius", "oci", "ibm", "do", "cudo"),
    *("fluidstack", "paperspace", "hyperbolic", "vast"),
)
"""Clouds of which SkyPilot keeps a public price list."""
OVERHEAD_HOURS = Decimal(10) / 60
"""Reserved beside the job's own hours, for making the machine ready and taking it down."""


def quotes(resources: Resources) -> list[Quote]:
    """What can be taken, the cheapest first. Raises LaunchError if nothing can, and why."""
    config = settings()
    found, refused = [], []
    for offer in _offers(resources):
        region = offer.infra.to_str()
        if not any(fnmatch(region, pattern) for pattern in config.sky_allowed):
            refused.append(f"{region} is not in NIGHTSHIFT_SKY_ALLOWED")
            continue
        try:
            found.append(_quote(offer, resources, region))
        except LaunchError as refusal:
            refused.append(refusal.message)
    if not found:
        raise LaunchError(
            "no offer of SkyPilot can be taken: " + "; ".join(sorted(set(refused))[:6]),
            "Change the setting that is named, or the resources.",
        )
    return sorted(found, key=lambda quote: (quote.hourly_usd, quote.region))


def price_list(resources: Resources) -> list[Quote]:
    """What machines with these accelerators cost by the price lists of clouds that nobody needs to
    have enabled, the cheapest first: for knowing, not for renting.

    A cloud whose list cannot be had is left out.
    """
    ((kind, count),) = resources.accelerators.items()
    with quietly(), ThreadPoolExecutor(len(LISTED)) as pool:
        asked = [pool.submit(_listed, cloud, kind, count, resources) for cloud in LISTED]
        found = [quote for one in asked for quote in one.result()]
    return sorted(found, key=lambda quote: (quote.hourly_usd, quote.region))


def _listed(cloud: str, kind: str, count: int, resources: Resources) -> list[Quote]:
    try:
        module = importlib.import_module(f"sky.catalog.{cloud}_catalog")
        found = module.list_accelerators(True, f"^{re.escape(kind)}$", None, count, False)
        source, read = _catalogue(cloud)
    except Exception:  # of whatever kind: it has no list, or none can be fetched
        return []
    quotes = []
    for one in (one for several in found.values() for one in several):
        price = one.spot_price if resources.use_spot else one.price
        fits = (one.cpu_count or 0) >= resources.cpus and (one.memory or 0) >= resources.memory_gb
        if fits and price is not None and math.isfinite(price) and price > 0:
            quote = Quote(
                launcher="sky",
                hourly_usd=Decimal(str(price)).quantize(Decimal("0.0001"), ROUND_UP),
                accelerators=resources.accelerators,
                region=cloud,
                source=source,
                spot=resources.use_spot,
                instance_type=one.instance_type or "",
                overhead_hours=OVERHEAD_HOURS,
                priced_at=read,
            )
            quotes.append(quote)
    return quotes


def _offers(resources: Resources) -> list[Any]:
    """What SkyPilot's optimizer could launch, as its Resources."""
    sky = sdk()
    optimizer = importlib.import_module("sky.optimizer")
    task = sky.Task(run="true")
    task.set_resources(
        sky.Resources(
            accelerators=resources.accelerators or None,
            cpus=f"{resources.cpus}+",
            memory=f"{resources.memory_gb:g}+",
            use_spot=resources.use_spot,
        )
    )
    try:
        # Here it believes to be its API server, which sends spinners as text.
        silent = importlib.import_module("sky.sky_logging").silent
        with quietly(), silent(), overhearing() as warnings:
            found, _, similar, hints = optimizer._fill_in_launchable_resources(
                task, None, quiet=True
            )
    except Exception as error:
        raise explain(error) from error
    offers = [offer for several in found.values() for offer in several if _has(offer, resources)]
    if not offers:
        reasons = [hint for several in hints.values() for hint in several]
        near = f" There is {', '.join(similar[:5])}." if similar else ""
        why = " ".join(" ".join(reasons or warnings).split())[:400]
        raise LaunchError(
            f"no cloud that SkyPilot has enabled offers {_wish(resources)}.{near} {why}".strip(),
            "Ask for other resources, or enable a cloud: `sky check` says what is missing, and "
            "whether the credentials are still good.",
        )
    return offers


def _has(offer: Any, resources: Resources) -> bool:
    """Whether the offer's machine has what was asked for: SkyPilot finds an H100 for "H10"."""
    has = offer.cloud.get_accelerators_from_instance_type(offer.instance_type)
    if has is None:  # accelerators are added to the machine, or there are none
        return True
    kinds = {kind.lower(): count for kind, count in has.items()}
    wanted = resources.accelerators.items()
    return all(kinds.get(kind.lower(), 0) >= count for kind, count in wanted)


def _quote(offer: Any, resources: Resources, region: str) -> Quote:
    """The price of an offer, from SkyPilot's catalogue; LaunchError if it is none to rely on."""
    config = settings()
    try:
        price = Decimal(str(offer.get_cost(3600))).quantize(Decimal("0.0001"), ROUND_UP)
    except Exception as error:
        raise LaunchError(f"{region} has no price: {error}") from error
    if price <= 0:
        raise LaunchError(
            f"{region} has no price; SkyPilot's configuration gives it one "
            "(for Slurm slurm.cluster_configs.CLUSTER.pricing)"
        )
    if price > config.max_usd_per_hour:
        raise LaunchError(
            f"{region} costs {price} dollars an hour, above NIGHTSHIFT_MAX_USD_PER_HOUR "
            f"({config.max_usd_per_hour})"
        )
    source, read = _catalogue(str(offer.cloud).lower())
    oldest = datetime.now(UTC) - timedelta(hours=config.sky_price_max_age_hours)
    if read < oldest:
        raise LaunchError(
            f"the prices of {region} are of {read:%Y-%m-%d %H:%M}, older than "
            f"NIGHTSHIFT_SKY_PRICE_MAX_AGE_HOURS ({config.sky_price_max_age_hours:g})"
        )
    return Quote(
        launcher="sky",
        hourly_usd=price,
        accelerators=resources.accelerators,
        region=region,
        source=source,
        spot=offer.use_spot,
        instance_type=offer.instance_type or "",
        overhead_hours=OVERHEAD_HOURS,
        priced_at=read,
        valid_until=read + timedelta(hours=config.sky_price_max_age_hours),
    )


def _catalogue(cloud: str) -> tuple[str, datetime]:
    """Where a cloud's prices stand, and when they were read."""
    catalog = importlib.import_module("sky.catalog.common")
    folder = Path(catalog.get_catalog_path(f"{cloud}/vms.csv")).parent
    files = sorted(folder.glob("*.csv"))
    if not files:  # priced by the user's own configuration, which is read afresh each time
        return f"SkyPilot's configuration of {cloud}", datetime.now(UTC)
    oldest = min(path.stat().st_mtime for path in files)
    return f"SkyPilot's catalogue of {cloud}", datetime.fromtimestamp(oldest, UTC)


def _wish(resources: Resources) -> str:
    gpus = ", ".join(f"{count} × {kind}" for kind, count in resources.accelerators.items())
    spot = " on spot" if resources.use_spot else ""
    return f"{gpus or f'{resources.cpus} CPUs'} with {resources.memory_gb:g} GB{spot}"
