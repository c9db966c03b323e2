"""Flower's strategies: only their arithmetic is used, the rounds are `server`'s.

Its wrappers for differential privacy are not used: noise comes after the strategy there, so that it
is too small for all but a mean; adaptive clipping moves away from the quantile (its sign), and
takes the next round's norm for this round's noise.
"""

from typing import Any

import numpy as np
from flwr.app import Message
from flwr.serverapp import strategy as flower

from jobs.federated.client import record_of, weights_of
from jobs.federated.config import FederatedConfig
from jobs.federated.model import Weights

MOMENTS = ("m_t", "v_t", "clipping")
"""What adaptive strategies, and adaptive clipping, remember from round to round."""
CLIPPING_RATE = 0.2
"""Of the norm's steps (Andrew 2021, section 3.1)."""
MORE_NOISE = 1.05
"""On the sum, with adaptive clipping."""
COUNT_NOISE = 1 / (2 * (1 - MORE_NOISE**-2) ** 0.5)
"""Deviation on the count of updates that are not clipped, over the noise multiplier, so that both
together cost the latter: 1 = 1 / MORE_NOISE² + 1 / (2 × COUNT_NOISE)². Andrew's own, a twentieth of
the tenants, leaves none for the sum where they are few."""


def make(config: FederatedConfig) -> Any:
    """The strategy that the config names."""
    rounds = config.rounds
    rate = rounds.server_rate
    match rounds.strategy:
        case "fedavg":
            return flower.FedAvg()
        case "fedprox":
            return flower.FedProx(proximal_mu=rounds.proximal)
        case "fedadam":
            return flower.FedAdam(eta=rate)
        case "fedyogi":
            return flower.FedYogi(eta=rate)
        case "fedadagrad":
            return flower.FedAdagrad(eta=rate)
        case "median":
            return flower.FedMedian()
        case "trimmed-mean":
            return flower.FedTrimmedAvg()
        case "krum":
            return flower.Krum(num_malicious_nodes=1)


def aggregate(
    chosen: Any,
    config: FederatedConfig,
    number: int,
    sent: Weights,
    replies: list[Message],
    random: np.random.Generator | None = None,
) -> Weights:
    """The next global model, of screened replies; with privacy of tenants of their noisy mean.

    `random` draws the noise: by default from the system, since forks share numpy's own state, and
    noise that is used twice can be subtracted.
    """
    if config.privacy.of_tenants:
        moved = private_mean(chosen, config, sent, replies, random or np.random.default_rng())
        replies[0].content["arrays"] = record_of({name: sent[name] + moved[name] for name in sent})
        replies = replies[:1]
    if not config.rounds.weighted:
        for reply in replies:
            reply.content.metric_records["metrics"]["num-examples"] = 1.0
    if config.rounds.strategy == "trimmed-mean":
        chosen.beta = 0.2 if len(replies) >= 5 else 0.34  # of three and four it takes one, too
    chosen.current_arrays = dict(sent)
    arrays, _ = chosen.aggregate_train(number, replies)
    assert arrays is not None, "there were replies"
    return {name: np.asarray(arrays[name].numpy(), value.dtype) for name, value in sent.items()}


def private_mean(
    chosen: Any,
    config: FederatedConfig,
    sent: Weights,
    replies: list[Message],
    random: np.random.Generator,
) -> Weights:
    """The mean of the updates, each clipped, with noise; what a strategy makes of it costs nothing.

    All tenants weigh alike: one moves the sum by the clipping norm at most (McMahan 2018). With
    adaptive clipping the norm of the next round is nearer to the median of the updates' norms
    (Andrew 2021, algorithm 1), and `chosen` remembers it. Noise on how many are not clipped, whose
    sensitivity is 1/2, and noise on the sum together cost what the multiplier says (theorem 1).
    """
    privacy, count = config.privacy, len(replies)
    norm, multiplier = clipping_norm(chosen, config), privacy.noise_multiplier
    updates = [weights_of(reply.content, "arrays") for reply in replies]
    flat = np.stack([np.concatenate([(u[n] - sent[n]).ravel() for n in sent]) for u in updates])
    norms = np.linalg.norm(flat, axis=1)
    clipped = flat * np.minimum(1, norm / np.maximum(norms, 1e-300))[:, None]
    if privacy.adaptive_clipping:
        fits = np.sum(norms <= norm) - count / 2 + random.normal(0, COUNT_NOISE * multiplier)
        share = float(np.clip(fits / count + 0.5, 0, 1))
        chosen.clipping = {"norm": np.array(norm * np.exp(CLIPPING_RATE * (0.5 - share)))}
        multiplier *= MORE_NOISE
    mean = clipped.mean(0) + random.normal(0, multiplier * norm / count, flat.shape[1])
    parts = np.split(mean, np.cumsum([value.size for value in sent.values()])[:-1])
    return {
        name: part.reshape(value.shape).astype(value.dtype)
        for (name, value), part in zip(sent.items(), parts, strict=True)
    }


def clipping_norm(chosen: Any, config: FederatedConfig) -> float:
    """Of the next round."""
    remembered: Weights | None = getattr(chosen, "clipping", None)
    return float(remembered["norm"]) if remembered else config.privacy.clipping_norm
