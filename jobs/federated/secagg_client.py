"""Secure aggregation, a tenant's side: four stages, each an answer to a message of the server.

What a stage needs later is in the node's own state. A stage out of its order is refused, and so is
whatever would let the server see one tenant: both secrets of one, or a sum of too few.
"""

import os
from collections.abc import Callable
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


def answer(state: ConfigRecord, told: Told, vector: Callable[[], Vector]) -> ConfigRecord:
    """What this node says in one stage; `vector` makes what it adds to the sum.

    Raises InputError, and forgets its secrets, where the server asks for what it may not have.
    """
    stage, stages = told["stage"], Stage.all()
    remembered: Told = ConfigRecord(dict(state))
    state.clear()  # what is refused or answered is not asked for twice
    if stage == Stage.SETUP:
        return _setup(state, told["attempt"], vector())
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


def _setup(state: Told, attempt: str, vector: Vector) -> ConfigRecord:
    """Two public keys: of one pair masks are made, of the other what encrypts shares."""
    (mask_key, mask_public), (share_key, share_public) = generate_key_pairs(), generate_key_pairs()
    state["stage"], state["attempt"] = Stage.SETUP, attempt
    state["vector"] = vector.tobytes()
    state["mask_key"] = private_key_to_bytes(mask_key)
    state["share_key"] = private_key_to_bytes(share_key)
    return ConfigRecord(
        {"mask": public_key_to_bytes(mask_public), "share": public_key_to_bytes(share_public)}
    )


def _share_keys(own: Told, state: Told, told: Told) -> ConfigRecord:
    """A share of each of two secrets for every neighbour, which it alone can read.

    The secrets are the private key of the masks, and the seed of a mask of this tenant's own.
    """
    place, places = told["place"], told["places"]
    masks, shares = told["masks"], told["shares"]
    if len(places) < FEWEST_IN_A_SUM or len({*masks, *shares}) < 2 * len(places):
        raise InputError("too few tenants, or keys that are not their own", REMEDY)
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
        plain = share_keys_plaintext_concat(place, other, seed_share, key_share)
        sealed[other] = encrypt(generate_shared_key(private, bytes_to_public_key(public)), plain)
    state["place"], state["seed"] = place, seed
    state["places"], state["masks"], state["shares"] = places, masks, shares
    return ConfigRecord({"places": list(sealed), "shares": list(sealed.values())})


def _mask(own: Told, state: Told, told: Told) -> ConfigRecord:
    """The vector under the own mask and one of each neighbour that has shared its secrets."""
    publics = dict(zip(own["places"], zip(own["masks"], own["shares"], strict=True), strict=True))
    sources = told["places"]
    if len({own["place"], *sources} & set(publics)) < max(FEWEST_IN_A_SUM, threshold(len(publics))):
        raise InputError("too few tenants have shared their keys", REMEDY)
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
    """The shares of a neighbour's seed and key."""
    shared = generate_shared_key(
        bytes_to_private_key(own["share_key"]), bytes_to_public_key(public)
    )
    try:
        source, target, seed, key = share_keys_plaintext_separate(decrypt(shared, sealed))
    except InvalidToken:
        source = target = -1
        seed = key = b""
    if (source, target) != (place, own["place"]):
        raise InputError("a share that was sent to it is of somebody else", REMEDY)
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
