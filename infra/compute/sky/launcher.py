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
import logging
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from infra import jobs, ledger
from infra.compute import attempts
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
from infra.compute.sky import api, quotes
from infra.compute.sky.gates import fuse_minutes, require_readiness, secure, wall_clock
from infra.compute.sky.task import LABEL, make_task
from infra.database import Pool
from infra.errors import LaunchError, MachineLeft, ProviderUnavailable, ReservationExpired
from infra.settings import settings
from jobs.contract import JobSpec, Progress, Resources

log = logging.getLogger("nightshift")

TEARDOWN_LAG = timedelta(seconds=120)
"""How long after its last sign of life a machine that nobody saw go may have been there."""
STOP_MINUTES = 20
LAUNCH_ATTEMPTS = 3


class SkyLauncher:
    """Runs jobs through SkyPilot. `package` and `code` are for programs of another place."""

    def __init__(
        self, pool: Pool, package: str = "jobs", code: tuple[str, ...] = ("infra", "jobs")
    ) -> None:
        self.pool = pool
        self.package = package
        self.code = code
        self._looked: dict[str, tuple[float, Any]] = {}
        self._heard: dict[str, tuple[datetime, float]] = {}
        self._listed: set[str] = set()

    @property
    def poll_seconds(self) -> float:
        return settings().sky_poll_seconds

    def quotes(self, resources: Resources) -> list[Quote]:
        return quotes.quotes(resources)

    def launch(self, spec: JobSpec, reservation: Reserved, quote: Quote) -> Handle:
        known = self._take_up(spec)
        if known:
            return known
        require_readiness(spec, quote)
        number = 0
        while True:
            number += 1
            attempt = attempts.begin(self.pool, spec, reservation, quote)
            try:
                task = self._task(spec, reservation, attempt, quote)
                request = functools.partial(self._request, task, attempt, reservation)
                log.info("renting %s at %s dollars an hour", quote.region, quote.hourly_usd)
                request_id = api.request_launch(attempt.place, request)
                api.wait_for_launch(request_id, reservation.expires_at)
                attempts.note(self.pool, attempt.place, submitted_at=datetime.now(UTC))
                log.info("%s is there; it makes its environment first", attempt.place)
                secure(attempt.place, reservation.expires_at)
                return attempt.handle
            except Exception as error:
                problem = api.explain(error)
                lost = isinstance(error, api.RequestLost) or self._was_taken(attempt.place, problem)
                final = not lost and not isinstance(problem, ProviderUnavailable)
                final = final and reservation.expires_at > datetime.now(UTC)
                if final:
                    attempts.note(self.pool, attempt.place, error=problem.message)
                self.stop(attempt.handle)
                if not final and reservation.expires_at <= datetime.now(UTC):
                    raise ReservationExpired(
                        f"{spec.key} had no machine before its reservation expired: "
                        f"{problem.message}",
                        "More --hours leave more time for making a machine ready.",
                    ) from error
                if not lost:
                    raise problem from error
                if number == LAUNCH_ATTEMPTS:
                    raise ProviderUnavailable(
                        f"{spec.key}: {number} machines in a row were lost before they were ready; "
                        f"the last: {problem.message}",
                        "The same command goes on.",
                    ) from error
                jobs.raise_if_stopped(self.pool, spec.key)
                log.warning("%s: %s; launching anew", attempt.place, problem.message)
            except BaseException:  # Ctrl-C: what was asked for may be there already
                self.stop(attempt.handle)
                raise

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
        if state == "running":
            self._secure_again(last)
        return last.handle

    def _secure_again(self, attempt: Attempt) -> None:
        """What a process that was killed right after the launch may not have done."""
        try:
            secure(attempt.place, ledger.get(self.pool, attempt.reservation_id).expires_at)
        except ProviderUnavailable:
            raise
        except LaunchError:
            self.stop(attempt.handle)
            raise
        except Exception as error:  # it may have ended meanwhile
            log.warning("%s: its fuse cannot be set: %s", attempt.place, api.explain(error).message)

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
        if attempt.gone_at is None and not self._hears(attempt.place, said):
            cluster = self._cluster(attempt.place)
            if cluster is None and not api.is_being_launched(attempt.place):
                gone = _last_seen(attempt, said)
                attempt = attempts.note(self.pool, attempt.place, gone_at=gone)
        state = self._state(attempt, said, cluster)
        started = attempt.started_at
        if state != "running" and started is None:
            started = attempt.requested_at  # it never reported; it may have cost from then on
        return JobStatus(
            state=state,
            started=started,
            seen=attempt.gone_at or _last_seen(attempt, said),
            exit_code=said.exit_code if said else None,
            result=said.result if said else None,
            progress=said.progress if said else None,
        )

    def logs(self, handle: Handle, follow: bool = False) -> Iterator[str]:
        attempt = self._attempt(handle)
        mirror, shown = Mirror(attempt.output), 0
        while True:
            running = follow and self._goes_on(handle, mirror)
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
        if attempt and attempt.gone_at is not None and handle.place not in self._listed:
            return
        if attempt and attempt.submitted_at:
            self._let_checkpoint(attempt)
        deadline = time.monotonic() + STOP_MINUTES * 60
        problem = ""
        while True:
            try:
                api.cancel_launches(handle.place)
                api.call(lambda sky: sky.down(handle.place))
            except Exception as error:
                if type(error).__name__ != "ClusterDoesNotExist":
                    problem = api.explain(error).message
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
        self._listed.discard(handle.place)
        if attempt:
            attempts.note(self.pool, handle.place, gone_at=datetime.now(UTC))

    def running(self) -> list[Handle]:
        if not attempts.any_ever(self.pool):
            return []
        ours = attempts.installation(self.pool)
        clusters = api.call(lambda sky: sky.status(refresh=sky.StatusRefreshMode.FORCE))
        places = [one.name for one in clusters if (one.labels or {}).get(LABEL) == ours]
        places += [name for name in api.being_launched() if name.startswith(f"ns-{ours}-")]
        found = []
        self._listed = set(places)  # there, whatever was noted
        for place in sorted(self._listed):
            attempt = attempts.at(self.pool, place)
            found.append(
                attempt.handle
                if attempt
                else Handle(launcher="sky", key=place, reservation=0, place=place, attempt=0)
            )
        return found

    def note_costs(self) -> None:
        """Store SkyPilot's cost report beside the ledger; it is none (docs/money.md says why)."""
        reported = api.call(lambda sky: sky.cost_report(days=2))
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
            states = api.call(lambda sky: sky.job_status(attempt.place, None))
        except Exception as error:
            log.warning("%s cannot be asked: %s", attempt.place, api.explain(error).message)
            return "running"
        state = next(iter(states.values()), None)
        if state is None or not state.is_terminal():
            return "running"
        if state.name == "FAILED_SETUP":
            attempts.note(self.pool, attempt.place, error=api.setup_log(attempt.place))
            return "failed"
        return "lost"

    def _goes_on(self, handle: Handle, mirror: Mirror) -> bool:
        """Whether more of its log may come; unlike `poll` it notes nothing, for those who read."""
        said, attempt = mirror.status(handle.attempt), self._attempt(handle)
        ended = attempt.gone_at is not None or attempt.error is not None
        return not ended and (said is None or said.state == "running")

    def _hears(self, place: str, said: JobStatus | None) -> bool:
        """Whether the node speaks for itself, so that its provider need not be asked.

        It has just ended, or, by our clock, what it said last is news.
        """
        if said is None:
            return False
        if said.state != "running":
            return datetime.now(UTC) - said.seen < TEARDOWN_LAG
        last, since = self._heard.get(place, (None, 0.0))
        if said.seen != last:
            self._heard[place] = (said.seen, time.monotonic())
            return last is not None
        return time.monotonic() - since < 3 * settings().sky_sync_seconds

    def _cluster(self, place: str) -> Any:
        """SkyPilot's record of the machine, as the provider has it; asked at most every so often.

        A server that does not answer says nothing about the machine: the last answer stays.
        """
        asked, record = self._looked.get(place, (0.0, None))
        if time.monotonic() - asked >= self.poll_seconds or record is None:
            try:
                record = api.record(place)
            except LaunchError as error:
                if record is None:
                    raise
                log.warning("%s", error.message)
            self._looked[place] = (time.monotonic(), record)
        return record

    def _is_gone(self, place: str) -> bool:
        return api.record(place) is None and not api.is_being_launched(place)

    def _carry_on(self, attempt: Attempt) -> bool:
        """Wait for the launch that a killed process asked for; False if SkyPilot has lost it."""
        requests = api.launch_requests(attempt.place)
        if not requests:
            return False
        reservation = ledger.get(self.pool, attempt.reservation_id)
        try:
            api.wait_for_launch(requests[0].request_id, reservation.expires_at)
        except ProviderUnavailable:
            raise
        except Exception as error:
            attempts.note(self.pool, attempt.place, error=api.explain(error).message)
            return False
        attempts.note(self.pool, attempt.place, submitted_at=datetime.now(UTC))
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
        return make_task(order, quote, self.code, attempts.installation(self.pool))

    def _request(self, task: Any, attempt: Attempt, reservation: Reserved) -> str:
        sky = api.sdk()
        return sky.launch(
            task,
            cluster_name=attempt.place,
            idle_minutes_to_autostop=fuse_minutes(reservation.expires_at),
            wait_for=wall_clock(),
            down=True,
        )

    def _was_taken(self, place: str, problem: LaunchError) -> bool:
        """Whether a launch failed since its machine went away under it, as a spot machine may."""
        if not isinstance(problem, api.SkyPilotError):
            return False
        try:
            record = api.record(place)
        except Exception as error:
            return isinstance(api.explain(error), ProviderUnavailable)  # nobody can tell
        return record is None or record.status.name not in ("INIT", "UP")

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


def _last_seen(attempt: Attempt, said: JobStatus | None) -> datetime:
    """Until when a machine that is not seen to be gone is taken to have been there.

    What runs is charged up to then, what turns out to be gone in all, so that neither is more.
    """
    lives = [attempt.requested_at, *([said.seen] if said else [])]
    return min(datetime.now(UTC), max(lives) + TEARDOWN_LAG)
