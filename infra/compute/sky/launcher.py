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

from infra import ledger
from infra.compute import attempts, jobs
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
from infra.compute.node import CLOCK_TOLERANCE, Order
from infra.compute.sky import api, quotes
from infra.compute.sky.gates import fuse_minutes, require_readiness, secure, wall_clock
from infra.compute.sky.presence import Presence, is_foreign, is_there, last_seen
from infra.compute.sky.task import LABEL, make_task
from infra.contract import JobSpec, Progress, Resources
from infra.database import Pool
from infra.errors import LaunchError, MachineLeft, ProviderUnavailable, ReservationExpired
from infra.settings import settings

log = logging.getLogger("nightshift")

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
        self.presence = Presence(pool)
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
            attempt = attempts.begin(self.pool, spec, reservation, quote, api.server())
            try:
                task = self._task(spec, reservation, attempt, quote)
                request = functools.partial(self._request, task, attempt, reservation)
                log.info("renting %s at %s dollars an hour", quote.region, quote.hourly_usd)
                request_id = api.request_launch(attempt.place, request)
                api.wait_for_launch(request_id, reservation.expires_at)
                attempts.note(self.pool, attempt.place, submitted_at=datetime.now(UTC))
                self.presence.seen.add(attempt.place)
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
        unmade = last.gone_at is None and last.submitted_at is None and not is_foreign(last)
        if unmade and not self._carry_on(last):
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
            self.presence.seen.add(attempt.place)
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
            latest = attempt.submitted_at or datetime.now(UTC)  # its clock may be ahead of ours
            started = max(min(said.started, latest), attempt.requested_at)
            attempt = attempts.note(self.pool, attempt.place, started_at=started)
        cluster = None
        if attempt.gone_at is None and not self.presence.hears(attempt.place, said):
            cluster = self.presence.record(attempt.place, self.poll_seconds)
            attempt = self._attempt(handle)
            absent = cluster is None and not api.is_being_launched(attempt.place)
            if absent and not self.presence.may_be_hidden(attempt, said):
                gone = self.presence.gone_since(attempt, said)
                attempt = attempts.note(self.pool, attempt.place, gone_at=gone)
        state = self._state(attempt, said, cluster)
        started = attempt.started_at  # it never reported? It may have cost from the request on
        if started is None:
            started = attempt.submitted_at if state == "running" else attempt.requested_at
        return JobStatus(
            state=state,
            started=started,
            seen=attempt.gone_at or last_seen(attempt, said),
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
        if attempt:
            self._require_reach(attempt)
        deadline = time.monotonic() + STOP_MINUTES * 60
        while True:
            problem = api.take_down(handle.place)
            if problem is None:
                with contextlib.suppress(LaunchError):
                    if api.is_gone(handle.place):
                        break
            if time.monotonic() >= deadline:
                raise MachineLeft(
                    f"{handle.place} may still run: {problem or 'it does not go away'}",
                    "Look at the provider's console; `nightshift run cost-guard` tries again.",
                )
            log.warning("%s is not gone yet; trying again. %s", handle.place, problem or "")
            time.sleep(5)
        self._listed.discard(handle.place)
        if attempt:
            attempts.note(self.pool, handle.place, gone_at=datetime.now(UTC))

    def running(self) -> list[Handle]:
        if not attempts.any_ever(self.pool):
            return []
        ours = attempts.installation(self.pool)
        clusters = api.records()
        labelled = [one for one in clusters if (one.labels or {}).get(LABEL) == ours]
        listed = [one.name for one in labelled if is_there(one)]
        places = [one.name for one in labelled]
        places += [name for name in api.being_launched() if name.startswith(f"ns-{ours}-")]
        found = []
        self._listed = set(places)  # there, whatever was noted
        self.presence.seen |= self._listed
        for place in sorted(self._listed):
            attempt = attempts.at(self.pool, place)
            if attempt and place in listed:
                attempts.note(self.pool, place, listed_at=datetime.now(UTC))
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
        if said and said.seen - datetime.now(UTC) > CLOCK_TOLERANCE:
            ahead = (said.seen - datetime.now(UTC)).total_seconds() / 60
            error = f"the clock of the node is {ahead:.0f} minutes ahead: set it by NTP"
            attempt = attempts.note(self.pool, attempt.place, error=error)
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
        return self._state_by_queue(attempt, has_spoken=said is not None)

    def _state_by_queue(self, attempt: Attempt, has_spoken: bool) -> State:
        """What SkyPilot says of a silent job; one that never spoke would be paid for ever."""
        try:
            states = api.call(lambda sky: sky.job_status(attempt.place, None))
        except Exception as error:
            log.warning("%s cannot be asked: %s", attempt.place, api.explain(error).message)
            return "running"
        state = next(iter(states.values()), None)
        if state is None or not state.is_terminal():
            return "running"
        silent = f"the node never reached its bucket, {attempt.output}" if not has_spoken else ""
        setup = "the job environment could not be made on the node"
        why = {"FAILED_SETUP": setup, "FAILED": silent, "SUCCEEDED": silent}.get(state.name)
        if not why:
            return "lost"
        error = f"{why}:\n{api.job_log(attempt.place)}"
        attempts.note(self.pool, attempt.place, error=error)
        return "failed"

    def _goes_on(self, handle: Handle, mirror: Mirror) -> bool:
        """Whether more of its log may come; unlike `poll` it notes nothing, for those who read."""
        said, attempt = mirror.status(handle.attempt), self._attempt(handle)
        ended = attempt.gone_at is not None or attempt.error is not None
        return not ended and (said is None or said.state == "running")

    def _require_reach(self, attempt: Attempt) -> None:
        """That our API server can take the machine down, where it may be there.

        Raises MachineLeft for one that another API server has rented: that ours does not know it
        says nothing.
        """
        if not is_foreign(attempt) or api.record(attempt.place) is not None:
            return
        if self.presence.may_be_hidden(attempt, Mirror(attempt.output).status(attempt.number)):
            raise MachineLeft(
                f"{attempt.place} was rented through the SkyPilot API server {attempt.server}, "
                f"this is {api.server()}",
                "Give the same command there, or set SKYPILOT_API_SERVER_ENDPOINT to that server. "
                "Otherwise its fuse takes the machine at its reservation's end.",
            )

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
            checkpoint_key=attempts.checkpoint_key(self.pool, spec.key),
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
