"""Which requests a canary answers."""

import hashlib

from infra.contract import CANARY_SIDE, CHAMPION_SIDE

OPEN_TENANT = "default"
"""Whoever asks where no keys are required."""


def is_for_canary(tenant: str, request: str, canary: str, share: float) -> bool:
    """Whether the request is in the `share`, 0 to 1, of the canary of this sha256.

    A tenant stays with it while the share grows; requests of nobody in particular are split one by
    one.
    """
    if tenant in (CHAMPION_SIDE, CANARY_SIDE):
        return tenant == CANARY_SIDE
    who = request if tenant == OPEN_TENANT else tenant
    place = hashlib.sha256(f"{canary}/{who}".encode()).digest()[:8]
    return int.from_bytes(place) < share * 2**64
