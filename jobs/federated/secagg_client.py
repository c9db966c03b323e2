"""Secure aggregation, a tenant's side: four stages, each an answer to a message of the server.

What a stage needs later is in the node's own state. A stage out of its order is refused, and so is
whatever would let the server see one tenant: both secrets of one, a sum of too few, a mask that is
added twice. With its shares each tenant seals what it was told of the model and of the keys, and
none sends its vector where another was told otherwise.
"""

import os
from collections.abc import Callable
from hashlib import sha256
from typing import Any

import numpy as np
from cryptography.fernet import InvalidToken
from flwr.app import ConfigRecord
from flwr.common.secure_aggregation.crypto.shamir import create_shares
from flwr.common.secure_aggregation.crypto.symmetric_encryption import (
    decrypt,
    encrypt,
    generate_shared_key,
)
from flwr.common.secure_aggregation.secaggplus_constants import Stage
from flwr.common.secure_aggregation.secaggplus_utils import (
    share_keys_plaintext_concat,
    share_keys_plaintext_separate,
)
from flwr.supercore.primitives.asymmetric import (
    bytes_to_private_key,
    bytes_to_public_key,
    generate_key_pairs,
    private_key_to_bytes,
    public_key_to_bytes,
)

from infra.errors import InputError
from jobs.federated.config import FEWEST_IN_A_SUM
from jobs.federated.secagg import Vector, keystream, pairwise_mask, threshold

Told = Any
"""A ConfigRecord: its values are of many types, and each stage knows its own."""
REMEDY = "The round is asked for again."
PLACE_BYTES, DIGEST_BYTES = 4, 16
"""Of a place, and of what a tenant was told of it, as they are sealed."""


def answer(
    state: ConfigRecord, told: Told, vector: Callable[[], Vector], asked: bytes
) -> ConfigRecord:
    """What this node says in one stage; `vector` makes what it adds to the sum, and `asked` is a
    digest of the model and the config that it was asked with at setup.

    Raises InputError, and forgets its secrets, where the server asks for what it may not have.
    """
    stage, stages = told["stage"], Stage.all()
    remembered: Told = ConfigRecord(dict(state))
    state.clear()  # what is refused or answered is not asked for twice
    if stage == Stage.SETUP:
        return _setup(state, told["attempt"], vector(), asked)
    follows = stages.index(stage) == stages.index(remembered.get("stage", Stage.UNMASK)) + 1
    if not follows or remembered["attempt"] != told["attempt"]:
        raise InputError("it has no part in this attempt: it was started again", REMEDY)
    state.update(remembered)
    state["stage"] = stage
    try:
        match stage:
            case Stage.SHARE_KEYS:
                return _share_keys(remembered, state, told)
            case Stage.COLLECT_MASKED_VECTORS:
                return _mask(remembered, state, told)
        return _unmask(remembered, state, told)
    except InputError:
        state.clear()
        raise


def _setup(state: Told, attempt: str, vector: Vector, asked: bytes) -> ConfigRecord:
    """Two public keys: of one pair masks are made, of the other what encrypts shares."""
    (mask_key, mask_public), (share_key, share_public) = generate_key_pairs(), generate_key_pairs()
    state["stage"], state["attempt"] = Stage.SETUP, attempt
    state["vector"], state["asked"] = vector.tobytes(), asked
    state["mask_key"] = private_key_to_bytes(mask_key)
    state["share_key"] = private_key_to_bytes(share_key)
    state["mask"] = public_key_to_bytes(mask_public)
    state["share"] = public_key_to_bytes(share_public)
    return ConfigRecord({"mask": state["mask"], "share": state["share"]})


def _share_keys(own: Told, state: Told, told: Told) -> ConfigRecord:
    """A share of each of two secrets for every neighbour, which it alone can read.

    The secrets are the private key of the masks, and the seed of a mask of this tenant's own.
    """
    place, places = told["place"], told["places"]
    masks, shares = told["masks"], told["shares"]
    keys = dict(zip(places, zip(masks, shares, strict=True), strict=True))
    if len(keys) < max(FEWEST_IN_A_SUM, len(places)) or len({*masks, *shares}) < 2 * len(places):
        raise InputError("too few tenants, or keys that are not their own", REMEDY)
    if keys.get(place) != (own["mask"], own["share"]):
        raise InputError("it was told another key in its own place", REMEDY)
    state["place"], state["places"] = place, places
    state["masks"], state["shares"] = masks, shares
    seen = b"".join(place + digest for place, digest in _seen(state).items())
    seed, needed = os.urandom(32), threshold(len(places))
    of_seed = create_shares(seed, needed, len(places))
    of_key = create_shares(own["mask_key"], needed, len(places))
    private = bytes_to_private_key(own["share_key"])
    sealed: dict[int, bytes] = {}
    for other, public, seed_share, key_share in zip(places, shares, of_seed, of_key, strict=True):
        if other == place:
            state["held"], state["held_seeds"] = [place], [seed_share]
            state["held_keys"] = [key_share]
            continue
        secret = share_keys_plaintext_concat(place, other, seed_share, key_share)
        plain = share_keys_plaintext_concat(place, other, seen, secret)
        sealed[other] = encrypt(generate_shared_key(private, bytes_to_public_key(public)), plain)
    state["seed"] = seed
    return ConfigRecord({"places": list(sealed), "shares": list(sealed.values())})


def _seen(own: Told) -> dict[bytes, bytes]:
    """By place: a digest of its tenant's keys and of what this node was asked with."""
    rows = zip(own["places"], own["masks"], own["shares"], strict=True)
    return {
        place.to_bytes(PLACE_BYTES): sha256(
            b"".join(sha256(part).digest() for part in (own["asked"], mask, share))
        ).digest()[:DIGEST_BYTES]
        for place, mask, share in rows
    }


def _mask(own: Told, state: Told, told: Told) -> ConfigRecord:
    """The vector under the own mask and one of each neighbour that has shared its secrets."""
    publics = dict(zip(own["places"], zip(own["masks"], own["shares"], strict=True), strict=True))
    sources = told["places"]
    if len({own["place"], *sources} & set(publics)) < max(FEWEST_IN_A_SUM, threshold(len(publics))):
        raise InputError("too few tenants have shared their keys", REMEDY)
    if len({own["place"], *sources}) <= len(sources):
        raise InputError("a mask would be added twice", REMEDY)
    vector = np.frombuffer(own["vector"], dtype="<u8")
    masked = vector + keystream(own["seed"], len(vector))
    for place, sealed in zip(sources, told["sealed"], strict=True):
        mask_public, share_public = publics[place]
        seed, key = _opened(own, place, sealed, share_public)
        state["held"] = [*state["held"], place]
        state["held_seeds"] = [*state["held_seeds"], seed]
        state["held_keys"] = [*state["held_keys"], key]
        mask = pairwise_mask(own["mask_key"], mask_public, len(vector))
        masked = masked + mask if own["place"] > place else masked - mask
    for secret in ("vector", "seed", "mask_key", "share_key"):
        del state[secret]
    return ConfigRecord({"masked": masked.tobytes()})


def _opened(own: Told, place: int, sealed: bytes, public: bytes) -> tuple[bytes, bytes]:
    """The shares of a neighbour's seed and key, if it was told what this node was told."""
    shared = generate_shared_key(
        bytes_to_private_key(own["share_key"]), bytes_to_public_key(public)
    )
    try:
        source, target, seen, secret = share_keys_plaintext_separate(decrypt(shared, sealed))
    except InvalidToken:
        source = target = -1
        seen = secret = b""
    if (source, target) != (place, own["place"]):
        raise InputError("a share that was sent to it is of somebody else", REMEDY)
    ours, length = _seen(own), PLACE_BYTES + DIGEST_BYTES
    rows = [seen[at : at + length] for at in range(0, len(seen), length)]
    theirs = {row[:PLACE_BYTES]: row[PLACE_BYTES:] for row in rows}
    both = {one.to_bytes(PLACE_BYTES) for one in (source, target)}
    if not both <= theirs.keys() or any(
        theirs[one] != ours[one] for one in theirs.keys() & ours.keys()
    ):
        raise InputError("another tenant was sent another model, or other keys", REMEDY)
    _, _, seed, key = share_keys_plaintext_separate(secret)
    return seed, key


def _unmask(own: Told, state: Told, told: Told) -> ConfigRecord:
    """Of a tenant in the sum the share of its seed, of one that dropped out that of its key."""
    summed, dropped = set(told["summed"]), set(told["dropped"])
    state.clear()
    most = set(own["held"])
    enough = max(FEWEST_IN_A_SUM, threshold(len(own["places"])))
    single = summed & dropped or own["place"] not in summed
    if single or not summed | dropped <= most or len(summed) < enough:
        raise InputError("it was asked for what would show one tenant's update", REMEDY)
    held = zip(own["held"], own["held_seeds"], own["held_keys"], strict=True)
    told_shares = {
        place: seed if place in summed else key
        for place, seed, key in held
        if place in summed | dropped
    }
    return ConfigRecord({"places": list(told_shares), "shares": list(told_shares.values())})
