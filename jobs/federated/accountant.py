"""How much of its privacy a tenant has spent: Gaussian mechanisms, composed by dp-accounting.

Of tenants, one release is the noisy mean of one round. Neighbours are federations with the tenant's
updates and with zeros in their place: how many take part is known. No tenant is sampled, so nothing
is amplified. Releases that protect single records say nothing of a whole tenant and are not in it.

Of records, one release is the noisy sum of gradients in one local step, of rows that are each
drawn with the sampling rate (Abadi 2016; Mironov 2019). Neighbours are tenants with a row's
gradient and with zeros in its place: how many rows there are is known. A noisy mean of tenants is a
release, too: without a row a clipped update may become its opposite, so that its noise counts half.

    python -m jobs.federated.accountant < asked.json       (from the folder of the project)

prints the epsilon of each list of releases in {"spent": [[...], ...], "delta": ..., "unit": ...}.
"""

import json
import sys
from functools import lru_cache

from dp_accounting import NeighboringRelation, dp_event
from dp_accounting.rdp import RdpAccountant

from jobs.federated.config import Privacy, Spent, Unit


def epsilon(spent: list[Spent], delta: float, unit: Unit = "tenant") -> float:
    """Of all releases together (Mironov 2017), for each tenant or each record; 0 for none."""
    releases = []
    for each in spent:
        if each.rounds and unit in ("record", each.unit):
            doubled = unit == "record" and each.unit == "tenant"
            noise = each.noise_multiplier / (2 if doubled else 1)
            releases.append((noise, each.sampling_rate, each.rounds * each.steps))
    return _composed(tuple(releases), delta) if releases else 0.0


@lru_cache
def _composed(releases: tuple[tuple[float, float, int], ...], delta: float) -> float:
    """Epsilon of (noise multiplier, sampling rate, how often).

    With sampling it takes 0.2 s, and most tenants have spent alike.
    """
    accountant = RdpAccountant(neighboring_relation=NeighboringRelation.REPLACE_SPECIAL)
    for noise, rate, count in releases:
        gaussian = dp_event.GaussianDpEvent(noise)
        accountant.compose(dp_event.PoissonSampledDpEvent(rate, gaussian), count)
    return accountant.get_epsilon(delta)


def fits(spent: list[Spent], privacy: Privacy) -> bool:
    """Whether all of it is within the budget."""
    return epsilon(spent, privacy.delta, privacy.privacy_unit) <= privacy.max_epsilon


if __name__ == "__main__":
    told = json.load(sys.stdin)
    lists = [[Spent.model_validate(each) for each in releases] for releases in told["spent"]]
    print(json.dumps([epsilon(each, told["delta"], told["unit"]) for each in lists]))
