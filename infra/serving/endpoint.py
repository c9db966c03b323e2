"""A live endpoint: keeps the champion of one model served, and its answers stored.

Once a second it looks which version is champion, which API keys are valid, and whether a rollout
gives a challenger its share, and tells the serving process what is new. While the database is away
the champion stays as it is, no challenger gets a request, and what is answered stays in the spool.
"""

import fcntl
import logging
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
from psycopg_pool import PoolTimeout

from infra import database
from infra.compute import environments
from infra.errors import NightshiftError, ServiceUnavailable
from infra.models import registry
from infra.models.registry import ModelVersion
from infra.records import rollouts
from infra.serving import keys, spool
from infra.serving.process import ENVIRONMENT, Process
from infra.serving.secret import rollout_hashes
from infra.serving.version import fetched, wanted
from infra.settings import settings

log = logging.getLogger("nightshift")

LOOK_SECONDS = 1.0
START_ATTEMPTS = 3
"""How often a process that dies before it served anything is started."""
SPOOL_BYTES = 1_000_000_000
REQUEST_BYTES = 4_000_000
REQUEST_SECONDS = 300.0
HOST = "127.0.0.1"
NO_CANARY: dict[str, Any] = {"canary": None, "share": 0.0}


def live_folder(name: str) -> Path:
    """What the endpoint of a model keeps on this disk."""
    return settings().home / "live" / name


def address_file(name: str) -> Path:
    """Holds the endpoint's URL while it runs."""
    return live_folder(name) / "address"


class Endpoint:
    """The champion of a model, or the version that NAME@VERSION names, on `port` of this machine;
    `tell` gets what a person wants to know. Only the champion's takes part in rollouts."""

    def __init__(
        self, reference: str, port: int, kv_cache_mb: int, tell: Callable[[str], None]
    ) -> None:
        self.reference, self.tell = reference, tell
        self.name = name = reference.partition("@")[0]
        self.folder = live_folder(reference)
        self.log = self.folder / "log.txt"
        self.spool = self.folder / "spool"
        self.stopping = threading.Event()
        self.address = f"http://{HOST}:{port}"
        self.config = {
            "name": name,
            "port": port,
            "spool": str(self.spool),
            "spool_bytes": SPOOL_BYTES,
            "kv_cache_bytes": kv_cache_mb * 2**20,
            "request_bytes": REQUEST_BYTES,
            "request_seconds": REQUEST_SECONDS,
        }
        self.failures = 0
        self.unusable: tuple[str, str] | None = None
        """Version and checksum of a champion that cannot be fetched."""

    def prepare(self) -> None:
        """Fetch what is to be served, and have the environment for it.

        Raises InputError without a champion, ServiceUnavailable for a port in use,
        EnvironmentBuildError, and the errors of `objects.get`.
        """
        require_free(self.config["port"])
        version = wanted(self.reference)
        self.order: dict[str, Any] = {"live": fetched(version)} | NO_CANARY | self._keys()
        environments.ensure(ENVIRONMENT)
        self.spool.mkdir(parents=True, exist_ok=True)

    def run(self) -> None:
        """Serve until `stopping` is set. Raises ServiceUnavailable for a model that cannot be, or
        that another process serves."""
        with (self.folder / "lock").open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ServiceUnavailable(
                    f"{self.reference} is served by another process of this home folder",
                    "End that one: Ctrl-C where it runs, or `nightshift down`.",
                ) from None
            self._run()

    def _run(self) -> None:
        delivering = threading.Thread(target=self._deliver)
        delivering.start()
        address_file(self.reference).write_text(self.address)
        try:
            while not self.stopping.is_set():
                self._serve()
        finally:
            address_file(self.reference).unlink(missing_ok=True)
            self.stopping.set()
            delivering.join()
            self._deliver_once()

    def _serve(self) -> None:
        """One life of the serving process."""
        self.tell(f"Starting version {self.order['live']['version']}; its log is {self.log}.")
        offline = self.order["live"]["base"][:1] == "/"
        process = Process(self.config, offline, self.log)
        try:
            process.order(self.order)
            waiting, served = True, False
            while not self.stopping.wait(0.1 if waiting else LOOK_SECONDS):
                if not process.is_alive():
                    self._died(served)
                    return
                for state in process.states():
                    waiting = False
                    self._heard(state, served)
                    served = True
                if not waiting and (order := self._wanted()) != self.order:
                    self.order, waiting = order, True
                    process.order(order)
        finally:
            process.end()

    def _heard(self, state: dict[str, Any], served: bool) -> None:
        live, refused = state["live"], state["refused"]
        if refused is None:
            self.failures = 0
            self.tell(f"{self.name} version {live['version']} answers at {self.address}/v1")
            if state["canary"]:
                self.tell(f"version {state['canary']['version']} gets {state['share']:.0%} of all")
        elif live is not None and refused == self.order["canary"]:  # it is not ordered again
            self.tell(f"! version {refused['version']} is not served: {state['error']}")
        elif served:
            self.tell(f"! version {refused['version']} is not served: {state['error']}")
            self.order = self.order | {"live": live or self.order["live"]}
            self.unusable = refused["version"], refused["sha256"]
        else:
            raise ServiceUnavailable(
                f"version {refused['version']} of {self.name} cannot be served: {state['error']}",
                f"Read {self.log}; `nightshift models rollback {self.name}` goes back.",
            )

    def _died(self, served: bool) -> None:
        self.failures = 0 if served else self.failures + 1
        if self.failures >= START_ATTEMPTS:
            said = self.log.read_text(errors="replace").strip().splitlines()[-3:]
            raise ServiceUnavailable(
                f"the serving process ends while it starts: {' | '.join(said)}", f"Read {self.log}."
            )
        self.tell("! the serving process has died, and is started anew")

    def _wanted(self) -> dict[str, Any]:
        """What is to be served now; as before where that cannot be known or fetched."""
        try:
            version = wanted(self.reference)
            same = (version.version, version.sha256)
            live = self.order["live"]
            canary = self._canary(version)
            if same not in ((live["version"], live["sha256"]), self.unusable):
                self.unusable = same
                live = fetched(version)
                self.unusable = None
            return {"live": live} | canary | self._keys()
        except NightshiftError as error:
            log.warning("the champion stays as it is: %s", error.message)
        except Exception as error:  # MLflow's and SQLAlchemy's too, while the database is away
            log.warning("the champion stays as it is: %s", error)
        return self.order | NO_CANARY

    def _canary(self, version: ModelVersion) -> dict[str, Any]:
        """The challenger beside the champion `version`, and its share."""
        pinned = self.reference != self.name
        split = None if pinned else rollouts.split(database.pool(), self.name, version.version)
        if split is None:
            return NO_CANARY
        challenger, share = split
        canary = self.order["canary"]
        if canary is None or canary["version"] != challenger:
            canary = fetched(registry.named(f"{self.name}@{challenger}"))
        return {"canary": canary, "share": share}

    def _keys(self) -> dict[str, Any]:
        valid = keys.valid(database.pool())
        return valid | {"keys": valid["keys"] | rollout_hashes()}

    def _deliver(self) -> None:
        while not self.stopping.wait(LOOK_SECONDS):
            self._deliver_once()

    def _deliver_once(self) -> None:
        try:
            spool.deliver(database.pool(), self.spool)
        except (psycopg.OperationalError, PoolTimeout, NightshiftError) as error:
            log.warning("the database is away, interactions wait in %s: %s", self.spool, error)
        except Exception:  # they must not wait for ever because of one surprise
            log.exception("interactions wait in %s", self.spool)


def require_free(port: int) -> None:
    """Raises ServiceUnavailable where something answers on it: Ray would share it in silence."""
    try:
        with socket.create_server((HOST, port)):
            pass
    except OSError as error:
        raise ServiceUnavailable(f"port {port}: {error.strerror}", "Give another --port.") from None
