"""This home's secret: it signs ids of answers, and a rollout asks its endpoint with it."""

import hashlib
import hmac
import secrets

from infra import private
from infra.contract import CANARY_SIDE, CHAMPION_SIDE
from infra.settings import settings


def signing_key() -> str:
    """It lives on: feedback comes days after its answer."""
    return private.secret(settings().home / "serving.key", lambda: secrets.token_hex(32))


def rollout_keys() -> dict[str, str]:
    """Side → the API key that always gets its version."""
    secret = signing_key().encode()
    sides = (CHAMPION_SIDE, CANARY_SIDE)
    return {side: hmac.new(secret, side.encode(), hashlib.sha256).hexdigest() for side in sides}


def rollout_hashes() -> dict[str, str]:
    """SHA-256 → side of each such key."""
    return {hashed(key): side for side, key in rollout_keys().items()}


def hashed(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()
