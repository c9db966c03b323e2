"""Secrets of hooks: made here, shown once, encrypted at rest with Fernet (AES-128-CBC and HMAC).

The key is NIGHTSHIFT_HOOKS_KEY, or a file of mode 0600 in the home folder, made on first use.
"""

import base64
import secrets
from functools import lru_cache

from cryptography.fernet import Fernet, InvalidToken

from infra import private
from infra.errors import SettingsError
from infra.settings import settings

SECRET_BYTES = 32
"""Standard Webhooks asks for 24 to 64."""


def fresh() -> str:
    """A new secret in the form of Standard Webhooks; GitHub and bearers take the text as it is."""
    return "whsec_" + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()


def encrypt(secret: str) -> bytes:
    return _fernet(_key()).encrypt(secret.encode())


@lru_cache(maxsize=4096)
def decrypt(encrypted: bytes) -> str:
    """Raises SettingsError if it was encrypted with another key."""
    try:
        return _fernet(_key()).decrypt(encrypted).decode()
    except InvalidToken:
        raise SettingsError(
            "the hooks' secrets were encrypted with another key",
            f"Set NIGHTSHIFT_HOOKS_KEY, or {_key_file()}, to the key that they were made with; "
            "if it is lost, `nightshift hooks rotate` makes new secrets.",
        ) from None


def _fernet(key: str) -> Fernet:
    try:
        return Fernet(key)
    except ValueError:
        raise SettingsError(
            "NIGHTSHIFT_HOOKS_KEY is no Fernet key",
            "Give 32 random bytes as urlsafe base64: head -c32 /dev/urandom | base64 | tr +/ -_",
        ) from None


def _key_file():
    return settings().home / "hooks.key"


def _key() -> str:
    given = settings().hooks_key
    if given is not None:
        return given.get_secret_value()
    return private.secret(_key_file(), lambda: Fernet.generate_key().decode())
