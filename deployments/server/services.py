"""What `nightshift up` runs, `status` shows and `down` ends.

Every service lives under `infra.keeper`: it is started once however many `up` there are, started
anew when it crashes, and ended when the last `up` has gone, however that went. So there is no pid
file that could be stale: an `up` is there while it holds the lock on its file in HOME/up.
"""

import contextlib
import fcntl
import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn
from urllib.error import HTTPError

import httpx

from deployments.webhooks.gateway import Gateway
from infra import database, keeper
from infra.errors import NightshiftError, ServiceUnavailable
from infra.inert import visible
from infra.keeper import Service
from infra.services import prefect_server
from infra.services.prefect_server import POOL
from infra.serving.client import Client
from infra.settings import REPOSITORY, settings

NAME = f"nightshift@{platform.node()}"
"""A Prefect server may have workers of several machines."""
DEPLOY_SECONDS = 400
END_SECONDS = 180.0
"""For all services of an `up`, one after the other."""


def online_workers() -> list[str]:
    """Names of those that take runs of the pool, on any machine. Raises OSError."""
    workers = prefect_server.ask(f"work_pools/{POOL}/workers/filter", {})
    return [one["name"] for one in workers if one["status"] == "ONLINE"]


class Worker:
    """A Prefect worker of the work pool `local`: runs the flows of deployments on this machine.

    It is killed: ended by another signal, it would end its runs too, which are to go on.
    """

    death_signal = signal.SIGKILL
    end_seconds = 10.0
    error = ServiceUnavailable

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "prefect", "--no-prompt", "worker", "start"]
            + ["--pool", POOL, "--type", "process", "--name", NAME]
            + ["--limit", str(max(2, os.cpu_count() or 2))],
            stdin=subprocess.DEVNULL,
            preexec_fn=keeper.die_with_parent(self.death_signal),
            cwd=REPOSITORY,
            env=os.environ
            # Killed, it counts as online until three beats are missing.
            | {"PREFECT_WORKER_QUERY_SECONDS": "1", "PREFECT_WORKER_HEARTBEAT_SECONDS": "5"}
            # Prefect gives the extra logger `nightshift` its handlers, but no level.
            | {"PREFECT_LOGGING_ROOT_LEVEL": "INFO"},
        )

    def address(self) -> dict[str, str] | None:
        try:
            return {"pool": POOL} if NAME in online_workers() else None
        except OSError:
            return None


class Bridge:
    """`nightshift mqtt run`, where a broker is set."""

    death_signal = signal.SIGTERM
    end_seconds = 10.0
    error = ServiceUnavailable

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "deployments.cli", "mqtt", "run"],
            stdin=subprocess.DEVNULL,
            preexec_fn=keeper.die_with_parent(self.death_signal),
            env=os.environ | {"PREFECT_CLIENT_MAX_RETRIES": "0"},
        )

    def address(self) -> dict[str, str] | None:
        """At once: an `up` does not wait for a broker, the bridge does."""
        return {"url": settings().mqtt_broker or ""}


class Live:
    """`nightshift serve policy` of a model in NIGHTSHIFT_SERVED_MODELS, which its folder is named
    after; their ports follow each other in the order of that setting."""

    death_signal = signal.SIGTERM
    end_seconds = 70.0  # answers under way have 60
    error = ServiceUnavailable

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        given = settings()
        self.port = given.serving_port + given.served_models.index(folder.name)

    def start(self) -> subprocess.Popen[bytes]:
        words = ["serve", "policy", "--name", self.folder.name, "--port", str(self.port), "--wait"]
        return subprocess.Popen(
            [sys.executable, "-m", "deployments.cli", *words],
            stdin=subprocess.DEVNULL,
            preexec_fn=keeper.die_with_parent(self.death_signal),
        )

    def address(self) -> dict[str, str] | None:
        """At once: an `up` does not wait for a champion, the endpoint does."""
        return {"url": f"http://127.0.0.1:{self.port}/v1"}

    def version(self) -> str:
        """Which version answers, or where to read why none does."""
        try:
            with contextlib.closing(Client(self.folder.name).http) as http:
                return f"version {http.get('/readyz').json()['live']['version']}"
        except (ServiceUnavailable, httpx.HTTPError, TypeError):
            return f"no answer yet, see {self.folder / 'log.txt'}"


def services() -> dict[str, Service]:
    """What `up` runs here, in the order in which it starts."""
    home = settings().home
    own: dict[str, Service] = {}
    if settings().database_url is None:
        own["PostgreSQL"] = database.embedded()
    server = prefect_server.own()
    if os.environ.get("PREFECT_API_URL") in (None, keeper.address(server).get("api")):
        own["Prefect"] = server
    own |= {"worker": Worker(home / "worker"), "gateway": Gateway(home / "gateway")}
    if settings().mqtt_broker is not None:
        own["MQTT bridge"] = Bridge(home / "mqtt")
    return own | live()


def live() -> dict[str, Live]:
    """The endpoints that `up` runs."""
    folder = settings().home / "endpoints"
    return {f"model {name}": Live(folder / name) for name in settings().served_models}


def start_all() -> dict[str, Any]:
    """Start everything, deployments and automations too; the addresses.

    Raises ServiceUnavailable.
    """
    database.pool()
    ui = prefect_server.ensure()
    running = services()
    try:
        prefect_server.ask("work_pools/", {"name": POOL, "type": "process"})
    except OSError as error:
        if not (isinstance(error, HTTPError) and error.code == 409):  # it is there
            raise prefect_server.unanswered(error) from None
    deploying = subprocess.Popen(
        [sys.executable, "-m", "deployments.server.deploy"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        address = keeper.use(running["gateway"])["url"]
        keeper.use(running["worker"])
        if bridge := running.get("MQTT bridge"):
            keeper.use(bridge)
        served = {one.folder.name: keeper.use(one)["url"] for one in live().values()}
        _, said = deploying.communicate(timeout=DEPLOY_SECONDS)
    except subprocess.TimeoutExpired:
        raise ServiceUnavailable(
            f"the Prefect server did not take the deployments within {DEPLOY_SECONDS} s",
            f"Read {settings().home / 'prefect' / 'log.txt'}, then `nightshift up` again.",
        ) from None
    finally:
        if deploying.poll() is None:
            deploying.terminate()
            deploying.communicate()
    if deploying.returncode:
        raise ServiceUnavailable(
            f"the deployments cannot be made: {said.strip()[-800:]}",
            "Mend prefect.yaml, then `nightshift up` again.",
        )
    sys.stderr.write(visible(said))
    told: dict[str, Any] = {"ui": ui, "gateway": f"{address}/hooks/", "home": str(settings().home)}
    if served:
        told["models"] = served
    if prefect_server.is_own():
        told["password_file"] = str(prefect_server.own().password_file)
    return told


def watch() -> NoReturn:
    """Start anew what has lost its keeper, until a signal ends this process."""
    started = services()
    while True:
        time.sleep(1)
        for name, service in started.items():
            if keeper.is_kept(service):
                continue
            try:
                keeper.use(service)
            except NightshiftError as error:
                sys.stderr.write(visible(f"{name} was killed, and does not start again: {error}\n"))


def end_all() -> None:
    """End the gateway and the worker first, so that they can still tell the server."""
    database.close()
    for service in reversed(list(services().values())):
        keeper.release(service)
        keeper.wait_for_end(service)


def status() -> list[dict[str, Any]]:
    """Each service, whether it runs, and where."""
    rows = []
    for name, service in services().items():
        told = keeper.address(service)
        where = told.get("ui") or told.get("url") or told.get("host") or told.get("pool") or ""
        if told and isinstance(service, Live):
            where = f"{where}, {service.version()}"
        rows.append({"service": name, "running": bool(told), "where": where})
    return rows


@contextlib.contextmanager
def holding() -> Iterator[None]:
    """Be known as an `up`: a file named by the process, locked for as long as it lives."""
    file = settings().home / "up" / f"{os.getpid()}.lock"
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            yield
        finally:
            file.unlink(missing_ok=True)


def present() -> list[Path]:
    """The files of every living `up` of this home folder."""
    living = []
    for file in (settings().home / "up").glob("*.lock"):
        if keeper.is_locked(file):
            living.append(file)
        else:
            file.unlink(missing_ok=True)  # its process was killed
    return living


def end_others() -> int:
    """End every `up` of this home folder and wait; how many there were."""
    ended = 0
    for file in present():
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(file.stem), signal.SIGTERM)
        ended += 1
        deadline = time.monotonic() + END_SECONDS
        while file.exists() and keeper.is_locked(file):
            if time.monotonic() > deadline:
                raise ServiceUnavailable(f"process {file.stem} does not end", "Kill it.")
            time.sleep(0.05)
    return ended


def detach() -> dict[str, Any]:
    """Start an `up` that outlives this process; its addresses once it has them."""
    log = settings().home / "up" / "log.txt"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "deployments.cli", "up", "--json"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            start_new_session=True,
            text=True,
        )
    keeper.outlives(process)
    assert process.stdout is not None
    told = json.loads(process.stdout.readline() or "{}")
    process.stdout.close()
    if "ui" not in told:
        raise ServiceUnavailable(
            told.get("message", "`nightshift up` ended"), told.get("remedy") or f"Read {log}."
        )
    return told
