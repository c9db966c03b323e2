"""How much may be asked with one API key in a minute, counted in this process by `limits`.

The minute begins with a key's first request. A request counts when it enters, its tokens, those of
the prompt too, when it ends: nobody knows them before.
"""

import math
import time

from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import FixedWindowRateLimiter

from jobs.serving.config import Limit


class Limits:
    """Counts what was asked with each key, by its SHA-256."""

    def __init__(self) -> None:
        self._counter = FixedWindowRateLimiter(MemoryStorage())

    def enter(self, key: str, limit: Limit) -> tuple[str, int] | None:
        """Count a request; where it is one too many, what there are enough of and the seconds to
        wait."""
        for what, item in _items(limit).items():
            if not self._counter.test(item, what, key):
                reset = self._counter.get_window_stats(item, what, key).reset_time
                return f"{item.amount} {what} a minute", max(1, math.ceil(reset - time.time()))
        self._count("requests", 1, key, limit)
        return None

    def leave(self, key: str, limit: Limit, tokens: int) -> None:
        """Count the tokens of a request that has ended."""
        self._count("tokens", tokens, key, limit)

    def _count(self, what: str, cost: int, key: str, limit: Limit) -> None:
        item = _items(limit).get(what)
        if item is not None and cost:
            self._counter.hit(item, what, key, cost=cost)


def _items(limit: Limit) -> dict[str, RateLimitItemPerMinute]:
    found = {"requests": limit.requests_per_minute, "tokens": limit.tokens_per_minute}
    return {what: RateLimitItemPerMinute(most) for what, most in found.items() if most is not None}
