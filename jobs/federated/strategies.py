"""Flower's strategies: only their arithmetic is used, the rounds are `server`'s."""

from typing import Any

import numpy as np
from flwr.app import Message
from flwr.serverapp import strategy as flower

from jobs.federated.client import record_of
from jobs.federated.config import FederatedConfig
from jobs.federated.model import Weights

MOMENTS = ("m_t", "v_t")
"""What the adaptive strategies remember from round to round."""


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
            return flower.FedTrimmedAvg(beta=0.2 if len(config.names) >= 5 else 0.34)
        case "krum":
            return flower.Krum(num_malicious_nodes=1)


def aggregate(
    chosen: Any, config: FederatedConfig, number: int, sent: Weights, replies: list[Message]
) -> Weights:
    """The next global model, of screened replies; clipped and with noise where that is asked for.

    With noise all tenants weigh alike: the sensitivity of the mean is the clipping norm over their
    number (McMahan 2018, Flower's server-side fixed clipping).
    """
    privacy = config.privacy
    if not config.rounds.weighted or privacy.noise_multiplier:
        for reply in replies:
            reply.content.metric_records["metrics"]["num-examples"] = 1.0
    chosen.current_arrays = dict(sent)
    if privacy.noise_multiplier:
        private = flower.DifferentialPrivacyServerSideFixedClipping(
            chosen, privacy.noise_multiplier, privacy.clipping_norm, len(replies)
        )
        private.current_arrays = record_of(sent)
        arrays, _ = private.aggregate_train(number, replies)
    else:
        arrays, _ = chosen.aggregate_train(number, replies)
    assert arrays is not None, "there were replies"
    return {name: np.asarray(arrays[name].numpy(), value.dtype) for name, value in sent.items()}
