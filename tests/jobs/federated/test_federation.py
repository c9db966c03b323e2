"""One real federation, with TLS and node keys, that is killed and has hostile and broken tenants.

Everything that it met in its three rounds is looked at by the tests below.
"""

import base64
import json
import os
import shutil
import signal
import ssl
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
from flwr.app import Message, RecordDict

from infra.errors import InputError
from jobs.federated import client, federation, train
from jobs.federated.config import DATA
from jobs.federated.federation import LocalFederation
from jobs.federated.keys import make_node_key
from jobs.federated.processes import LOOK, end, fork, supernode
from jobs.federated.state import State
from jobs.runtime import Interrupted, Job, Outcome
from tests.jobs.federated.conftest import FEATURES, traces_of, write_tenant

pytestmark = pytest.mark.timeout(900)
GOOD = ("calm", "dull", "even")
ODD = {
    "huge": "above the bound of 10",
    "lacking": "the column pulse is missing",
    "onesided": "all rows are of one class",
    "slow": "no answer in time",
    "torn": "its node failed",
}
ROUNDS = 3


@dataclass
class Met:
    """The finished job, its rows, which values each tenant has, and what was seen on the way."""

    job: Job
    outcome: Outcome
    values: dict[str, np.ndarray]
    sent: list[bytes]
    stranger: int
    door: int
    killed: list[str]

    @property
    def log(self) -> list[dict[str, Any]]:
        return rows_of(self.outcome.artifacts["rounds"])


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def make_tenants(folder: Path) -> dict[str, np.ndarray]:
    """Good and odd tenants; what the good ones have written."""
    names = [*GOOD, *(name for name in ODD if name != "slow")]
    written = {name: write_tenant(folder / name, number) for number, name in enumerate(names)}
    (folder / "slow").mkdir()
    os.mkfifo(folder / "slow" / DATA)  # nobody ever writes into it
    table = folder / "lacking" / DATA
    table.write_text(table.read_text().replace("pulse", "beat", 1))
    (folder / "onesided" / DATA).write_text(
        ",".join([*FEATURES, "label"]) + "\n" + "1,2,3,4,1\n" * 40
    )
    return {name: written[name] for name in GOOD}


def spoil(content: RecordDict, name: str) -> None:
    """What a node of that name sends instead of its update."""
    if name == "torn":
        raise RuntimeError("out of memory")
    if name == "huge":
        weights = client.weights_of(content, "arrays")
        content["arrays"] = client.record_of({key: 1000 * each for key, each in weights.items()})


@pytest.fixture(scope="module")
def met(
    tmp_path_factory: pytest.TempPathFactory,
    make_config: Callable[..., dict[str, Any]],
    make_job: Callable[[dict[str, Any]], Job],
) -> Iterator[Met]:
    folder = tmp_path_factory.mktemp("tenants")
    values = make_tenants(folder)
    told = make_config(folder, rounds={"rounds": ROUNDS, "round_seconds": 30})
    job = make_job(told)
    boundary = tmp_path_factory.mktemp("sent")
    killed: list[str] = []
    strangers: list[int] = []
    doors: list[int] = []
    answer, look = client._answer, LocalFederation.look

    def recorded(message: Message, context: Any, work: Any) -> Message:
        """What leaves the app of a node, written down, and spoilt where the tenant is hostile."""
        reply = answer(message, context, work)
        name = Path(str(context.node_config["folder"])).resolve().name
        if "arrays" in reply.content.array_records:
            spoil(reply.content, name)
        said = reply.content.deflate() + repr(reply.content).encode()
        for array in reply.content.array_records.values():
            said += b"".join(value.data for value in array.values())
        (boundary / f"{name}-{time.monotonic_ns()}").write_bytes(said)
        return reply

    def killing(self: LocalFederation, run: int) -> dict[str, float]:
        """The SuperLink is killed after round 1, a node's processes after round 2. Who was slow in
        round 1 is not any more."""
        saved = job.latest_checkpoint()
        done = saved[0] if saved else 0
        if done >= 1 and not killed:
            strangers.append(knock(self))
            doors.append(ask_without_token(self))
            os.kill(self.server[0], signal.SIGKILL)
            killed.append("superlink")
            shutil.rmtree(folder / "slow")
            write_tenant(folder / "slow", 1)
        elif done >= 2 and killed == ["superlink"]:
            for pid in self.nodes["dull"]:
                os.kill(pid, signal.SIGKILL)
            killed.append("node")
        return look(self, run)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(client, "_answer", recorded)
        patch.setattr(LocalFederation, "look", killing)
        outcome = train.program(job)
    sent = [path.read_bytes() for path in boundary.iterdir()]
    yield Met(job, outcome, values, sent, strangers[0], doors[0], killed)


def test_no_two_nodes_get_one_port() -> None:
    """Nor one that the kernel gives to a connection before the node listens on it."""
    ports = [federation.free_port() for _ in range(200)]
    connections = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert len(set(ports)) == len(ports) and max(ports) < connections


def test_many_nodes_of_one_machine_look_less_often() -> None:
    """Together, that is: what one of four waits for a message is not longer."""
    waits = {nodes: float(federation.pace_of(nodes)[LOOK]) for nodes in (1, 4, 16, 50, 200)}
    assert waits[1] == waits[4] == waits[16] == 1
    assert 50 / waits[50] == 200 / waits[200] == 16


def knock(one: LocalFederation) -> int:
    """The exit code of a SuperNode whose key nobody has registered."""
    make_node_key(one.folder / "stranger")
    arguments = [
        *federation.listen(f"127.0.0.1:{federation.free_port()}", one.tls, one.folder),
        *("--superlink", one.address, "--root-certificates", str(one.folder / "ca.pem")),
        *("--auth-supernode-private-key", str(one.folder / "stranger"), "--isolation", "process"),
    ]
    pid = fork(supernode, arguments, environment=federation.pace_of(1))
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.2)
    end([pid])
    return 0


def ask_without_token(one: LocalFederation) -> int:
    """The status of an answer to a stranger who wants to start a run."""
    context = ssl.create_default_context(cafile=str(one.folder / "ca.pem"))
    address = f"https://{one.address}/v1/control/start-run"
    return httpx.post(address, content=b"", verify=context).status_code


def test_the_good_train_and_the_odd_are_named(met: Met) -> None:
    assert [row["round"] for row in met.log] == [1, 2, 3]
    first = met.log[0]
    assert first["took_part"] == sorted(GOOD)
    for name, reason in ODD.items():
        assert reason in first["left_out"][name], first["left_out"]
    weights = State.read(met.job.folder / "checkpoints" / "step-00000003").weights
    norm = np.sqrt(sum((value**2).sum() for value in weights.values()))
    assert 0.1 < norm < 10, "nothing poisoned was aggregated"


def test_it_outlives_its_superlink_and_a_node(met: Met) -> None:
    assert met.killed == ["superlink", "node"]
    assert met.outcome.metrics["rounds"] == ROUNDS
    assert all(len(row["took_part"]) >= 2 for row in met.log)


def test_a_slow_tenant_is_not_waited_for_in_every_round_and_comes_back(met: Met) -> None:
    assert met.log[0]["left_out"]["slow"] == "no answer in time"
    assert "asked again in round 3" in met.log[1]["left_out"]["slow"]
    assert "slow" in met.log[2]["took_part"]


def test_the_tenants_judge_by_counts(met: Met) -> None:
    rows = {row["tenant"]: row for row in rows_of(met.outcome.artifacts["evaluation"])}
    judged = {name for name, row in rows.items() if "refused" not in row}
    assert set(GOOD) - {"dull"} <= judged and "lacking" not in judged
    row = rows["calm"]
    assert row["candidate-right"] - row["local-right"] == row["local-won"] - row["local-lost"]
    assert row["candidate-auc"] > 0.8


def test_no_value_of_a_row_leaves_a_node(met: Met) -> None:
    everything, traces = b"".join(met.sent), traces_of(met.values.values())
    assert len(traces) > 500 and len(met.sent) > 10 and b"num-examples" in everything
    assert not [trace for trace in traces if trace in everything]
    assert not [trace for trace in traces if base64.b64encode(trace)[:10] in everything]


def test_a_node_with_another_key_is_refused(met: Met) -> None:
    assert met.stranger > 0


def test_a_stranger_can_start_nothing(met: Met) -> None:
    assert met.door == 401


def test_nothing_runs_any_more(met: Met) -> None:
    children = [p for p in psutil.Process().children() if p.status() != psutil.STATUS_ZOMBIE]
    assert not children


def test_only_its_user_reads_the_keys(met: Met) -> None:
    folder = met.job.scratch / "federation"
    assert {path.name: path.stat().st_mode & 0o077 for path in folder.rglob("*key")} == {
        "server.key": 0,
        "key": 0,
    }


def test_too_few_tenants_end_the_run_with_their_reasons(
    tmp_path: Path, make_config: Callable[..., dict], make_job: Callable[[dict], Job]
) -> None:
    """No federation is needed for it: nobody of two can read their data."""
    write_tenant(tmp_path / "one", 1)
    (tmp_path / "two").mkdir()
    job = make_job(make_config(tmp_path, rounds={"round_seconds": 30}))
    with pytest.raises(InputError) as error:
        train.program(job)
    assert "1 tenants took part, 2 are needed" in error.value.message
    assert "two: its node refuses: data.csv cannot be read" in error.value.message
    assert "--minimum-tenants" in error.value.remedy


def test_it_stops_when_it_is_told(
    tmp_path: Path, make_config: Callable[..., dict], make_job: Callable[[dict], Job]
) -> None:
    for number, name in enumerate("ab"):
        write_tenant(tmp_path / name, number)
    job = make_job(make_config(tmp_path))
    job.stopping = True
    with pytest.raises(Interrupted):
        train.program(job)
    assert not [p for p in psutil.Process().children() if p.status() != psutil.STATUS_ZOMBIE]
