"""Encoders: each tenant's items, which a small network makes unit vectors of (metric learning).

Items of one group shall lie near each other, those of others far: the supervised contrastive loss
(Khosla et al. 2020), by pytorch-metric-learning. Groups are compared within a tenant only, so that
their names mean nothing elsewhere. A held-out item asks for its neighbours among all other items of
its tenant: it is right where the nearest is of its group (recall@1).
"""

from dataclasses import fields
from pathlib import Path

import numpy as np
import torch
import torch._dynamo  # the first optimiser does, for a second: here it is once for all forks
from pytorch_metric_learning.losses import SupConLoss
from torch import Tensor, nn
from torch.nn import functional

from jobs.federated import items, local
from jobs.federated.config import DATA, FederatedConfig
from jobs.federated.items import Items
from jobs.federated.model import Matrix, Weights
from jobs.federated.tables import base_of, champion, write
from jobs.runtime import Job

__all__ = ["base_of", "begin", "champion", "learner", "load", "together", "write"]
LEARNING_RATE = 0.01
TEMPERATURE = 0.1
MOST_AT_ONCE = 512
"""Items in one local step."""
FEWEST_OF_A_GROUP = 4
"""Items in a step, where not all of a tenant fit in it and the group has as many."""
NEIGHBOURS = 5


class EncoderLearner:
    """One tenant with its items."""

    def __init__(self, config: FederatedConfig, data: Items) -> None:
        self.config = config
        self.x, self.held_out = _tensor(data.train_x), _tensor(data.held_out_x)
        names = np.concatenate([data.train_groups, data.held_out_groups])
        numbers = torch.from_numpy(np.unique(names, return_inverse=True)[1])
        self.numbers, self.held_out_numbers = numbers.split([len(self.x), len(self.held_out)])
        self.queries = torch.from_numpy(np.flatnonzero(items.answerable(data)))
        self.loss = SupConLoss(temperature=TEMPERATURE)

    @property
    def rows(self) -> int:
        return len(self.x)

    @property
    def groups(self) -> Matrix:
        """Queries of a group look for the same items."""
        return np.unique(self.held_out_numbers[self.queries].numpy(), return_inverse=True)[1]

    def improve(self, weights: Weights, number: int) -> Weights:
        """By AdamW, which begins anew in each round; items are drawn by the seed and the round."""
        rounds, network = self.config.rounds, _network(self.config)
        _put(network, weights)
        trained = list(network.parameters())
        begun = [parameter.detach().clone() for parameter in trained]
        rate = rounds.learning_rate or LEARNING_RATE
        optimiser = torch.optim.AdamW(trained, rate, weight_decay=rounds.decay)
        random = np.random.default_rng([self.config.seed, number])
        for _ in range(rounds.local_steps):
            drawn = draw(self.numbers.numpy(), random)
            optimiser.zero_grad()
            self.loss(_encoded(network, self.x[drawn]), self.numbers[drawn]).backward()
            local.add_proximal(trained, begun, rounds)
            optimiser.step()
        return _weights_of(network)

    @torch.no_grad()
    def judge(self, weights: Weights) -> tuple[Matrix, dict[str, float]]:
        """By query whether the nearest other item is of its group; `recall5` is the share of those
        of whose group one of the nearest five is, `loss` that of held-out items among themselves.
        """
        network = _network(self.config)
        _put(network, weights)
        found = _encoded(network, torch.cat([self.x, self.held_out]))
        held_out, numbers = found[len(self.x) :], torch.cat([self.numbers, self.held_out_numbers])
        losses = [
            float(self.loss(vectors, own)) * len(own)
            for vectors, own in zip(
                held_out.split(MOST_AT_ONCE), self.held_out_numbers.split(MOST_AT_ONCE), strict=True
            )
        ]
        hits = torch.cat(
            [alike(found, numbers, part + len(self.x)) for part in self.queries.split(MOST_AT_ONCE)]
        )
        scores = {
            "loss": sum(losses) / len(self.held_out),
            "recall5": float(hits.any(1).float().mean()),
        }
        return hits[:, 0].numpy(), scores

    def alone(self) -> Weights:
        return local.improve_alone(self.improve, initial(self.config), self.config.rounds.rounds)


def draw(numbers: Matrix, random: np.random.Generator) -> Matrix:
    """Indices of the items of one step: all where they fit; else of as many groups as fit, whose
    `numbers` the items have, several items of each."""
    if len(numbers) <= MOST_AT_ONCE:
        return np.arange(len(numbers))
    groups, places = np.unique(numbers, return_inverse=True)
    most = max(FEWEST_OF_A_GROUP, MOST_AT_ONCE // len(groups))
    mixed = random.permutation(len(numbers))
    mixed = mixed[np.argsort(random.permutation(len(groups))[places[mixed]], kind="stable")]
    begins = np.unique(places[mixed], return_index=True)[1]
    rank = np.arange(len(mixed)) - begins[places[mixed]]
    return mixed[rank < most][:MOST_AT_ONCE]


def alike(found: Tensor, numbers: Tensor, queries: Tensor) -> Tensor:
    """Queries × neighbours: which of the nearest others, by cosine, are of the query's group."""
    near = found[queries] @ found.T
    near[torch.arange(len(queries)), queries] = -torch.inf
    nearest = near.topk(min(NEIGHBOURS, len(found) - 1)).indices
    return numbers[nearest] == numbers[queries][:, None]


def initial(config: FederatedConfig) -> Weights:
    """New weights, by the seed."""
    torch.manual_seed(config.seed)
    return _weights_of(_network(config))


def begin(job: Job[FederatedConfig]) -> Weights:
    """The champion's weights, or new ones."""
    return champion(job) or initial(job.config)


def load(config: FederatedConfig, folder: Path) -> Items:
    """A tenant's items. Raises InputError."""
    return items.load(folder / DATA, config.features, config.group, config.ranges)


def together(data: list[Items]) -> Items:
    """The items of all; groups of one name are one."""
    return Items(*(np.concatenate([getattr(each, f.name) for each in data]) for f in fields(Items)))


def learner(config: FederatedConfig, _base: str, data: Items) -> EncoderLearner:
    """Who learns from them."""
    return EncoderLearner(config, data)


def _network(config: FederatedConfig) -> nn.Sequential:
    inputs, hidden, outputs = (
        len(config.features),
        config.rounds.hidden,
        config.encoders.dimensions,
    )
    if not hidden:
        return nn.Sequential(nn.Linear(inputs, outputs))
    return nn.Sequential(nn.Linear(inputs, hidden), nn.Tanh(), nn.Linear(hidden, outputs))


def _encoded(network: nn.Module, x: Tensor) -> Tensor:
    return functional.normalize(network(x))


def _weights_of(network: nn.Module) -> Weights:
    return {name: value.numpy().copy() for name, value in network.state_dict().items()}


def _put(network: nn.Module, weights: Weights) -> None:
    network.load_state_dict({name: _tensor(value) for name, value in weights.items()})


def _tensor(values: Matrix) -> Tensor:
    return torch.from_numpy(values.astype(np.float32))
