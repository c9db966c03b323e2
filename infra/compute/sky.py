"""Jobs on any cloud, Kubernetes or Slurm that SkyPilot has been set up for.

Each attempt of a job gets a machine of its own, named ns-INSTALLATION-RESERVATION-ATTEMPT and
labelled with them. The name is in the attempts table before SkyPilot is asked, so that whatever is
killed, the machine is found again: a second launch re-attaches to it, `stop` takes it down, and
neither believes in its end before the provider's own list says so. Three things end a job: we do
with `stop`, the watchdog on its node before the reservation expires, and a fuse there (autodown by
wall clock), which needs nobody.

How the job fares is read from its `Mirror` in the object store, whether its machine is there from
SkyPilot. One SkyPilot launch request is made for one attempt, never a second.
"""

import contextlib
import functools
import importlib
import logging
import math
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import ROUND_UP, Decimal
from fnmatch import fnmatch
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import psutil

from infra import ledger
from infra.compute import attempts, environments
from infra.compute.attempts import Attempt
from infra.compute.launcher import (
    Handle,
    JobStatus,
    Quote,
    Reserved,
    State,
    last_of_each_step,
)
from infra.compute.mirror import Mirror
from infra.compute.node import Order
from infra.database import Pool
from infra.errors import LaunchError, MachineLeft, NoCapacity
from infra.settings import REPOSITORY, settings
from jobs.contract import JobSpec, Progress, Resources

log = logging.getLogger("nightshift")

LABEL = "nightshift"
RESERVATION_LABEL = "nightshift-reservation"
OVERHEAD_HOURS = Decimal(10) / 60
"""Reserved beside the job's own hours, for making the machine ready and taking it down."""
TEARDOWN_LAG = timedelta(seconds=120)
"""How long after its last sign of life a machine that nobody saw go may have been there."""
STOP_MINUTES = 20
CALL_ATTEMPTS = 5
LAUNCH_ATTEMPTS = 3
PASSED_ON = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "HF_TOKEN")
"""Secrets that a node gets, where they are set; a machine with a role of its own needs none."""

SETUP = """\
set -e
cd ~/nightshift
export PATH="$HOME/.local/bin:$PATH"
command -v uv >/dev/null || python3 -m pip install --quiet --user uv
uv venv --quiet --allow-existing --python 3.11 ~/nightshift-env
uv pip install --quiet --compile-bytecode --python ~/nightshift-env/bin/python \
  $(python3 infra/compute/uv.py) --requirements infra/environments/{environment}.txt
"""
RUN = """\
cd ~/nightshift
exec ~/nightshift-env/bin/python -m infra.compute.node
"""


class SkyLauncher:
    """Runs jobs through SkyPilot. `package` and `code` are for programs of another place."""

    def __init__(
        self, pool: Pool, package: str = "jobs", code: tuple[str, ...] = ("infra", "jobs")
    ) -> None:
        self.pool = pool
        self.package = package
        self.code = code
        self._looked: dict[str, tuple[float, Any]] = {}

    @property
    def poll_seconds(self) -> float:
        return settings().sky_poll_seconds

    def quotes(self, resources: Resources) -> list[Quote]:
        offers = _offers(resources)
        config = settings()
        quotes, refused = [], []
        for offer in offers:
            region = offer.infra.to_str()
            if not any(fnmatch(region, pattern) for pattern in config.sky_allowed):
                refused.append(f"{region} is not in NIGHTSHIFT_SKY_ALLOWED")
                continue
            try:
                quotes.append(_quote(offer, resources, region))
            except LaunchError as refusal:
                refused.append(refusal.message)
        if not quotes:
            raise LaunchError(
                "no offer of SkyPilot can be taken: " + "; ".join(sorted(set(refused))[:6]),
                "Change the setting that is named, or the resources.",
            )
        return sorted(quotes, key=lambda quote: (quote.hourly_usd, quote.region))

    def launch(self, spec: JobSpec, reservation: Reserved, quote: Quote) -> Handle:
        known = self._take_up(spec)
        if known:
            return known
        self._require_readiness(spec, quote)
        for _ in range(LAUNCH_ATTEMPTS):
            attempt = attempts.begin(self.pool, spec, reservation, quote)
            try:
                task = self._task(spec, reservation, attempt, quote)
                request = functools.partial(self._request, task, attempt, reservation)
                self._wait_for_launch(_send(request))
                attempts.note(self.pool, attempt.place, submitted_at=datetime.now(UTC))
                self._light_fuse(attempt.place, reservation)
                self._require_network(attempt.place)
                return attempt.handle
            except _LaunchLost as error:
                log.warning("%s: %s; launching anew", attempt.place, error)
                self.stop(attempt.handle)
            except Exception as error:
                explained = _explain(error)
                attempts.note(self.pool, attempt.place, error=explained.message)
                self.stop(attempt.handle)
                raise explained from error
            except BaseException:  # Ctrl-C: what was asked for may be there already
                self.stop(attempt.handle)
                raise
        raise LaunchError(
            f"SkyPilot's API server died {LAUNCH_ATTEMPTS} times while it launched {spec.key}",
            "`sky api logs` may say why.",
        )

    def _take_up(self, spec: JobSpec) -> Handle | None:
        """The attempt that runs or has ended for good; one that cannot go on is taken down."""
        known = attempts.of_job(self.pool, spec.key)
        if not known:
            return None
        last = known[-1]
        if last.gone_at is None and last.submitted_at is None and not self._carry_on(last):
            self.stop(last.handle)
        state = self.poll(last.handle).state
        if state not in ("running", "succeeded", "failed"):
            self.stop(last.handle)
            return None
        return last.handle

    def attempts(self, key: str) -> list[Handle]:
        return [attempt.handle for attempt in attempts.of_job(self.pool, key)]

    def poll(self, handle: Handle) -> JobStatus:
        attempt = self._attempt(handle)
        mirror = Mirror(attempt.output)
        said = mirror.status(attempt.number)
        if said and said.started and attempt.started_at is None:
            started = max(said.started, attempt.requested_at)
            attempt = attempts.note(self.pool, attempt.place, started_at=started)
        cluster = None
        if attempt.gone_at is None:
            cluster = self._cluster(attempt.place)
            if cluster is None and not _is_being_launched(attempt.place):
                lives = [attempt.requested_at, *([said.seen] if said else [])]
                gone = min(datetime.now(UTC), max(lives) + TEARDOWN_LAG)
                attempt = attempts.note(self.pool, attempt.place, gone_at=gone)
        state = self._state(attempt, said, cluster)
        started = attempt.started_at
        if state != "running" and started is None:
            started = attempt.requested_at  # it never reported; it may have cost from then on
        return JobStatus(
            state=state,
            started=started,
            seen=attempt.gone_at or datetime.now(UTC),
            exit_code=said.exit_code if said else None,
            result=said.result if said else None,
            progress=said.progress if said else None,
        )

    def logs(self, handle: Handle, follow: bool = False) -> Iterator[str]:
        attempt = self._attempt(handle)
        mirror, shown = Mirror(attempt.output), 0
        while True:
            running = follow and self.poll(handle).state == "running"
            text = mirror.log()
            end = len(text) if not running else text.rfind("\n") + 1
            yield from text[shown:end].splitlines()
            shown = max(shown, end)
            if not running:
                break
            time.sleep(self.poll_seconds)
        if attempt.error:
            yield attempt.error

    def progress(self, key: str) -> list[Progress]:
        known = attempts.of_job(self.pool, key)
        return last_of_each_step(Mirror(known[-1].output).progress()) if known else []

    def stop(self, handle: Handle) -> None:
        attempt = attempts.at(self.pool, handle.place)
        if attempt and attempt.gone_at is not None:
            return
        if attempt and attempt.submitted_at:
            self._let_checkpoint(attempt)
        deadline = time.monotonic() + STOP_MINUTES * 60
        problem = ""
        while True:
            try:
                _cancel_launches(handle.place)
                _call(lambda sky: sky.down(handle.place))
            except Exception as error:
                if type(error).__name__ != "ClusterDoesNotExist":
                    problem = _explain(error).message
            with contextlib.suppress(LaunchError):
                if self._is_gone(handle.place):
                    break
            if time.monotonic() >= deadline:
                raise MachineLeft(
                    f"{handle.place} may still run: {problem or 'it does not go away'}",
                    "Look at the provider's console; `nightshift run cost-guard` tries again.",
                )
            log.warning("%s is not gone yet; trying again. %s", handle.place, problem)
            time.sleep(5)
        if attempt:
            attempts.note(self.pool, handle.place, gone_at=datetime.now(UTC))

    def running(self) -> list[Handle]:
        if not attempts.any_ever(self.pool):
            return []
        ours = attempts.installation(self.pool)
        clusters = _call(lambda sky: sky.status(refresh=sky.StatusRefreshMode.FORCE))
        places = [one.name for one in clusters if (one.labels or {}).get(LABEL) == ours]
        places += [name for name in _being_launched() if name.startswith(f"ns-{ours}-")]
        found = []
        for place in sorted(set(places)):
            attempt = attempts.at(self.pool, place)
            found.append(
                attempt.handle
                if attempt
                else Handle(launcher="sky", key=place, reservation=0, place=place, attempt=0)
            )
        return found

    def note_costs(self) -> None:
        """Store SkyPilot's cost report beside the ledger; it is none (docs/money.md says why)."""
        reported = _call(lambda sky: sky.cost_report(days=2))
        known = {one["name"]: Decimal(str(one["total_cost"] or 0)) for one in reported}
        attempts.note_provider_cost(self.pool, known)

    def _attempt(self, handle: Handle) -> Attempt:
        attempt = attempts.at(self.pool, handle.place)
        if attempt is None:
            raise LaunchError(f"nothing is known of the machine {handle.place}")
        return attempt

    def _state(self, attempt: Attempt, said: JobStatus | None, cluster: Any) -> State:
        if said and said.state != "running":
            return said.state
        if attempt.error and attempt.submitted_at:
            return "failed"
        if attempt.gone_at is not None:
            return "lost"
        if cluster is None:
            return "running"  # its launch is under way
        if cluster.status.name != "UP" and attempt.submitted_at:
            return "lost"  # the node was taken away
        silent = timedelta(seconds=6 * settings().sky_sync_seconds + 30)
        if said and datetime.now(UTC) - said.seen < silent:
            return "running"
        return self._state_by_queue(attempt)

    def _state_by_queue(self, attempt: Attempt) -> State:
        """What SkyPilot says of a job that says nothing itself."""
        try:
            states = _call(lambda sky: sky.job_status(attempt.place, None))
        except Exception as error:
            log.warning("%s cannot be asked: %s", attempt.place, _explain(error).message)
            return "running"
        state = next(iter(states.values()), None)
        if state is None or not state.is_terminal():
            return "running"
        if state.name == "FAILED_SETUP":
            attempts.note(self.pool, attempt.place, error=_setup_log(attempt.place))
            return "failed"
        return "lost"

    def _cluster(self, place: str) -> Any:
        """SkyPilot's record of the machine, as the provider has it; asked at most every so often.

        A server that does not answer says nothing about the machine: the last answer stays.
        """
        asked, record = self._looked.get(place, (0.0, None))
        if time.monotonic() - asked >= self.poll_seconds or record is None:
            try:
                record = _record(place)
            except LaunchError as error:
                if record is None:
                    raise
                log.warning("%s", error.message)
            self._looked[place] = (time.monotonic(), record)
        return record

    def _is_gone(self, place: str) -> bool:
        return _record(place) is None and not _is_being_launched(place)

    def _carry_on(self, attempt: Attempt) -> bool:
        """Wait for the launch that a killed process asked for; False if SkyPilot has lost it."""
        requests = _requests(attempt.place)
        if not requests:
            return False
        try:
            self._wait_for_launch(requests[0].request_id)
        except Exception as error:
            attempts.note(self.pool, attempt.place, error=_explain(error).message)
            return False
        attempts.note(self.pool, attempt.place, submitted_at=datetime.now(UTC))
        self._light_fuse(attempt.place, ledger.get(self.pool, attempt.reservation_id))
        return True

    def _task(self, spec: JobSpec, reservation: Reserved, attempt: Attempt, quote: Quote) -> Any:
        config = settings()
        order = Order(
            spec=spec,
            id=reservation.id,
            expires_at=reservation.expires_at,
            attempt=attempt.number,
            requested_at=attempt.requested_at,
            package=self.package,
            sync_seconds=config.sky_sync_seconds,
            checkpoint_seconds=config.sky_checkpoint_seconds,
        )
        environment = {
            "NIGHTSHIFT_ORDER": order.model_dump_json(),
            "NIGHTSHIFT_STOP_GRACE_SECONDS": str(config.stop_grace_seconds),
        }
        if config.s3_endpoint_url:
            environment["NIGHTSHIFT_S3_ENDPOINT_URL"] = config.s3_endpoint_url
        sky = _sdk()
        task = sky.Task(
            name="nightshift",
            setup=SETUP.format(environment=shlex.quote(spec.environment)),
            run=RUN,
            envs=environment,
            secrets={name: os.environ[name] for name in PASSED_ON if os.environ.get(name)},
            file_mounts={f"~/nightshift/{name}": str(REPOSITORY / name) for name in self.code},
        )
        task.set_resources(
            sky.Resources(
                infra=quote.region,
                instance_type=quote.instance_type or None,
                accelerators=quote.accelerators or None,
                use_spot=quote.spot,
                disk_size=max(spec.resources.disk_gb, 50),
                labels={
                    LABEL: attempts.installation(self.pool),
                    RESERVATION_LABEL: str(reservation.id),
                },
            )
        )
        return task

    def _request(self, task: Any, attempt: Attempt, reservation: Reserved) -> str:
        sky = _sdk()
        return sky.launch(
            task,
            cluster_name=attempt.place,
            idle_minutes_to_autostop=_fuse_minutes(reservation),
            wait_for=_wall_clock(),
            down=True,
        )

    def _wait_for_launch(self, request_id: str) -> None:
        """Until the launch has ended. Raises what it raised, and LaunchError if it is lost."""
        while True:
            with contextlib.suppress(*_disconnections()):
                found = _sdk().api_status([request_id])
                if not found:
                    raise _LaunchLost("SkyPilot's API server has died and lost the launch")
                if found[0].status in ("SUCCEEDED", "FAILED", "CANCELLED"):
                    break
            time.sleep(min(2.0, self.poll_seconds))
        _call(lambda _: request_id)

    def _light_fuse(self, place: str, reservation: Reserved) -> None:
        """The launch set one, but for a time counted from its own end: set it for what is left."""
        _call(
            lambda sky: sky.autostop(
                place, _fuse_minutes(reservation), wait_for=_wall_clock(), down=True
            )
        )

    def _let_checkpoint(self, attempt: Attempt) -> None:
        """Ask a job that is alive to end by itself, for as long as its grace lasts."""
        mirror, config = Mirror(attempt.output), settings()
        wait = config.stop_grace_seconds + 3 * config.sky_sync_seconds
        asked = time.monotonic()
        with contextlib.suppress(Exception):  # the store may be away; the machine has to go
            said = mirror.status(attempt.number)
            if said is None or said.state != "running":
                return
            if datetime.now(UTC) - said.seen > timedelta(seconds=wait):
                return
            mirror.ask_to_stop(attempt.number)
            while time.monotonic() - asked < wait:
                said = mirror.status(attempt.number)
                if said is None or said.state != "running":
                    return
                time.sleep(1)

    def _require_readiness(self, spec: JobSpec, quote: Quote) -> None:
        """What must hold before a machine is asked for."""
        config = settings()
        environments.requirements_of(spec.environment)
        if not any(fnmatch(quote.region, pattern) for pattern in config.sky_allowed):
            raise LaunchError(
                f"{quote.region} is not allowed", "NIGHTSHIFT_SKY_ALLOWED lists what is."
            )
        if config.network_check:
            done = subprocess.run(
                shlex.split(config.network_check), capture_output=True, text=True, timeout=60
            )
            if done.returncode:
                said = (done.stderr or done.stdout).strip()[-300:]
                raise LaunchError(
                    f"NIGHTSHIFT_NETWORK_CHECK failed with exit code {done.returncode}: {said}",
                    "Connect the VPN, or correct the command.",
                )

    def _require_network(self, place: str) -> None:
        """That the machine's addresses lie in the networks that are allowed."""
        allowed = [ip_network(one) for one in settings().allowed_networks]
        record = _record(place) if allowed else None
        for pair in record.handle.stable_internal_external_ips or [] if record else []:
            if not any(ip_address(one) in network for one in pair if one for network in allowed):
                raise LaunchError(
                    f"the machine {place} has the addresses {', '.join(pair)}",
                    "None is in NIGHTSHIFT_ALLOWED_NETWORKS; it was taken down.",
                )


class _LaunchLost(Exception):
    """Nobody works at the launch any more; what it made is still to be taken down."""


def _offers(resources: Resources) -> list[Any]:
    """What SkyPilot's optimizer could launch, as its Resources."""
    sky = _sdk()
    optimizer = importlib.import_module("sky.optimizer")
    task = sky.Task(run="true")
    task.set_resources(
        sky.Resources(
            accelerators=resources.accelerators or None,
            cpus=f"{resources.cpus}+",
            memory=f"{resources.memory_gb:g}+",
            use_spot=resources.use_spot,
        )
    )
    try:
        # Here it believes to be its API server, which sends spinners as text.
        with _quietly(), importlib.import_module("sky.sky_logging").silent():
            found, _, similar, hints = optimizer._fill_in_launchable_resources(
                task, None, quiet=True
            )
    except Exception as error:
        raise _explain(error) from error
    offers = [offer for several in found.values() for offer in several if _has(offer, resources)]
    if not offers:
        reasons = [hint for several in hints.values() for hint in several]
        near = f" There is {', '.join(similar[:5])}." if similar else ""
        why = " ".join(" ".join(reasons).split())
        raise LaunchError(
            f"no cloud that SkyPilot has enabled offers {_wish(resources)}.{near} {why}".strip(),
            "Ask for other resources, or enable a cloud (`sky check` says what is missing).",
        )
    return offers


def _has(offer: Any, resources: Resources) -> bool:
    """Whether the offer's machine has what was asked for: SkyPilot finds an H100 for "H10"."""
    has = offer.cloud.get_accelerators_from_instance_type(offer.instance_type)
    if has is None:  # accelerators are added to the machine, or there are none
        return True
    kinds = {kind.lower(): count for kind, count in has.items()}
    wanted = resources.accelerators.items()
    return all(kinds.get(kind.lower(), 0) >= count for kind, count in wanted)


def _quote(offer: Any, resources: Resources, region: str) -> Quote:
    """The price of an offer, from SkyPilot's catalogue; LaunchError if it is none to rely on."""
    config = settings()
    try:
        price = Decimal(str(offer.get_cost(3600))).quantize(Decimal("0.0001"), ROUND_UP)
    except Exception as error:
        raise LaunchError(f"{region} has no price: {error}") from error
    if price <= 0:
        raise LaunchError(
            f"{region} has no price; SkyPilot's configuration gives it one "
            "(for Slurm slurm.cluster_configs.CLUSTER.pricing)"
        )
    if price > config.max_usd_per_hour:
        raise LaunchError(
            f"{region} costs {price} dollars an hour, above NIGHTSHIFT_MAX_USD_PER_HOUR "
            f"({config.max_usd_per_hour})"
        )
    source, read = _catalogue(str(offer.cloud).lower())
    oldest = datetime.now(UTC) - timedelta(hours=config.sky_price_max_age_hours)
    if read < oldest:
        raise LaunchError(
            f"the prices of {region} are of {read:%Y-%m-%d %H:%M}, older than "
            f"NIGHTSHIFT_SKY_PRICE_MAX_AGE_HOURS ({config.sky_price_max_age_hours:g})"
        )
    return Quote(
        launcher="sky",
        hourly_usd=price,
        accelerators=resources.accelerators,
        region=region,
        source=source,
        spot=offer.use_spot,
        instance_type=offer.instance_type or "",
        overhead_hours=OVERHEAD_HOURS,
        priced_at=read,
        valid_until=read + timedelta(hours=config.sky_price_max_age_hours),
    )


def _catalogue(cloud: str) -> tuple[str, datetime]:
    """Where a cloud's prices stand, and when they were read."""
    catalog = importlib.import_module("sky.catalog.common")
    folder = Path(catalog.get_catalog_path(f"{cloud}/vms.csv")).parent
    files = sorted(folder.glob("*.csv"))
    if not files:  # priced by the user's own configuration, which is read afresh each time
        return f"SkyPilot's configuration of {cloud}", datetime.now(UTC)
    oldest = min(path.stat().st_mtime for path in files)
    return f"SkyPilot's catalogue of {cloud}", datetime.fromtimestamp(oldest, UTC)


def _wish(resources: Resources) -> str:
    gpus = ", ".join(f"{count} × {kind}" for kind, count in resources.accelerators.items())
    spot = " on spot" if resources.use_spot else ""
    return f"{gpus or f'{resources.cpus} CPUs'} with {resources.memory_gb:g} GB{spot}"


def _fuse_minutes(reservation: Reserved) -> int:
    """Rounded up: the watchdog on the node is to come first, so that the job can checkpoint."""
    left = reservation.expires_at - datetime.now(UTC)
    return max(1, math.ceil(left.total_seconds() / 60))


def _record(place: str) -> Any:
    """SkyPilot's record of a machine, refreshed from the provider; None if there is none."""
    found = _call(lambda sky: sky.status([place], refresh=sky.StatusRefreshMode.FORCE))
    return found[0] if found else None


def _requests(place: str | None = None) -> list[Any]:
    """Requests to launch that SkyPilot's API server knows of, the newest first."""
    sky = _sdk()
    with _quietly():
        found = sky.api_status(all_status=place is not None, cluster_name=place)
    launches = [one for one in found if one.name == "sky.launch"]
    return sorted(launches, key=lambda one: one.created_at, reverse=True)


def _being_launched() -> list[str]:
    return [one.cluster_name for one in _requests() if one.cluster_name]


def _is_being_launched(place: str) -> bool:
    return place in _being_launched()


def _cancel_launches(place: str) -> None:
    """`sky.down` does so too, but only once there is a record of the machine."""
    waiting = [one.request_id for one in _requests() if one.cluster_name == place]
    if waiting:
        _call(lambda sky: sky.api_cancel(waiting, silent=True))


def _setup_log(place: str) -> str:
    """The last lines of a setup that failed; they are lost with the machine."""
    stream = _Lines()
    with contextlib.suppress(Exception), _quietly():
        _sdk().tail_logs(place, None, follow=False, tail=25, output_stream=stream)
    return "the job environment could not be made on the node:\n" + "".join(stream.lines)[-2000:]


class _Lines:
    """What `tail_logs` writes to."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def write(self, text: str) -> None:
        self.lines.append(text)

    def flush(self) -> None: ...


def _call(request: Callable[[Any], Any]) -> Any:
    """Send a request to SkyPilot's API server and wait for its value."""
    sky = _sdk()
    with _quietly():
        return _send(lambda: sky.get(request(sky)))


def _send(call: Callable[[], Any]) -> Any:
    """Call the API server, again where it was away: a local one is started anew meanwhile."""
    problem: Exception | None = None
    for attempt in range(CALL_ATTEMPTS):
        try:
            with _quietly():
                return call()
        except _disconnections() as error:
            if "exited unexpectedly" in str(error):
                _end_orphans()
            elif not _is_disconnection(error):
                raise
            problem = error
        time.sleep(1 + attempt)
    raise LaunchError(
        f"SkyPilot's API server does not answer: {problem}",
        "`sky api start` starts it, `sky api info` shows where it should be.",
    )


@functools.cache
def _disconnections() -> tuple[type[Exception], ...]:
    import requests

    return (requests.ConnectionError, requests.Timeout, RuntimeError)


def _is_disconnection(error: Exception) -> bool:
    kinds = {kind.__name__ for kind in type(error).__mro__}
    return bool(kinds & {"ConnectionError", "Timeout", "ApiServerConnectionError"})


def _end_orphans() -> None:
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


def _explain(error: BaseException) -> LaunchError:
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
            return LaunchError(f"SkyPilot: {kind}: {said}", "`sky api logs` has the whole story.")


def _sdk() -> Any:
    """SkyPilot's SDK; it takes seconds to import, so only where it is used."""
    os.environ.setdefault("SKYPILOT_DISABLE_USAGE_COLLECTION", "1")
    return importlib.import_module("sky")


def _wall_clock() -> Any:
    return importlib.import_module("sky.skylet.autostop_lib").AutostopWaitFor.NONE


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """SkyPilot prints for people who use it; our standard output belongs to our caller."""
    logger = logging.getLogger("sky")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        logger.setLevel(before)
