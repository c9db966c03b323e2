"""How much of its privacy a tenant has spent: Gaussian mechanisms, composed by dp-accounting.

Of tenants, one release is the noisy mean of one round. Neighbours are federations with the tenant's
updates and with zeros in their place: how many take part is known. No tenant is sampled, so nothing
is amplified. Releases that protect single records say nothing of a whole tenant and are not in it.

Of records, one release is the noisy sum of gradients in one local step, of rows that are each
drawn with the sampling rate (Abadi 2016; Mironov 2019). Neighbours are tenants with a row's
gradient and with zeros in its place: how many rows there are is known. A noisy mean of tenants is a
release, too: without a row a clipped update may become its opposite, so that its noise counts half.
"""

from dp_accounting import NeighboringRelation, dp_event
from dp_accounting.rdp import RdpAccountant

from jobs.federated.config import Privacy, Spent, Unit


def epsilon(spent: list[Spent], delta: float, unit: Unit = "tenant") -> float:
    """Of all releases together (Mironov 2017), for each tenant or each record; 0 for none."""
    accountant = RdpAccountant(neighboring_relation=NeighboringRelation.REPLACE_SPECIAL)
    counted = [each for each in spent if each.rounds and unit in ("record", each.unit)]
    for each in counted:
        doubled = unit == "record" and each.unit == "tenant"
        noise = dp_event.GaussianDpEvent(each.noise_multiplier / (2 if doubled else 1))
        release = dp_event.PoissonSampledDpEvent(each.sampling_rate, noise)
        accountant.compose(release, each.rounds * each.steps)
    return accountant.get_epsilon(delta) if counted else 0.0


def fits(spent: list[Spent], privacy: Privacy) -> bool:
    """Whether all of it is within the budget."""
    return epsilon(spent, privacy.delta, privacy.privacy_unit) <= privacy.max_epsilon
