"""Ids of answers that only this house can make, and that say whose they are.

The ingress has no database. So it knows an id that was given out by its signature: 32 hex digits of
chance, then 16 of HMAC-SHA256 over them and the tenant.
"""

import hashlib
import hmac
import re
import uuid

FORM = re.compile(r"(?:chatcmpl|cmpl)-([0-9a-f]{32})([0-9a-f]{16})")


def fresh(tenant: str, key: str) -> str:
    """A new id, without the prefix that its endpoint gives it."""
    chance = uuid.uuid4().hex
    return chance + _signature(chance, tenant, key)


def is_ours(answer: str, tenant: str, key: str) -> bool:
    """Whether the answer of this id was given to this tenant."""
    found = FORM.fullmatch(answer)
    return found is not None and hmac.compare_digest(found[2], _signature(found[1], tenant, key))


def _signature(chance: str, tenant: str, key: str) -> str:
    signed = hmac.new(key.encode(), f"{chance}/{tenant}".encode(), hashlib.sha256)
    return signed.hexdigest()[:16]
