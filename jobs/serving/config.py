"""What a serving process is told: once, how to serve; then, again and again, what."""

from pathlib import Path

from pydantic import Field

from infra.contract import Contract, JobConfig

APPLICATION, DEPLOYMENT = "policy", "Policy"
"""What Serve calls them."""
SIGNING_KEY = "NIGHTSHIFT_SERVING_SIGNING_KEY"
"""The environment variable with the key that ids of answers are signed with."""


class ServingConfig(Contract):
    """How to serve. Changing it needs another process."""

    name: str = Field(description="What clients call the model.")
    port: int = Field(description="TCP, on loopback.")
    spool: Path = Field(description="Folder in which interactions wait for the database.")
    spool_bytes: int = Field(gt=0, description="Beyond this nothing is answered.")
    scratch: Path = Field(description="Folder of Ray's, with a short path: sockets lie in it.")
    kv_cache_bytes: int = Field(gt=0, description="Memory for keys and values.")
    request_bytes: int = Field(gt=0, description="Largest body of a request.")
    request_seconds: float = Field(gt=0, description="Longest time for one answer.")


class Live(Contract):
    """Which version answers. `base` names the weights and `adapter` what stands on them, both on
    this disk; another `base` needs another engine. `sha256` is the version's own."""

    version: str
    sha256: str
    base: str
    adapter: str | None = None


class Limit(Contract):
    """What may be asked with an API key in a minute; None: as much as there is."""

    requests_per_minute: int | None = Field(default=None, ge=1)
    tokens_per_minute: int | None = Field(default=None, ge=1)


class Order(Contract):
    """What to serve now, and for whom: sha256 of each API key → tenant, and → limit of those that
    have one. Without `keys_required` whoever can reach the port is the tenant `default`. `canary`
    stands on the same base as `live`, and gets a `share` of the requests, 0 to 1. `number` counts
    the deployments."""

    number: int = 0
    live: Live
    canary: Live | None = None
    share: float = Field(default=0, ge=0, le=1)
    keys: dict[str, str]
    limits: dict[str, Limit] = Field(default_factory=dict)
    keys_required: bool


class State(Contract):
    """What is served after the order of this number, and why what was ordered last is not.
    `under_way`: how many requests are being answered, by version."""

    number: int = 0
    live: Live | None = None
    canary: Live | None = None
    share: float = 0
    refused: Live | None = None
    error: str | None = None
    under_way: dict[str, int] = Field(default_factory=dict)


CHAMPION = "champion"
"""The champion as it is, among what is measured."""


class LoadConfig(JobConfig):
    """The load under which versions are measured: so many requests, by clients that each wait for
    an answer. `variants` are the inputs that are measured beside the champion."""

    model: str = Field(default="", description="Hub id of the base, where it is no input.")
    variants: list[str] = Field(default_factory=list)
    clients: int = Field(default=8, ge=1)
    requests: int = Field(default=128, ge=1)
    max_new_tokens: int = Field(default=128, ge=1)
    kv_cache_bytes: int = Field(default=256 * 2**20, gt=0)
