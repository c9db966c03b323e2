"""The door of a federation: a folder that says who may come in, read at every knock.

    tenants/NAME.json   the tenant's invite as SHA-256, and its public key once it has joined
    seen/NAME.json      when it last asked, and how far its clock is off
    rounds.json         each tenant's last round and share
    ca.pem, server.pem, server.key

Owner and job both write here, each record whole and under one lock. What was removed is refused
with its next message.
"""

import errno
import fcntl
import hashlib
import hmac
import json
import os
import re
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from pydantic import BaseModel

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
"""Of a tenant or a federation: it is the name of a file, and never a path."""
NOT_CONNECTED = "its node is not connected"
UP_SECONDS = 15
"""Who has asked within these is up: a node asks every two seconds."""


class Refused(Exception):
    """Why a tenant may not come in, in words for it; asking again does not help."""


class Tenant(BaseModel):
    """Who was invited; `public_key` in PEM from when it has joined."""

    name: str
    invite_sha256: str
    expires: datetime
    public_key: str | None = None
    joined: datetime | None = None
    removed: datetime | None = None

    @property
    def is_in(self) -> bool:
        """Whether it has joined and was not removed."""
        return self.public_key is not None and self.removed is None

    @property
    def may_come(self) -> bool:
        """Whether it is in, or has an invite that is still good."""
        return self.removed is None and (self.is_in or self.expires > datetime.now(UTC))


class Seen(BaseModel):
    """`time`: Unix seconds of the last knock; `clock_ahead`: seconds of the tenant's clock."""

    time: float
    clock_ahead: float

    @property
    def is_up(self) -> bool:
        """Whether its node asks."""
        return time.time() - self.time < UP_SECONDS


class Door:
    """The folder `folder`, which is there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for part in ("tenants", "seen"):
            (folder / part).mkdir(mode=0o700, exist_ok=True)

    def tenants(self) -> list[Tenant]:
        """All that were ever invited, by name."""
        files = sorted((self.folder / "tenants").glob("*.json"))
        return [Tenant.model_validate_json(file.read_text()) for file in files]

    def tenant(self, name: str) -> Tenant | None:
        """One of them."""
        if not NAME.fullmatch(name):
            return None
        try:
            text = (self.folder / "tenants" / f"{name}.json").read_text()
        except FileNotFoundError:
            return None
        return Tenant.model_validate_json(text)

    def keep(self, tenant: Tenant) -> None:
        """Write its record; only under the lock."""
        self._write(f"tenants/{tenant.name}.json", tenant.model_dump_json())

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Nobody else changes records meanwhile."""
        file = self.folder / "lock"
        file.touch(mode=0o600)
        with file.open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def admit(self, name: str, token: str, public_key: str) -> Tenant:
        """The tenant that shows its invite and its key; the first key is kept. Raises Refused."""
        with self.locked():
            tenant = self.tenant(name)
            if tenant is None or not hmac.compare_digest(tenant.invite_sha256, sha256(token)):
                raise Refused("the federation does not know this invite, or has replaced it")
            if tenant.removed:
                raise Refused(f"{name} was removed from the federation")
            if tenant.public_key is None:
                if tenant.expires < datetime.now(UTC):
                    raise Refused(
                        f"the invite of {name} expired on {tenant.expires:%Y-%m-%d %H:%M}"
                    )
                if any(public_key == other.public_key for other in self.tenants()):
                    raise Refused("another tenant has this key")
                _require_node_key(public_key)
                changed = {"public_key": public_key, "joined": datetime.now(UTC)}
                tenant = tenant.model_copy(update=changed)
                self.keep(tenant)
            if tenant.public_key != public_key:
                raise Refused(f"the invite of {name} was used before, with another key")
            return tenant

    def see(self, name: str, clock: float) -> None:
        """Note that a tenant has asked, by its clock at `clock` (Unix seconds)."""
        now = time.time()
        seen = Seen(time=now, clock_ahead=clock - now)
        self._write(f"seen/{name}.json", seen.model_dump_json())

    def seen(self, name: str) -> Seen | None:
        """When it last asked."""
        try:
            return Seen.model_validate_json((self.folder / "seen" / f"{name}.json").read_text())
        except FileNotFoundError:
            return None

    def absence(self, name: str) -> str:
        """Why the node of a tenant is not there, in words."""
        tenant = self.tenant(name)
        if tenant is None or tenant.public_key is None:
            return "it has not joined yet"
        return "it was removed from the federation" if tenant.removed else NOT_CONNECTED

    def note_rounds(self, rows: dict[str, dict[str, Any]]) -> None:
        """Keep of each tenant in `rows` what it did last."""
        self._write("rounds.json", json.dumps(self.rounds() | rows))

    def rounds(self) -> dict[str, dict[str, Any]]:
        """By tenant: `run`, `round`, `share` of the rows (0 to 1), or why it was `left_out`."""
        try:
            return json.loads((self.folder / "rounds.json").read_text())
        except FileNotFoundError:
            return {}

    def _write(self, name: str, text: str) -> None:
        whole = self.folder / name
        partial = whole.with_name(f".{whole.name}.{os.getpid()}")
        partial.touch(mode=0o600)
        partial.write_text(text)
        partial.replace(whole)


def sha256(token: str) -> str:
    """As an invite is kept."""
    return hashlib.sha256(token.encode()).hexdigest()


def _require_node_key(public_key: str) -> None:
    try:
        key = load_pem_public_key(public_key.encode())
    except ValueError:
        key = None
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise Refused("its key is none of a node")


def split(address: str) -> tuple[str, int]:
    """(host, port) of HOST:PORT. Raises ValueError."""
    host, _, port = address.rpartition(":")
    if not host or ":" in host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ValueError
    return host, int(port)


def cannot_open(address: str) -> str | None:
    """Why this machine cannot listen there, None where it can."""
    host, port = split(address)
    try:
        where = socket.getaddrinfo(host, port, socket.AF_INET, socket.SOCK_STREAM)[0][4]
        with socket.socket() as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tried.bind(where)
            tried.listen()
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return f"port {port} of {host} is in use"
        if error.errno == errno.EACCES:
            return f"this user may not open port {port}"
        return f"{host} is no address of this machine"
    return None
