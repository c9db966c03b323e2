"""How much of its privacy a tenant has spent: Gaussian mechanisms, composed by dp-accounting.

One release is the noisy mean of one round. Neighbours are federations with the tenant's updates and
with zeros in their place: how many take part is known. Nobody is sampled, so nothing is amplified.
"""

from dp_accounting import dp_event
from dp_accounting.rdp import RdpAccountant

from jobs.federated.config import Privacy, Spent


def epsilon(spent: list[Spent], delta: float) -> float:
    """Of all releases together (Mironov 2017); 0 for none."""
    accountant = RdpAccountant()
    for each in spent:
        if each.rounds:
            release = dp_event.GaussianDpEvent(each.noise_multiplier)
            accountant.compose(release, each.rounds)
    return accountant.get_epsilon(delta) if any(each.rounds for each in spent) else 0.0


def rounds_left(spent: list[Spent], privacy: Privacy, most: int) -> int:
    """How many rounds, `most` at most, the tenant can take part in within its budget."""
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        more = [*spent, Spent(noise_multiplier=privacy.noise_multiplier, rounds=middle)]
        low, high = (middle, high) if _fits(more, privacy) else (low, middle - 1)
    return low


def _fits(spent: list[Spent], privacy: Privacy) -> bool:
    return epsilon(spent, privacy.delta) <= privacy.max_epsilon
