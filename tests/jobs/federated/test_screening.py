"""What a hostile or broken tenant may send, and that nothing of it is aggregated."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict

from jobs.federated import strategies
from jobs.federated.client import judged_counts, record_of
from jobs.federated.config import FederatedConfig
from jobs.federated.model import initial
from jobs.federated.screening import fault, screen

pytestmark = pytest.mark.usefixtures("as_node")
SENT = initial(3, 2, 0)
UPDATE = {name: value + 0.01 for name, value in SENT.items()}
COUNTS = {"num-examples": 20.0, "right": 7.0, "held-out": 10.0, "loss": 0.6}


def reply(node: int, **told: Any) -> Message:
    """A tenant's answer in round 4; `told` replaces records of it."""
    asked = Message(RecordDict(), dst_node_id=node, message_type="train")
    records = {
        "arrays": record_of(UPDATE),
        "metrics": MetricRecord(COUNTS),
        "echo": ConfigRecord({"round": 4}),
    } | told
    content = RecordDict({name: value for name, value in records.items() if value is not None})
    answer = Message(content, reply_to=asked)
    answer.metadata.__dict__["_src_node_id"] = node
    return answer


def changed(change: Callable[[np.ndarray], np.ndarray]) -> ArrayRecord:
    return record_of({name: change(value) for name, value in UPDATE.items()})


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        ({"arrays": changed(lambda v: v * np.nan)}, "no finite numbers|not finite"),
        ({"arrays": changed(lambda v: v * np.inf)}, "not finite"),
        ({"arrays": changed(lambda v: v + 1000 * 0.01)}, "above the bound of 1"),
        ({"arrays": changed(lambda v: np.vstack([v, v]))}, "another version"),
        ({"arrays": changed(lambda v: v.astype(complex))}, "not finite"),
        ({"arrays": record_of({"w0": SENT["w0"]})}, "another version"),
        ({"arrays": None}, "cannot be read"),
        ({"arrays": ArrayRecord({"w0": Array("float64", (2,), "numpy.ndarray", b"x")})}, "be read"),
        ({"metrics": None}, "missing"),
        ({"metrics": MetricRecord(COUNTS | {"loss": float("nan")})}, "no finite numbers"),
        ({"metrics": MetricRecord(COUNTS | {"num-examples": 0.0})}, "has no rows"),
        ({"metrics": MetricRecord(COUNTS | {"num-examples": -5.0})}, "has no rows"),
        ({"metrics": MetricRecord(COUNTS | {"right": 11.0})}, "contradict"),
        ({"metrics": MetricRecord({"held-out": 10.0})}, "missing"),
        ({"echo": ConfigRecord({"round": 3})}, "another round"),
        ({"echo": None}, "another round"),
        ({"refusal": ConfigRecord({"reason": "no \x1b[31m rows"})}, "its node refuses: no "),
    ],
)
def test_a_tenant_is_refused_by_name(told: dict[str, Any], reason: str) -> None:
    good, refused = screen([reply(1), reply(2, **told)], {1: "fine", 2: "odd"}, 4, SENT, 1.0)
    assert list(good) == ["fine"] and list(refused) == ["odd"]
    assert any(part in refused["odd"] for part in reason.split("|")), refused
    assert "\x1b" not in refused["odd"]


def test_a_node_that_failed_is_told() -> None:
    asked = Message(RecordDict(), dst_node_id=1, message_type="train")
    failed = Message(Error(code=1, reason="out of memory"), reply_to=asked)
    failed.metadata.__dict__["_src_node_id"] = 1
    assert screen([failed], {1: "odd"}, 4, SENT, 1.0)[1] == {
        "odd": "its node failed: out of memory"
    }


def test_more_than_was_asked_for_is_dropped() -> None:
    """Flower's strategies stop for all where one answer has other records than the rest."""
    more = {"more": record_of(UPDATE), "metrics": MetricRecord(COUNTS | {"extra": 1.0})}
    swapped = {"arrays": record_of(dict(reversed(UPDATE.items())))}
    replies = [reply(1), reply(2, **more), reply(3, **swapped)]
    good, refused = screen(replies, {1: "a", 2: "b", 3: "c"}, 4, SENT, 1.0)
    assert not refused
    config = make_config("fedavg")
    found = strategies.aggregate(strategies.make(config), config, 4, SENT, list(good.values()))
    assert all(found[name] == pytest.approx(UPDATE[name]) for name in SENT)


def make_config(strategy: str, noise: float = 0.0, **privacy: object) -> FederatedConfig:
    return FederatedConfig.model_validate(
        {
            "tenants": "",
            "names": list("abcde"),
            "features": list("xyz"),
            "label": "label",
            "seed": 0,
            "centralised": False,
            "rounds": {"strategy": strategy, "hidden": 2},
            "privacy": {"noise_multiplier": noise, "clipping_norm": 0.05} | privacy,
            "spent": {},
        }
    )


STRATEGIES = ["fedavg", "fedprox", "fedadam", "fedyogi", "fedadagrad", "median", "krum"]


@pytest.mark.parametrize("strategy", [*STRATEGIES, "trimmed-mean"])
def test_every_strategy_moves_towards_the_tenants(strategy: str) -> None:
    config = make_config(strategy)
    found = strategies.aggregate(
        strategies.make(config), config, 1, SENT, [reply(node) for node in range(1, 6)]
    )
    assert all((found[name] > SENT[name]).all() for name in SENT)


@pytest.mark.parametrize("answers", [3, 4, 5])
@pytest.mark.parametrize("strategy", ["median", "trimmed-mean", "krum"])
def test_a_robust_strategy_bears_a_flipped_sign(strategy: str, answers: int) -> None:
    """However many of five tenants answer."""
    flipped = record_of({name: value - 0.01 for name, value in SENT.items()})
    replies = [reply(1, arrays=flipped), *(reply(node) for node in range(2, answers + 1))]
    config = make_config(strategy)
    found = strategies.aggregate(strategies.make(config), config, 1, SENT, replies)
    assert all(found[name] == pytest.approx(UPDATE[name]) for name in SENT)


def test_noise_has_the_deviation_that_the_accountant_is_told() -> None:
    """Updates are clipped to 0.05, five tenants weigh alike, whatever they say of their rows."""
    config = make_config("fedavg", noise=2.0)
    drawn = []
    for _ in range(300):
        replies = [reply(node) for node in range(1, 6)]
        replies[0].content.metric_records["metrics"]["num-examples"] = 1e9
        found = strategies.aggregate(strategies.make(config), config, 1, SENT, replies)
        drawn.append(np.concatenate([(found[n] - SENT[n]).ravel() for n in SENT]))
    values = np.array(drawn)
    norm = np.sqrt(sum((0.01**2) * value.size for value in SENT.values()))
    step = 0.01 * min(1, 0.05 / norm)
    assert values.mean() == pytest.approx(step, abs=0.002)
    assert values.std() == pytest.approx(2.0 * 0.05 / 5, rel=0.05)


@pytest.mark.parametrize("group", ["", "kind"])
def test_a_judgement_that_lacks_a_count_is_refused(
    tmp_path: Path, make_config: Callable[..., dict[str, Any]], group: str
) -> None:
    """The gate and the report read all of them."""
    config = FederatedConfig.model_validate(make_config(tmp_path, group=group))
    names = judged_counts(config, ["candidate", "local"])
    counts = dict.fromkeys(names, 3.0)
    assert fault(reply(1, metrics=MetricRecord(counts)), 4, names) is None
    for name in names:
        rest = {other: value for other, value in counts.items() if other != name}
        assert "missing" in str(fault(reply(1, metrics=MetricRecord(rest)), 4, names)), name
    for name in {"candidate-right", "groups"} & set(names):
        told = reply(1, metrics=MetricRecord(counts | {name: 4.0}))
        assert "contradict" in str(fault(told, 4, names)), name
