"""Calls to SkyPilot's API server that outlive it, and one clear error for what it raises."""

import contextlib
import functools
import importlib
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import psutil

from infra.errors import LaunchError, NoCapacity

log = logging.getLogger("nightshift")

CALL_ATTEMPTS = 5


class SkyPilotError(LaunchError):
    """What SkyPilot raised without a cause that we know."""


def record(place: str) -> Any:
    """SkyPilot's record of a machine, refreshed from the provider; None if there is none."""
    found = call(lambda sky: sky.status([place], refresh=sky.StatusRefreshMode.FORCE))
    return found[0] if found else None


def launch_requests(place: str | None = None) -> list[Any]:
    """Requests to launch that SkyPilot's API server knows of, the newest first."""
    sky = sdk()
    with quietly():
        found = sky.api_status(all_status=place is not None, cluster_name=place)
    launches = [one for one in found if one.name == "sky.launch"]
    return sorted(launches, key=lambda one: one.created_at, reverse=True)


def being_launched() -> list[str]:
    return [one.cluster_name for one in launch_requests() if one.cluster_name]


def is_being_launched(place: str) -> bool:
    return place in being_launched()


def cancel_launches(place: str) -> None:
    """`sky.down` does so too, but only once there is a record of the machine."""
    waiting = [one.request_id for one in launch_requests() if one.cluster_name == place]
    if waiting:
        call(lambda sky: sky.api_cancel(waiting, silent=True))


def setup_log(place: str) -> str:
    """The last lines of a setup that failed; they are lost with the machine."""
    stream = _Lines()
    with contextlib.suppress(Exception), quietly():
        sdk().tail_logs(place, None, follow=False, tail=25, output_stream=stream)
    return "the job environment could not be made on the node:\n" + "".join(stream.lines)[-2000:]


class _Lines:
    """What `tail_logs` writes to."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def write(self, text: str) -> None:
        self.lines.append(text)

    def flush(self) -> None: ...


def call(request: Callable[[Any], Any]) -> Any:
    """Send a request to SkyPilot's API server and wait for its value."""
    sky = sdk()
    with quietly():
        return send(lambda: sky.get(request(sky)))


def send(call: Callable[[], Any]) -> Any:
    """Call the API server, again where it was away: a local one is started anew meanwhile."""
    problem: Exception | None = None
    for attempt in range(CALL_ATTEMPTS):
        try:
            with quietly():
                return call()
        except disconnections() as error:
            if "exited unexpectedly" in str(error):
                end_orphans()
            elif not _is_disconnection(error):
                raise
            problem = error
        time.sleep(1 + attempt)
    raise LaunchError(
        f"SkyPilot's API server does not answer: {problem}",
        "`sky api start` starts it, `sky api info` shows where it should be.",
    )


@functools.cache
def disconnections() -> tuple[type[Exception], ...]:
    import requests

    return (requests.ConnectionError, requests.Timeout, RuntimeError)


def _is_disconnection(error: Exception) -> bool:
    kinds = {kind.__name__ for kind in type(error).__mro__}
    return bool(kinds & {"ConnectionError", "Timeout", "ApiServerConnectionError"})


def end_orphans() -> None:
    """End what a killed API server left: it holds the port of its queue, so that none can start.

    Its processes are of its session, whose leader is dead.
    """
    queue = importlib.import_module("sky.server.requests.queues.mp_queue")
    port = queue.get_queue_manager_port()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.ppid() != 1 or process.uids().real != os.getuid():
                continue
            ports = {one.laddr.port for one in process.net_connections("tcp") if one.laddr}
            session = os.getsid(process.pid)
            if port in ports and not _lives(session):
                log.warning("ending what a killed SkyPilot API server left")
                os.killpg(session, signal.SIGKILL)
                return


def _lives(pid: int) -> bool:
    """A child of ours that was killed is there as a zombie until it is waited for."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


def explain(error: BaseException) -> LaunchError:
    """One clear error for what SkyPilot raised."""
    if isinstance(error, LaunchError):
        return error
    said = " ".join(str(error).split())[:600] or type(error).__name__
    match type(error).__name__:
        case "NoCloudAccessError":
            return LaunchError(
                "SkyPilot has no cloud enabled", "Set one up: `sky check` says what is missing."
            )
        case "ResourcesUnavailableError" | "ProvisionPrechecksError":
            return NoCapacity(
                f"the machine is not to be had: {said}",
                "Raise the quota there, ask for other resources, or try later.",
            )
        case "InvalidCloudCredentials" | "InvalidCloudConfigs" | "CloudUserIdentityError":
            return LaunchError(
                f"the cloud does not accept the credentials: {said}",
                "Log in again; `sky check` tells whether it worked.",
            )
        case "UserRequestRejectedByPolicy":
            return LaunchError(f"the admin policy refused the launch: {said}")
        case "ConnectionError" | "FileNotFoundError" if "catalog" in said.lower():
            return LaunchError(
                f"SkyPilot's price catalogue cannot be fetched: {said}",
                "Let this machine reach it once, or put it into ~/.sky/catalogs by hand.",
            )
        case kind:
            return SkyPilotError(f"SkyPilot: {kind}: {said}", "`sky api logs` has the whole story.")


def sdk() -> Any:
    """SkyPilot's SDK; it takes seconds to import, so only where it is used."""
    os.environ.setdefault("SKYPILOT_DISABLE_USAGE_COLLECTION", "1")
    return importlib.import_module("sky")


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """SkyPilot prints for people who use it; our standard output belongs to our caller."""
    logger = logging.getLogger("sky")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        logger.setLevel(before)
