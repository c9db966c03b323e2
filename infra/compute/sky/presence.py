"""Whether a machine is there: what its node says of itself, and what SkyPilot lists.

Both prove that it lives. Silence and absence prove less: a node's word may not reach the bucket,
and a list may lack what another API server has rented, or what a workspace hides.
"""

import logging
import time
from datetime import UTC, datetime, timedelta
from typing import Any

from infra import ledger
from infra.compute import attempts
from infra.compute.attempts import Attempt
from infra.compute.launcher import JobStatus
from infra.compute.node import CLOCK_TOLERANCE
from infra.compute.sky import api
from infra.database import Pool
from infra.errors import LaunchError
from infra.settings import settings

log = logging.getLogger("nightshift")

TEARDOWN_LAG = timedelta(seconds=120)
"""How long after its last sign of life a machine that nobody saw go may have been there."""
LATELY = CLOCK_TOLERANCE + TEARDOWN_LAG
"""For how long the absence from a list is not believed against another's proof of life. A node's
clock may lag by as much, and a guard that lists its machines looks every five minutes."""


class Presence:
    """What this process has heard and seen of machines."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.looked: dict[str, tuple[float, Any]] = {}
        self.heard: dict[str, tuple[datetime, float]] = {}
        self.seen: set[str] = set()
        """Machines that the API server had, by their names; of these its list tells the end."""

    def hears(self, place: str, said: JobStatus | None) -> bool:
        """Whether the node speaks for itself, so that its provider need not be asked.

        It has just ended, or, by our clock, what it said last is news.
        """
        if said is None:
            return False
        if said.state != "running":
            return datetime.now(UTC) - said.seen < TEARDOWN_LAG
        last, _ = self.heard.get(place, (None, 0.0))
        if said.seen != last:
            self.heard[place] = (said.seen, time.monotonic())
            return last is not None
        return self._was_heard(place)

    def _was_heard(self, place: str) -> bool:
        _, since = self.heard.get(place, (None, float("-inf")))
        return time.monotonic() - since < 3 * settings().sky_sync_seconds

    def record(self, place: str, every_seconds: float) -> Any:
        """SkyPilot's record of the machine, as the provider has it; asked at most every so often.

        A server that does not answer says nothing about the machine: the last answer stays.
        """
        asked, record = self.looked.get(place, (0.0, None))
        if time.monotonic() - asked >= every_seconds or record is None:
            try:
                record = api.record(place)
                if record is not None:
                    self.seen.add(place)
                    if is_there(record):
                        attempts.note(self.pool, place, listed_at=datetime.now(UTC))
            except LaunchError as error:
                if record is None:
                    raise
                log.warning("%s", error.message)
            self.looked[place] = (time.monotonic(), record)
        return record

    def may_be_hidden(self, attempt: Attempt, said: JobStatus | None) -> bool:
        """Whether a machine that SkyPilot does not list may be there all the same.

        It spoke lately, or another has listed it lately; or another API server has rented it, so
        that only its fuse, at the reservation's end, tells that it is gone.
        """
        now = datetime.now(UTC)
        speaks = said and said.state == "running" and now - said.seen < LATELY
        if speaks and self._was_heard(attempt.place):
            return True
        if attempt.place in self.seen:
            return False
        if attempt.listed_at and now - attempt.listed_at < LATELY:
            return True
        return is_foreign(attempt) and now < self._expiry(attempt) + TEARDOWN_LAG

    def gone_since(self, attempt: Attempt, said: JobStatus | None) -> datetime:
        """Until when a machine is charged that nobody saw go.

        Gone after its reservation's end, it is taken to have lived until its fuse took it then,
        unless it never came to be; gone before that, no longer than its last proof of life.
        """
        seen, now = last_seen(attempt, said), datetime.now(UTC)
        expired = self._expiry(attempt)
        if now < expired:
            return seen
        existed = attempt.submitted_at or attempt.listed_at or said or is_foreign(attempt)
        if not existed and not api.was_launched(attempt.place):
            return seen
        return max(seen, min(now, expired + TEARDOWN_LAG))

    def _expiry(self, attempt: Attempt) -> datetime:
        return ledger.get(self.pool, attempt.reservation_id).expires_at


def is_foreign(attempt: Attempt) -> bool:
    """Whether another API server than ours was asked for the machine."""
    return attempt.server not in (None, api.server())


def last_seen(attempt: Attempt, said: JobStatus | None) -> datetime:
    """Until when a machine that is not seen to be gone is taken to have been there at least.

    Its own word and its provider's list are proof of life alike. What runs is charged up to then,
    what turns out to be gone no less.
    """
    lives = [attempt.requested_at, said.seen if said else None, attempt.listed_at]
    return min(datetime.now(UTC), max(life for life in lives if life) + TEARDOWN_LAG)


def is_there(record: Any) -> bool:
    """Whether the provider lists a machine that costs: one that is stopped does not."""
    return record.status.name in ("INIT", "UP")
