"""Calls to SkyPilot's API server that outlive it, and one clear error for what it raises."""

import contextlib
import functools
import importlib
import io
import logging
import os
import platform
import signal
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil

from infra.errors import LaunchError, NoCapacity, ProviderUnavailable

log = logging.getLogger("nightshift")

READ_SECONDS = 30.0
"""How long one answer of SkyPilot's API server may take; SkyPilot itself waits for ever."""
SILENT_SECONDS = 60.0
"""How long the server may give no answer until a local one is ended, so that it starts anew."""
GIVE_UP_SECONDS = 180.0
REQUEST_SECONDS = 900.0
"""How long it may work at anything but a launch."""


class SkyPilotError(LaunchError):
    """What SkyPilot raised without a cause that we know."""


class RequestLost(ConnectionError):
    """The server that worked at a request is dead: nobody works at it any more."""


def record(place: str) -> Any:
    """SkyPilot's record of a machine, refreshed from the provider; None if there is none."""
    found = records([place])
    return found[0] if found else None


def records(places: list[str] | None = None) -> list[Any]:
    """SkyPilot's records of machines of all its users, refreshed from the provider."""
    return call(lambda sky: sky.status(places, refresh=sky.StatusRefreshMode.FORCE, all_users=True))


def server() -> str:
    """Which API server is asked: its address, or whose home folder on which host keeps its state.

    Only the server that was asked for a machine can tell by its absence that it is gone.
    """
    common = importlib.import_module("sky.server.common")
    if common.is_api_server_local():
        return f"{platform.node()}:{Path.home()}"
    return urlsplit(common.get_server_url()).netloc.rpartition("@")[2]


def launch_requests(place: str | None = None) -> list[Any]:
    """Requests to launch that SkyPilot's API server knows of, the newest first."""
    found = send(lambda: sdk().api_status(all_status=place is not None, cluster_name=place))
    launches = [one for one in found if one.name == "sky.launch"]
    return sorted(launches, key=lambda one: one.created_at, reverse=True)


def being_launched() -> list[str]:
    return [one.cluster_name for one in launch_requests() if one.cluster_name]


def is_being_launched(place: str) -> bool:
    return place in being_launched()


def was_launched(place: str) -> bool:
    """Whether SkyPilot ever made a machine of that name, as far as it remembers."""
    return any(one.status == "SUCCEEDED" for one in launch_requests(place))


def cancel_launches(place: str) -> None:
    """`sky.down` does so too, but only once there is a record of the machine."""
    waiting = [one.request_id for one in launch_requests() if one.cluster_name == place]
    if waiting:
        call(lambda sky: sky.api_cancel(waiting, silent=True))


def is_gone(place: str) -> bool:
    return record(place) is None and not is_being_launched(place)


def take_down(place: str) -> str | None:
    """Ask SkyPilot to take a machine down; why it could not. One it does not know is down."""
    try:
        cancel_launches(place)
        call(lambda sky: sky.down(place))
    except Exception as error:
        if type(error).__name__ != "ClusterDoesNotExist":
            return explain(error).message
    return None


def job_log(place: str) -> str:
    """The last lines of what ran on a machine; they are lost with it."""
    stream = _Lines()
    with contextlib.suppress(Exception), quietly():
        sdk().tail_logs(place, None, follow=False, tail=25, output_stream=stream)
    return "".join(stream.lines)[-2000:]


class _Lines:
    """What `tail_logs` writes to."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def write(self, text: str) -> None:
        self.lines.append(text)

    def flush(self) -> None: ...


def call(request: Callable[[Any], Any]) -> Any:
    """Send a request to SkyPilot's API server and wait for its value.

    Raises what the request raised, ProviderUnavailable where the server gives no answer, and
    LaunchError where it takes too long.
    """
    return send(lambda: _value(request(sdk())))


def _value(request_id: str) -> Any:
    deadline = time.monotonic() + REQUEST_SECONDS
    pause = 0.05
    while not _has_ended(request_id):
        if time.monotonic() > deadline:
            raise LaunchError(
                f"SkyPilot has worked at the request {request_id} for {REQUEST_SECONDS / 60:g} min",
                f"`sky api logs {request_id}` shows at what, `sky api cancel` ends it.",
            )
        time.sleep(pause)
        pause = min(1.0, 2 * pause)
    return sdk().get(request_id)


def _has_ended(request_id: str) -> bool:
    """`sky.get` would wait, and cannot tell a server that works at it from one that hangs."""
    found = sdk().api_status([request_id])
    if not found:
        raise RequestLost(f"SkyPilot's API server has died and lost the request {request_id}")
    return found[0].status in ("SUCCEEDED", "FAILED", "CANCELLED")


def wait_for_launch(request_id: str, until: datetime) -> None:
    """Until the launch has ended, which may take as long as its reservation lasts.

    Raises what it raised, RequestLost, and ProviderUnavailable where the server gives no answer.
    """
    while not send(lambda: _has_ended(request_id), _is_silence):
        if datetime.now(UTC) > until:
            raise LaunchError("the launch took longer than its reservation lasts")
        time.sleep(1)
    send(lambda: sdk().get(request_id))


def request_launch(place: str, request: Callable[[], str]) -> str:
    """Send the one request to launch `place`; it is not sent again once it may have arrived."""
    try:
        return send(request, _never_arrived)
    except disconnections() as error:
        if not _is_disconnection(error):
            raise
        known = launch_requests(place)
        if not known:
            raise RequestLost(f"whether the launch was asked for is not known: {error}") from error
        return known[0].request_id


def send(call: Callable[[], Any], repeats: Callable[[Exception], bool] | None = None) -> Any:
    """Call the API server, again where it was away: a local one is started anew meanwhile.

    A local one that hangs is ended first. `repeats` tells after which errors the call is made
    again; others are raised. ProviderUnavailable after GIVE_UP_SECONDS.
    """
    began = silent_since = time.monotonic()
    while True:
        try:
            with quietly():
                return call()
        except disconnections() as error:
            if not (repeats or _is_disconnection)(error):
                raise
            problem = error
        now = time.monotonic()
        if now - began >= GIVE_UP_SECONDS:
            raise ProviderUnavailable(
                f"SkyPilot's API server does not answer: {problem}",
                "`sky api info` shows where it should be; `sky api stop` and `sky api start` start "
                "a local one anew. The same command then goes on.",
            ) from problem
        if "exited unexpectedly" in str(problem):
            end_orphans()
        if now - silent_since >= SILENT_SECONDS:
            end_server()
            silent_since = time.monotonic()
        time.sleep(1)


@functools.cache
def disconnections() -> tuple[type[Exception], ...]:
    import requests

    return (ConnectionError, requests.RequestException, RuntimeError)


def _is_disconnection(error: Exception) -> bool:
    return _is_one_of(
        error, "ConnectionError", "Timeout", "ChunkedEncodingError"
    ) or _never_arrived(error)


def _is_silence(error: Exception) -> bool:
    return _is_disconnection(error) and not isinstance(error, RequestLost)


def _never_arrived(error: Exception) -> bool:
    """Whether a request was surely not received: there was no server to receive it."""
    said = str(error)
    return (
        _is_one_of(error, "ConnectTimeout", "ApiServerConnectionError")
        or "NewConnectionError" in said
        or "process exited unexpectedly" in said
        or "Failed to start SkyPilot API server" in said
    )


def _is_one_of(error: BaseException, *names: str) -> bool:
    return any(kind.__name__ in names for kind in type(error).__mro__)


def end_server() -> None:
    """End a local API server that hangs, as SIGKILL does; the next call starts another.

    One that takes no connections is starting, or dead.
    """
    import requests

    common = importlib.import_module("sky.server.common")
    if not common.is_api_server_local():
        return
    try:
        requests.get(f"{common.get_server_url()}/api/health", timeout=READ_SECONDS)
    except requests.Timeout:
        log.warning("SkyPilot's API server hangs; ending it")
        with quietly():
            sdk().api_stop()
        end_orphans()
    except requests.ConnectionError:
        return


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
    if isinstance(error, RequestLost):
        return LaunchError(str(error))
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
        case _ if "catalog" in said and _is_one_of(error, "RequestException", "FileNotFoundError"):
            return LaunchError(
                f"SkyPilot's price catalogue cannot be fetched: {said}",
                "Let this machine reach it once, or put it into ~/.sky/catalogs by hand.",
            )
        case kind:
            return SkyPilotError(f"SkyPilot: {kind}: {said}", "`sky api logs` has the whole story.")


@functools.cache
def sdk() -> Any:
    """SkyPilot's SDK; it takes seconds to import, so only where it is used."""
    os.environ.setdefault("SKYPILOT_DISABLE_USAGE_COLLECTION", "1")
    session = importlib.import_module("sky.server.rest")._session
    adapters = importlib.import_module("requests.adapters")

    class Impatient(adapters.HTTPAdapter):
        """SkyPilot gives most of its calls no limit of time."""

        def send(self, request: Any, timeout: Any = None, **options: Any) -> Any:
            connect, read = timeout if isinstance(timeout, tuple) else (timeout, timeout)
            limits = (connect or READ_SECONDS, read or READ_SECONDS)
            return super().send(request, timeout=limits, **options)

    for scheme in ("http://", "https://"):
        session.mount(scheme, Impatient(pool_connections=50, pool_maxsize=256))
    return importlib.import_module("sky")


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """SkyPilot prints for people who use it; our output belongs to our caller."""
    logger = logging.getLogger("sky")
    before = logger.level
    logger.setLevel(logging.CRITICAL)  # what is wrong is raised, too
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(before)


@contextlib.contextmanager
def overhearing() -> Iterator[list[str]]:
    """What SkyPilot warns of in its log meanwhile, which is not printed."""
    said: list[str] = []
    listener = logging.Handler(logging.WARNING)
    listener.emit = lambda record: said.append(record.getMessage())
    logger = logging.getLogger("sky")
    handlers, level = logger.handlers, logger.level
    logger.handlers = [listener]
    logger.setLevel(logging.WARNING)
    try:
        yield said
    finally:
        logger.handlers = handlers
        logger.setLevel(level)
