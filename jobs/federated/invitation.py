"""An invite: what a tenant needs to find a federation, to trust it and to be let in once.

It is one line of text that names no path and holds no key: the tenant makes its own.
"""

import base64
import binascii
from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, SecretStr, ValidationError, field_serializer

from infra.errors import InputError

MARK = "nsi_"


class Invite(BaseModel):
    """`address`: HOST:PORT; `ca`: the authority in PEM; `token`: 256 bits of chance."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1] = 1
    federation: str
    tenant: str
    address: str
    ca: str
    token: SecretStr
    expires: datetime

    @field_serializer("token", when_used="json")
    def _shown(self, token: SecretStr) -> str:
        return token.get_secret_value()

    def text(self) -> str:
        """As it is given to the tenant, once."""
        told = self.model_dump_json().encode()
        return MARK + base64.urlsafe_b64encode(told).decode().rstrip("=")

    @classmethod
    def of(cls, text: str) -> "Invite":
        """What `text` says. Raises InputError."""
        mark, rest = text[: len(MARK)], text.strip()[len(MARK) :]
        try:
            if mark != MARK:
                raise ValueError
            told = base64.urlsafe_b64decode(rest + "=" * (-len(rest) % 4))
            return cls.model_validate_json(told)
        except (ValueError, binascii.Error, ValidationError):
            raise InputError(
                "INVITE: it is no whole invite, nor a file with one",
                "Give the whole line of `nightshift federation invite`, or the file it lies in.",
            ) from None
