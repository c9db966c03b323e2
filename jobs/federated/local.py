"""What tenants do alike whose models torch trains."""

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from jobs.federated.config import Rounds
from jobs.federated.model import Weights


def add_proximal(trained: Sequence[nn.Parameter], begun: Sequence[Tensor], rounds: Rounds) -> None:
    """With fedprox, add to the gradients the pull to what the local steps began with (Li 2020)."""
    if rounds.strategy != "fedprox":
        return
    for parameter, before in zip(trained, begun, strict=True):
        assert parameter.grad is not None
        parameter.grad += rounds.proximal * (parameter.detach() - before)


def improve_alone(
    improve: Callable[[Weights, int], Weights], weights: Weights, rounds: int
) -> Weights:
    """What one tenant learns by itself in so many rounds, which `improve` does."""
    for number in range(1, rounds + 1):
        weights = improve(weights, number)
    return weights
