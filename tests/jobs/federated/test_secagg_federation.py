"""One real federation with secure aggregation: what its server got, and what came of it.

One tenant's update is too large, one's node fails when it has shared its keys.
"""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Message, RecordDict
from flwr.common.secure_aggregation.secaggplus_constants import Stage
from scipy.stats import chisquare, kstest

from jobs.federated import client, model, secagg, server, tables, train
from jobs.federated.config import FederatedConfig
from jobs.federated.model import Weights
from jobs.federated.state import State
from jobs.runtime import Job
from tests.jobs.federated.conftest import FEATURES, traces_of, write_tenant

pytestmark = pytest.mark.timeout(600)
GOOD = ("calm", "dull", "even")
NAMES = (*GOOD, "huge", "torn")
ROUNDS, HIDDEN = 2, 64


@dataclass
class Met:
    """The finished job, each tenant's rows as written, the bytes that nodes sent, and the masked
    vectors and all other bytes as the server got them."""

    job: Job[FederatedConfig]
    log: list[dict[str, Any]]
    rows: dict[str, np.ndarray]
    sent: list[bytes]
    masked: list[bytes]
    got: list[bytes]


def bytes_of(content: RecordDict) -> bytes:
    """All of a message."""
    said = [content.deflate(), repr(content).encode()]
    for record in content.config_records.values():
        for value in record.values():
            said += [v for v in (value if isinstance(value, list) else [value]) if type(v) is bytes]
    for record in content.array_records.values():
        said += [array.data for array in record.values()]
    return b"".join(said)


@pytest.fixture(scope="module")
def met(
    tmp_path_factory: pytest.TempPathFactory,
    make_config: Callable[..., dict[str, Any]],
    make_job: Callable[[dict[str, Any]], Job],
) -> Iterator[Met]:
    folder, boundary = tmp_path_factory.mktemp("tenants"), tmp_path_factory.mktemp("boundary")
    rows = {name: write_tenant(folder / name, number) for number, name in enumerate(NAMES)}
    told = {"secure_aggregation": True, "minimum_tenants": 3, "rounds": ROUNDS, "hidden": HIDDEN}
    job = make_job(make_config(folder, rounds=told))
    answer, send, fit = client._answer, server.Federation._send, model.fit

    def write(kind: str, said: bytes) -> None:
        (boundary / f"{kind}-{time.monotonic_ns()}").write_bytes(said)

    def spoilt(message: Message, context: Any, work: Any) -> Message:
        """In the process of one node's app: what it sends is written down."""
        name = Path(str(context.node_config["folder"])).resolve().name
        if name == "huge":
            model.fit = lambda *a, **k: {n: 1000 * v for n, v in fit(*a, **k).items()}
        stage = message.content.config_records.get(secagg.RECORD, {}).get("stage")
        if name == "torn" and stage == Stage.COLLECT_MASKED_VECTORS:
            raise RuntimeError("out of memory")
        reply = answer(message, context, work)
        write("sent", bytes_of(reply.content))
        return reply

    def seen(self: Any, kind: str, number: int, contents: Any) -> list[Message]:
        """In the server's process: what it gets is written down."""
        replies = send(self, kind, number, contents)
        for reply in replies:
            if not reply.has_error():
                found = reply.content.config_records.get(secagg.RECORD, {})
                if "masked" in found:
                    write("masked", found["masked"])
                write("got", bytes_of(reply.content))
        return replies

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(client, "_answer", spoilt)
        patch.setattr(server.Federation, "_send", seen)
        outcome = train.program(job)
    log = [json.loads(line) for line in outcome.artifacts["rounds"].read_text().splitlines()]
    kinds = [
        [path.read_bytes() for path in boundary.glob(f"{kind}-*")]
        for kind in ("sent", "masked", "got")
    ]
    yield Met(job, log, rows, *kinds)


def weights_after(met: Met, number: int) -> Weights:
    if number == 0:
        return model.initial(len(FEATURES), HIDDEN, met.job.config.seed)
    return State.read(met.job.folder / "checkpoints" / f"step-{number:08}").weights


def updates_of(met: Met, number: int) -> dict[str, tuple[Weights, float]]:
    """What each good tenant would have sent in a round without secure aggregation."""
    sent, found = weights_after(met, number - 1), {}
    for name in GOOD:
        data = tables.load(met.job.config, Path(met.job.config.tenants) / name)
        content = RecordDict({"arrays": client.record_of(sent)})
        answered = client.improve(content, number, tables.learner(met.job.config, "", data))
        rows: Any = answered.metric_records["metrics"]["num-examples"]
        found[name] = client.weights_of(answered, "arrays"), rows
    return found


@pytest.mark.parametrize("number", range(1, ROUNDS + 1))
def test_the_aggregate_is_the_plain_one(met: Met, number: int) -> None:
    updates = updates_of(met, number).values()
    for name, value in weights_after(met, number).items():
        plain = np.average([w[name] for w, _ in updates], 0, [rows for _, rows in updates])
        assert np.abs(value - plain).max() <= met.job.config.quantisation_step + 1e-12


def test_who_drops_out_is_named(met: Met) -> None:
    assert [row["took_part"] for row in met.log] == [sorted(GOOD)] * ROUNDS
    for row in met.log:
        assert "its update has a norm of" in row["left_out"]["huge"]
        assert "its node failed" in row["left_out"]["torn"]
        assert list(row["counts"]) == [server.TOGETHER], "no tenant's own counts"


def test_what_the_server_gets_of_one_tenant_is_uniform(met: Met) -> None:
    assert len(met.masked) == ROUNDS * len(GOOD)
    for masked in met.masked:
        assert kstest(np.frombuffer(masked, "<u8") / 2.0**64, "uniform").pvalue > 1e-6
    counted = np.bincount(np.frombuffer(b"".join(met.masked), np.uint8), minlength=256)
    assert chisquare(counted).pvalue > 1e-6


def test_no_update_reaches_the_server(met: Met) -> None:
    """Neither as floats nor as levels of the quantisation, times the tenant's rows or not."""
    got = b"".join(met.got)
    assert len(met.got) > 4 * ROUNDS * len(GOOD) and b"mask" in got
    for number in range(1, ROUNDS + 1):
        sent = weights_after(met, number - 1)
        for weights, rows in updates_of(met, number).values():
            counts = {"num-examples": rows, "right": 0, "held-out": 0}
            vector = secagg.pack(sent, weights, counts, met.job.config)
            assert (
                vector[:2].tobytes() not in got and (vector // int(rows))[:2].tobytes() not in got
            )
            for name, value in weights.items():
                if name != "b1":  # the own intercept is as it was sent
                    assert value.ravel()[:1].tobytes() not in got, name
                    assert (value - sent[name]).ravel()[:1].tobytes() not in got, name


def test_no_value_of_a_row_leaves_a_node(met: Met) -> None:
    everything, traces = b"".join(met.sent), traces_of(met.rows.values())
    assert len(traces) > 500 and len(everything) > 50_000
    assert not [trace for trace in traces if trace in everything]
