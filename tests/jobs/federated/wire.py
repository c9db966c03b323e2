"""The two sides of secure aggregation in one process, with nothing but the network left out."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.common.secure_aggregation.crypto.shamir import combine_shares
from flwr.common.secure_aggregation.secaggplus_constants import Stage
from flwr.supercore.task_identity import TaskIdentity

from infra.errors import InputError
from jobs.federated import secagg, secagg_client
from jobs.federated.config import FederatedConfig
from jobs.federated.secagg_server import Attempt

NAMES = ["ant", "bee", "cat", "dog", "elk"]


def become_a_node(patch: pytest.MonkeyPatch) -> None:
    for name in ("task_id", "run_id", "node_id"):
        patch.setattr(TaskIdentity, f"_{name}", 1)


def config(weighted: bool = True, noise: float = 0.0, norm: float = 10.0) -> FederatedConfig:
    rounds = {"secure_aggregation": True, "minimum_tenants": 3, "norm_bound": norm}
    told = {"tenants": "", "names": NAMES, "features": list("xyz"), "label": "label", "seed": 0}
    return FederatedConfig.model_validate(
        told
        | {"centralised": False, "spent": {}, "rounds": rounds | {"weighted": weighted}}
        | {"privacy": {"noise_multiplier": noise, "clipping_norm": 0.05}}
    )


@dataclass
class Wire:
    """What lies between the two sides: what went over it, and who is cut off at which stage; where
    its answer is `late`, it is on the wire all the same. `lie` changes what a tenant is told."""

    vectors: dict[str, Callable[[], np.ndarray]]
    cut: dict[str, str] = field(default_factory=dict)
    late: bool = False
    change: Callable[[str, str, Any], Any] | None = None
    lie: Callable[[str, str, Any], Any] | None = None
    asked: dict[str, bytes] = field(default_factory=dict)
    states: dict[str, ConfigRecord] = field(default_factory=dict)
    said: list[tuple[str, str, Any]] = field(default_factory=list)

    def ask(
        self, stage: str, told: dict[str, ConfigRecord]
    ) -> tuple[dict[str, Message], dict[str, str]]:
        answers, reasons = {}, {}
        for name, each in told.items():
            state = self.states.setdefault(name, ConfigRecord())
            if self.cut.get(name) == stage:
                reasons[name] = "no answer in time"
                if not self.late:
                    continue
            heard = self.lie(name, stage, each) if self.lie else each
            asked = self.asked.get(name, b"the same for all")
            try:
                said: Any = secagg_client.answer(state, heard, self.vectors[name], asked)
            except InputError as error:
                reasons[name] = error.message
                continue
            self.said.append((name, stage, dict(said)))
            if name in reasons:
                continue
            message = Message(RecordDict(), dst_node_id=1, message_type="train")
            content = RecordDict({secagg.RECORD: self.sent(name, stage, said)})
            answers[name] = Message(content, reply_to=message)
        return answers, reasons

    def sent(self, name: str, stage: str, said: Any) -> Any:
        return self.change(name, stage, said) if self.change else said

    def sum(self, length: int, fewest: int = 3) -> tuple[np.ndarray, set[str], Attempt]:
        attempt = Attempt(self.ask, list(self.vectors), fewest, length)
        total, good = attempt.sum()
        return total, set(good), attempt


def vectors(count: int = 5) -> dict[str, Callable[[], np.ndarray]]:
    """Of the first tenants: number n holds n + 1 everywhere."""
    return {name: partial(np.full, 9, n + 1, np.uint64) for n, name in enumerate(NAMES[:count])}


def secret_of(wire: Wire, place: int) -> bytes:
    """What all shares that were said of one tenant come to."""
    told = [said for _, stage, said in wire.said if stage == Stage.UNMASK]
    shares = [dict(zip(s["places"], s["shares"], strict=True)) for s in told]
    return combine_shares([each[place] for each in shares])


def vector_of(wire: Wire, name: str) -> np.ndarray:
    """As it was under its masks."""
    (found,) = [s["masked"] for n, _, s in wire.said if n == name and "masked" in s]
    return np.frombuffer(found, "<u8")
