"""A federation's processes: a SuperLink, and one SuperNode for each tenant, with TLS and node keys.
Here all of them are on this machine, on loopback. Each is a process of its own, and each app of
theirs, too.
"""

import contextlib
import hashlib
import itertools
import secrets
import socket
import time
from pathlib import Path

import httpx
from flwr.cli.build import build_fab_from_files
from flwr.common.serde import fab_to_proto, user_config_to_proto
from flwr.proto.control_pb2 import ListRunsRequest, RegisterNodeRequest, StartRunRequest
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.fab import Fab
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
from flwr.supercore.protobuf.client import ProtobufCall, ProtobufRequestContext

from jobs.federated.keys import (
    AUTHORITY,
    CERTIFICATE,
    KEY,
    LOOPBACK,
    make_certificates,
    make_node_key,
    write_private,
)
from jobs.federated.processes import (
    EXECUTOR_LOOK,
    LOOK,
    TOKEN,
    TOKEN_HEADER,
    end,
    ended,
    fork,
    superexec,
    superlink,
    supernode,
)

START_SECONDS = 120
LOOK_SECONDS, LOOKS_A_SECOND = 1.0, 16
"""How often a node looks for messages, and all nodes of one machine together at most: fifty that
look every second keep a third of two cores busy with that."""
NODE_KEY, DATA_FOLDER = "key", "tenant"
"""In the folder of a node: its private key, and a link to the tenant's data."""
APP = {
    "pyproject.toml": b"""[project]
name = "nightshift-federated"
version = "1.0.0"
license = "Apache-2.0"
dependencies = []

[tool.flwr.app]
publisher = "nightshift"

[tool.flwr.app.components]
serverapp = "jobs.federated.server:app"
clientapp = "jobs.federated.client:app"

[tool.flwr.app.config]
job = ""
""",
    "README.md": b"The apps are modules of the job's own package.\n",
}
"""Flower's bundle of an app: it only names modules, which lie here already."""

PORTS = range(20_000, 32_768)
"""Below Linux's own for connections."""
_drawn = itertools.count(secrets.randbelow(len(PORTS)))


class Broken(Exception):
    """The SuperLink or the ServerApp has died; a new federation may go on."""


class Shown:
    """Shows the token to the SuperLink's Control API."""

    def __init__(self, token: str) -> None:
        self.token = token

    def intercept(self, context: ProtobufRequestContext, call_next: ProtobufCall) -> httpx.Response:
        """Add it to a request."""
        context.request.headers[TOKEN_HEADER] = self.token
        return call_next(context)


class SuperLink:
    """The processes of a federation's server, below `folder`, at `address`. `tls` has its
    certificates; `names` are the tenants that it knows by the number of their node."""

    program = staticmethod(superlink)

    def __init__(self, folder: Path, address: str, tls: Path) -> None:
        self.folder, self.address, self.tls = folder, address, tls
        write_private(folder / "secret", secrets.token_bytes(32))
        self.server: list[int] = []
        self.names: dict[int, str] = {}
        self.token = secrets.token_urlsafe(32)
        self.control = ControlHttpClient.from_server_address(
            self.address,
            insecure=False,
            root_certificates=(tls / AUTHORITY).read_bytes(),
            interceptors=[
                RuntimeVersionHttpInterceptor(component_name="flwr CLI"),
                Shown(self.token),
            ],
        )

    def start(self) -> None:
        """Start it, and wait until it answers. Raises Broken."""
        log, environment = self._log("superlink"), {TOKEN: self.token}
        self.server = [
            fork(self.program, self._superlink(), log, environment),
            # the rounds are in the job's log
            fork(superexec, executor(self.address, self.tls, self.folder)),
        ]
        self._wait_for_superlink()

    def register(self, public_key: bytes) -> int:
        """Let the node with that key in; its number."""
        return self.control.RegisterNode(RegisterNodeRequest(public_key=public_key)).node_id

    def run(self, job: Path) -> int:
        """Submit the app for the job in that folder; the number of the run."""
        content = build_fab_from_files(APP)[0]
        fab = Fab(hashlib.sha256(content).hexdigest(), content, {})
        request = StartRunRequest(
            fab=fab_to_proto(fab), override_config=user_config_to_proto({"job": str(job)})
        )
        return self.control.StartRun(request).run_id

    def look(self, run: int) -> dict[str, float]:
        """Bytes that were moved so far.

        Raises Broken where the SuperLink has died or the run has ended in failure.
        """
        if any(ended(pid) for pid in self.server):
            raise Broken("the SuperLink has died")
        found = self.control.ListRuns(ListRunsRequest(run_id=run)).run_dict[run]
        if found.status.sub_status in ("failed", "stopped"):
            raise Broken(f"the ServerApp has ended: {found.status.details}")
        return {"bytes_to_tenants": found.bytes_sent, "bytes_from_tenants": found.bytes_recv}

    def stop(self) -> None:
        """End all processes."""
        self.control.close()
        end(self.server)

    def _superlink(self) -> list[str]:
        options = ["--isolation", "process", "--enable-supernode-auth"]
        options += ["--disable-runtime-dependency-installation"]
        return [*listen(self.address, self.tls, self.folder), *options]

    def _log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def _wait_for_superlink(self) -> None:
        end_at = time.monotonic() + START_SECONDS
        host, port = self.address.split(":")
        while time.monotonic() < end_at and not any(ended(pid) for pid in self.server):
            try:
                socket.create_connection((host, int(port)), 1).close()
                return
            except OSError:
                time.sleep(0.1)
        raise Broken(f"the SuperLink has not started: see {self._log('superlink')}")


class LocalFederation(SuperLink):
    """A SuperLink and a SuperNode for each of `tenants`, which has their folders by name; `base` is
    the language model that they train on."""

    def __init__(self, folder: Path, tenants: dict[str, Path], base: str) -> None:
        make_certificates(folder)
        super().__init__(folder, f"{LOOPBACK}:{free_port()}", folder)
        self.tenants, self.base, self.pace = tenants, base, pace_of(len(tenants))
        self.nodes: dict[str, list[int]] = {}

    def start(self) -> None:
        """Start everything."""
        super().start()
        for number, name in enumerate(self.tenants):
            place = self.folder / f"node-{number}"
            place.mkdir()
            self.names[self.register(make_node_key(place / NODE_KEY))] = name
            (place / DATA_FOLDER).symlink_to(self.tenants[name])
        for name in self.tenants:  # only now: many that start leave the SuperLink no time to answer
            self._start_node(name)

    def look(self, run: int) -> dict[str, float]:
        """As a SuperLink's. Nodes that have died are started again."""
        moved = super().look(run)
        for name, pids in list(self.nodes.items()):
            if any(ended(pid) for pid in pids):
                end(pids)
                self._start_node(name)
        return moved

    def stop(self) -> None:
        """End all processes."""
        super().stop()
        end([pid for pids in self.nodes.values() for pid in pids])

    def _start_node(self, name: str) -> None:
        place = self.folder / f"node-{list(self.tenants).index(name)}"
        authority = self.tls / AUTHORITY
        self.nodes[name] = start_node(
            place, self.address, authority, self.folder, self.base, pace=self.pace
        )


def start_node(
    place: Path,
    superlink: str,
    authority: Path,
    tls: Path,
    base: str = "",
    identity: str | None = None,
    pace: dict[str, str] | None = None,
    only_sums: bool = False,
) -> list[int]:
    """A tenant's SuperNode and what starts its apps: their process ids.

    `place` holds its key, a link to its data, its home and its log: it is told of its own folder
    only. `authority` signs for the address `superlink`; `tls` has certificates and the secret for
    the node's own apps, on loopback. `base`: where a language model lies; `identity`: its sha256
    or hub id, of a tenant's own copy, which may be another one than the run's. `pace`: how often it
    looks for messages, by default that of a node which has its machine for itself. `only_sums`: it
    trains with secure aggregation only.
    """
    address = f"{LOOPBACK}:{free_port()}"
    log = place / "node.log"
    told = {"FLWR_HOME": str(place / "home")} | (pace or pace_of(1))
    own = "" if identity is None else f' identity="{identity}"'
    own += " only_sums=true" if only_sums else ""
    arguments = [
        *listen(address, tls, tls),
        *("--superlink", superlink, "--root-certificates", str(authority)),
        *("--auth-supernode-private-key", str(place / NODE_KEY), "--isolation", "process"),
        *("--node-config", f'folder="{place / DATA_FOLDER}" base="{base}"{own}'),
    ]
    return [
        fork(supernode, arguments, log, told),
        fork(superexec, executor(address, tls, tls), log, told),
    ]


def pace_of(nodes: int) -> dict[str, str]:
    """For the environment of each of so many nodes on one machine: how often it looks."""
    seconds = max(LOOK_SECONDS, nodes / LOOKS_A_SECOND)
    return {LOOK: str(seconds), EXECUTOR_LOOK: str(seconds / 2)}


def listen(address: str, tls: Path, folder: Path) -> list[str]:
    """Where a SuperLink or SuperNode answers, with its certificates and what its apps must know."""
    host, port = address.split(":")
    files = {"certfile": CERTIFICATE, "keyfile": KEY, "ca-certfile": AUTHORITY}
    options = ["--host", host, "--port", port]
    for option, file in files.items():
        options += [f"--ssl-{option}", str(tls / file)]
    return [*options, "--superexec-auth-secret-file", str(folder / "secret")]


def executor(address: str, tls: Path, folder: Path) -> list[str]:
    """What starts apps, for who answers at that address."""
    return [
        *("--runtime-api-address", address),
        *("--root-certificates", str(tls / AUTHORITY)),
        *("--superexec-auth-secret-file", str(folder / "secret")),
    ]


def free_port() -> int:
    """Of loopback, another one each time, since who gets it listens only later. The kernel gives
    none of these to connections, which would take it meanwhile. Raises Broken."""
    for _ in range(len(PORTS)):
        port = PORTS[next(_drawn) % len(PORTS)]
        with socket.socket() as free, contextlib.suppress(OSError):
            free.bind((LOOPBACK, port))
            return port
    raise Broken(f"no port from {PORTS[0]} to {PORTS[-1]} is free")
