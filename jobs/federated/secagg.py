"""Secure aggregation, the arithmetic of both sides: what is summed, and what hides it.

A tenant's vector is its update, quantised, times its weight; then the weight and its counts: all
integers modulo 2^64, where masks are uniform and hide it whatever it holds.

SecAgg+ is Bell et al. 2020 on Bonawitz et al. 2017. Keys, shares and quantisation are Flower's. Its
generator of masks is not used: it folds every key to 32 bits (its issue 7522).
"""

import base64
import math
from dataclasses import dataclass

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from flwr.common.secure_aggregation.crypto.symmetric_encryption import generate_shared_key
from flwr.common.secure_aggregation.quantization import dequantize, quantize
from flwr.supercore.primitives.asymmetric import bytes_to_private_key, bytes_to_public_key

from infra.errors import InputError
from jobs.federated.config import QUANTISATION_LEVELS, FederatedConfig
from jobs.federated.model import Weights

Vector = np.ndarray
RECORD = "secagg"
"""Of a message: what a stage is told and answers. Of a node's state: what it remembers."""
MOST_ROWS = 2**24
"""Of a tenant, as its weight: 200 tenants × 2^24 rows × 2^30 levels stay below 2^63."""
REMEDY = "Start again without --secure-aggregation to see which tenant it is, or leave some out."


@dataclass(frozen=True)
class Total:
    """The weighted mean of the updates, and how many held-out rows there are and are right."""

    update: Weights
    right: int
    held_out: int


def threshold(shares: int) -> int:
    """How many shares of a secret are needed: more than two thirds (Bonawitz 2017, theorem 6.5)."""
    return 2 * shares // 3 + 1


def size(like: Weights) -> int:
    """Length of a vector for such weights."""
    return sum(value.size for value in like.values()) + 3


def pack(
    sent: Weights, found: Weights, counts: dict[str, float], config: FederatedConfig
) -> Vector:
    """A tenant's vector, uint64. Raises InputError where it would not fit: nothing is cut silently.

    With differential privacy of tenants the update is clipped so far that its L2 norm is below the
    clipping norm after rounding, too.
    """
    rounds, privacy = config.rounds, config.privacy
    flat = np.concatenate([(found[name] - sent[name]).ravel() for name in sent])
    norm = float(np.linalg.norm(flat))
    if not norm <= rounds.norm_bound:
        raise InputError(
            f"its update has a norm of {norm:.3g}, above the bound of {rounds.norm_bound:g}",
            "Allow more with --norm-bound.",
        )
    weight = int(counts["num-examples"]) if rounds.weighted else 1
    if privacy.of_tenants:
        weight = 1
        most = privacy.clipping_norm - config.quantisation_step * math.sqrt(flat.size)
        flat = flat * min(1.0, most / max(norm, 1e-300))
    if not 0 < weight <= MOST_ROWS:
        raise InputError(
            f"it weighs {weight} rows, secure aggregation can sum {MOST_ROWS} of a tenant",
            "Let all weigh alike with --no-weighted.",
        )
    levels = quantize([flat], config.clipping_range, QUANTISATION_LEVELS)[0]
    tail = [weight, int(counts["right"]), int(counts["held-out"])]
    return np.concatenate([levels.astype(np.uint64) * np.uint64(weight), np.array(tail, np.uint64)])


def unpack(total: Vector, tenants: int, like: Weights, config: FederatedConfig) -> Total:
    """The mean, off by less than one quantisation step in each value, of a sum of vectors.

    Raises InputError where the sum is none of vectors that `pack` makes.
    """
    *levels, weight, right, held_out = total.tolist()
    reach, step = config.clipping_range, config.quantisation_step
    possible = tenants <= weight <= tenants * MOST_ROWS and right <= held_out
    if possible and max(levels) <= weight * QUANTISATION_LEVELS:
        mean = np.array([level / weight for level in levels])
        flat = dequantize([mean], reach, QUANTISATION_LEVELS)[0]
        if np.linalg.norm(flat) <= reach + step * math.sqrt(flat.size):
            parts = np.split(flat, np.cumsum([value.size for value in like.values()])[:-1])
            update = {
                name: part.reshape(value.shape)
                for (name, value), part in zip(like.items(), parts, strict=True)
            }
            return Total(update, right, held_out)
    raise InputError("the sum is outside of what tenants may send: one has not kept to it", REMEDY)


def keystream(key: bytes, length: int) -> Vector:
    """`length` uniform integers modulo 2^64 of a key of 32 bytes, which is used for one round."""
    cipher = Cipher(ChaCha20(key, bytes(16)), mode=None).encryptor()
    return np.frombuffer(cipher.update(bytes(8 * length)), dtype="<u8")


def pairwise_mask(private_key: bytes, public_key: bytes, length: int) -> Vector:
    """What two tenants alone can compute, each of its private and the other's public key (PEM)."""
    shared = generate_shared_key(bytes_to_private_key(private_key), bytes_to_public_key(public_key))
    return keystream(base64.urlsafe_b64decode(shared), length)
