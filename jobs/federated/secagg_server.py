"""Secure aggregation, the server's side: it drives the four stages of one attempt.

It sees public keys, shares that it cannot read, masked vectors, and at last of each tenant shares
of one secret: of the seed of its own mask where its vector is in the sum, else of its key. Of both
it never has enough, so that only the sum of all loses its masks.
"""

import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from flwr.app import ConfigRecord, Message
from flwr.common.secure_aggregation.crypto.shamir import combine_shares
from flwr.common.secure_aggregation.secaggplus_constants import Stage
from flwr.supercore.primitives.asymmetric import (
    bytes_to_private_key,
    bytes_to_public_key,
    public_key_to_bytes,
)

from jobs.federated.secagg import RECORD, Vector, keystream, pairwise_mask, threshold

Ask = Callable[[str, dict[str, ConfigRecord]], tuple[dict[str, Message], dict[str, str]]]
"""Sends each tenant what it is told in a stage; (answers, reasons of those that give none)."""
MOST_NEIGHBOURS = 60
"""With whom a tenant shares its secrets. Where a third of 200 tenants collude with the server, one
has enough of them as neighbours to be seen with a probability of 2e-9 (hypergeometric)."""
CURVE = "secp384r1"


class Unsummed(Exception):
    """Too few tenants are left, or their shares do not fit: this attempt has no sum."""


@dataclass
class Attempt:
    """One attempt of `tenants` to sum vectors of `length`; at least `fewest` have to be in it."""

    ask: Ask
    tenants: list[str]
    fewest: int
    length: int
    left_out: dict[str, str] = field(default_factory=dict)

    def sum(self) -> tuple[Vector, dict[str, Message]]:
        """The sum, and the answer with its masked vector of each tenant that is in it.

        Raises Unsummed; who dropped out, and why, is in `left_out` either way.
        """
        self.token = secrets.token_hex(8)
        self.place = {name: number for number, name in enumerate(self.tenants)}
        keys = self._stage(Stage.SETUP, {name: {} for name in self.tenants}, _keys)
        self.keys = {name: found for name, (found, _) in keys.items()}
        self.circle = circles(list(keys))
        shared = self._stage(Stage.SHARE_KEYS, {n: self._publics(n) for n in keys}, _sealed)
        sealed = {name: found for name, (found, _) in shared.items()}
        sent = {name: self._sealed_for(name, sealed) for name in sealed}
        masked = self._stage(Stage.COLLECT_MASKED_VECTORS, sent, self._vector)
        unsummed = set(sealed) - set(masked)
        asked = {name: self._whose_shares(name, set(masked), unsummed) for name in masked}
        revealed = self._stage(Stage.UNMASK, asked, _shares)
        shares = {name: found for name, (found, _) in revealed.items()}
        total = np.stack([vector for vector, _ in masked.values()]).sum(0, dtype=np.uint64)
        return (
            self._unmasked(total, set(masked), unsummed, shares),
            {name: reply for name, (_, reply) in masked.items()},
        )

    def _stage(
        self,
        stage: str,
        told: dict[str, dict[str, Any]],
        read: Callable[[dict[str, Any], Any], Any],
    ) -> dict[str, tuple[Any, Message]]:
        """(what was read of the answer, the answer) by tenant."""
        same = {"stage": stage, "attempt": self.token}
        answers, reasons = self.ask(
            stage, {n: ConfigRecord(each | same) for n, each in told.items()}
        )
        self.left_out |= reasons
        found = {}
        for name, reply in answers.items():
            try:
                found[name] = read(told[name], reply.content.config_records[RECORD]), reply
            except Exception as error:  # bytes of a stranger
                kind = type(error).__name__
                self.left_out[name] = f"its answer to {stage} cannot be read ({kind})"
        if len(found) < self.fewest:
            raise Unsummed(f"{len(found)} tenants were left at {stage}, {self.fewest} are needed")
        return found

    def _publics(self, name: str) -> dict[str, Any]:
        """The public keys of a tenant's neighbours and of itself."""
        masks, shares = zip(*(self.keys[other] for other in self.circle[name]), strict=True)
        places = [self.place[other] for other in self.circle[name]]
        told = {"places": places, "masks": list(masks), "shares": list(shares)}
        return {"place": self.place[name], **told}

    def _sealed_for(self, name: str, sealed: dict[str, dict[int, bytes]]) -> dict[str, Any]:
        """The shares that a tenant's neighbours have encrypted for it."""
        sources = [other for other in self.circle[name] if other in sealed and other != name]
        return {
            "places": [self.place[other] for other in sources],
            "sealed": [sealed[other][self.place[name]] for other in sources],
        }

    def _vector(self, _: dict[str, Any], told: Any) -> Vector:
        vector = np.frombuffer(told["masked"], dtype="<u8")
        if len(vector) != self.length:
            raise ValueError("another model")
        return vector

    def _whose_shares(self, name: str, summed: set[str], dropped: set[str]) -> dict[str, Any]:
        own = self.circle[name]
        whose = {"summed": summed, "dropped": dropped}
        return {key: [self.place[n] for n in own if n in names] for key, names in whose.items()}

    def _unmasked(
        self,
        total: Vector,
        summed: set[str],
        dropped: set[str],
        shares: dict[str, dict[int, bytes]],
    ) -> Vector:
        """Without the masks of those in the sum, and those that they made with who dropped out."""
        for name in summed:
            total = total - keystream(self._secret(name, shares), self.length)
        for name in dropped:
            key = self._secret(name, shares)
            if public_key_to_bytes(bytes_to_private_key(key).public_key()) != self.keys[name][0]:
                raise Unsummed(f"the shares of {name}'s key do not fit")
            for other in summed & set(self.circle[name]):
                mask = pairwise_mask(key, self.keys[other][0], self.length)
                total = total - mask if self.place[other] > self.place[name] else total + mask
        return total

    def _secret(self, name: str, shares: dict[str, dict[int, bytes]]) -> bytes:
        circle, place = self.circle[name], self.place[name]
        found = [shares[other][place] for other in circle if place in shares.get(other, {})]
        needed = threshold(len(circle))
        if len(found) < needed:
            raise Unsummed(f"{len(found)} shares of {name}'s mask came, {needed} are needed")
        try:
            return combine_shares(found[:needed])
        except Exception as error:  # bytes of strangers
            raise Unsummed(f"the shares of {name}'s mask do not fit") from error


def circles(tenants: list[str]) -> dict[str, list[str]]:
    """SecAgg+'s graph: each tenant's neighbours and itself, as many before it as behind it on a
    random ring; with few tenants everybody."""
    ring, half = tenants.copy(), MOST_NEIGHBOURS // 2
    secrets.SystemRandom().shuffle(ring)
    if len(ring) <= 2 * half + 1:
        return dict.fromkeys(ring, ring)
    return {
        name: [ring[(at + step) % len(ring)] for step in range(-half, half + 1)]
        for at, name in enumerate(ring)
    }


def _keys(_: dict[str, Any], told: Any) -> tuple[bytes, bytes]:
    for name in ("mask", "share"):
        if bytes_to_public_key(told[name]).curve.name != CURVE:
            raise ValueError("another curve")
    return told["mask"], told["share"]


def _sealed(asked: dict[str, Any], told: Any) -> dict[int, bytes]:
    return _by_place(told, {*asked["places"]} - {asked["place"]})


def _shares(asked: dict[str, Any], told: Any) -> dict[int, bytes]:
    return _by_place(told, {*asked["summed"], *asked["dropped"]})


def _by_place(told: Any, wanted: set[int]) -> dict[int, bytes]:
    """Shares by whom they are for, or of: exactly those that were asked for."""
    found = dict(zip(told["places"], told["shares"], strict=True))
    if set(found) != wanted or not all(isinstance(share, bytes) for share in found.values()):
        raise ValueError("other shares")
    return found
