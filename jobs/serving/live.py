"""What a replica serves now, and for whom."""

from collections import Counter
from dataclasses import dataclass, field

from infra.errors import InputError
from jobs.serving.config import Limit, Live, Order, ServingConfig, State
from jobs.serving.engine import Loaded, RecordingEngine
from jobs.serving.limits import Limits
from jobs.serving.split import is_for_canary
from jobs.serving.spool import Spool


@dataclass
class Serving:
    """What the routes need; `take` changes the rest while they run. Until then nobody may ask."""

    config: ServingConfig
    engine: RecordingEngine
    spool: Spool
    signing_key: str
    keys: dict[str, str] = field(default_factory=dict)
    limits: dict[str, Limit] = field(default_factory=dict)
    keys_required: bool = True
    asked: Limits = field(default_factory=Limits)
    state: State = field(default_factory=State)
    champion: Loaded | None = None
    canary: Loaded | None = None
    under_way: Counter[str] = field(default_factory=Counter)
    """How many requests each version is answering."""

    def loaded(self, tenant: str, request: str) -> Loaded | None:
        """The version that answers."""
        canary = self.canary
        if canary and is_for_canary(tenant, request, canary.live.sha256, self.state.share):
            return canary
        return self.champion

    def told(self) -> State:
        """The state as it is now."""
        return self.state.model_copy(update={"under_way": dict(+self.under_way)})

    async def take(self, order: Order) -> None:
        """Serve as ordered. Where that cannot be, the state says why, and what was live stays."""
        self.keys, self.keys_required = order.keys, order.keys_required
        self.limits = order.limits
        before, told = self.state, {"number": order.number}
        if (order.live, order.canary) == (before.live, before.canary):
            # a refusal before it stays to be seen
            self.state = before.model_copy(update=told | {"share": order.share})
            return
        try:
            self.champion = await self._load(order.live)
        except InputError as error:
            refusal = {"refused": order.live, "error": error.message}
            self.state = before.model_copy(update=told | refusal)
            return
        self.state = State(live=order.live, number=before.number)  # its canary is still to come
        try:
            self.canary = order.canary and await self._load(order.canary)
        except InputError as error:
            self.canary = None
            refusal = {"refused": order.canary, "error": error.message}
            self.state = self.state.model_copy(update=told | refusal)
        else:
            split = {"canary": order.canary, "share": order.share}
            self.state = self.state.model_copy(update=told | split)

    async def _load(self, live: Live) -> Loaded:
        """Raises InputError where it cannot be used."""
        for there in (self.champion, self.canary):
            if there is not None and there.live == live:
                return there
        return await self.engine.load(live)
