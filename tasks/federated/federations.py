"""Federations of tenants on their own machines, below `NIGHTSHIFT_HOME/federations`.

The authority's key stays in the federation's folder. Its `door` is what a job sees and may write:
the server's certificate, who was invited, who has joined.
"""

import logging
import os
import secrets
import socket
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from pydantic import BaseModel, SecretStr

from infra.errors import InputError
from infra.settings import settings
from jobs.federated.config import DATA, TEXTS
from jobs.federated.door import NAME, Door, Tenant, cannot_open, sha256, split
from jobs.federated.invitation import MARK, Invite
from jobs.federated.keys import AUTHORITY, CERTIFICATE, LOOPBACK, Authority, ends_at, write_private
from tasks.policy.inputs import find_model

log = logging.getLogger("nightshift")

AUTHORITY_VALID, SERVER_VALID = timedelta(days=3650), timedelta(days=365)
SOON = timedelta(days=30)
"""Before its end a server's certificate is renewed, and an authority's is warned of."""
INVITE_VALID = timedelta(days=3)
CA_KEY, RECORD, INVITE = "ca.key", "federation.json", "invite.json"


class Federation(BaseModel):
    """`address`: HOST:PORT, where it listens while a run is on and where tenants find it."""

    name: str
    address: str

    @property
    def folder(self) -> Path:
        """The owner's."""
        return _root() / self.name

    @property
    def door(self) -> Door:
        """What its jobs share."""
        return Door(self.folder / "door")

    def tenant(self, name: str) -> Tenant | None:
        """Who was invited by that name. Raises InputError where it is no name."""
        _require_name("TENANT", name)
        return self.door.tenant(name)


def create(name: str, address: str) -> Federation:
    """A new federation with an authority and a server certificate. Raises InputError."""
    _require_name("NAME", name)
    federation = Federation(name=name, address=address)
    if federation.folder.exists():
        raise InputError(f"NAME: there is a federation {name!r}", "Take another name.")
    _require_address(address)
    for other in everyone():
        if other.address == address:
            raise InputError(
                f"--address: the federation {other.name!r} has {address}", "Take another port."
            )
    partial = _root() / f".{name}.{os.getpid()}"
    (partial / "door").mkdir(mode=0o700, parents=True)
    authority = Authority.make(AUTHORITY_VALID)
    authority.write_key(partial / CA_KEY)
    authority.issue(partial / "door", _hosts(address), SERVER_VALID)
    write_private(partial / RECORD, federation.model_dump_json().encode())
    partial.rename(federation.folder)
    return federation


def everyone() -> list[Federation]:
    """All federations of this home."""
    files = sorted(_root().glob(f"[!.]*/{RECORD}"))
    return [Federation.model_validate_json(file.read_text()) for file in files]


def find(name: str, argument: str = "NAME") -> Federation:
    """One of them. Raises InputError."""
    for federation in everyone():
        if federation.name == name:
            return federation
    known = ", ".join(federation.name for federation in everyone()) or "none"
    raise InputError(
        f"{argument}: there is no federation {name!r} in this home",
        f"Make it with `nightshift federation create`. There are: {known}.",
    )


def invite(name: str, tenant: str) -> str:
    """A fresh invite for the tenant, told once: its SHA-256 is kept. An older one is void.

    Raises InputError where the tenant is in already.
    """
    federation = find(name)
    before = federation.tenant(tenant)
    token, door = secrets.token_urlsafe(32), federation.door
    expires = datetime.now(UTC) + INVITE_VALID
    with door.locked():
        if before is not None and before.is_in:
            raise InputError(
                f"TENANT: {tenant!r} has joined already",
                f"Remove it first: `nightshift federation remove {name} {tenant}`.",
            )
        door.keep(Tenant(name=tenant, invite_sha256=sha256(token), expires=expires))
    return Invite(
        federation=name,
        tenant=tenant,
        address=federation.address,
        ca=(door.folder / AUTHORITY).read_text(),
        token=SecretStr(token),
        expires=expires,
    ).text()


def remove(name: str, tenant: str) -> None:
    """Let the tenant in no more: its next message is refused. Raises InputError."""
    federation = find(name)
    door = federation.door
    with door.locked():
        found = federation.tenant(tenant)
        if found is None:
            raise InputError(
                f"TENANT: {tenant!r} was never invited",
                f"`nightshift federation status {name}` shows who was.",
            )
        if found.removed is None:
            door.keep(found.model_copy(update={"removed": datetime.now(UTC)}))


def settle_in(text: str, data: Path, model: str | None = None) -> list[str]:
    """What a tenant's node is told: its folder, made on first use; its data; its copy of the
    language `model`, where it has one. `text`: an invite, or a file with one. Raises InputError.
    """
    if not text.startswith(MARK):
        with suppress(OSError, ValueError):  # neither a file
            text = Path(text).read_text(errors="replace")
    given = Invite.of(text.strip())
    for what in (given.federation, given.tenant):
        _require_name("INVITE", what)
    wanted = TEXTS if model else DATA
    if not (data / wanted).is_file():
        raise InputError(
            f"--data: there is no {data / wanted}", f"Name a folder with {wanted} in it."
        )
    own = find_model(model) if model else None
    place = settings().home / "joined" / sha256(given.token.get_secret_value())[:16]
    if not place.exists() and given.expires < datetime.now(UTC):
        raise InputError(
            f"INVITE: it expired on {given.expires:%Y-%m-%d %H:%M} UTC",
            f"Ask the owner of {given.federation} for another one.",
        )
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_private(place / INVITE, given.model_dump_json().encode())
    base = str(own.resolve()) if own else model
    return [str(place), str(data.resolve()), *([base] if base else [])]


def status(name: str) -> dict[str, Any]:
    """`address`, `warnings`, and of each tenant `state`, `up`, `seen` (UTC) and its last round."""
    federation = find(name)
    door = federation.door
    rounds, rows = door.rounds(), []
    for tenant in door.tenants():
        seen = door.seen(tenant.name)
        row = {
            "tenant": tenant.name,
            "state": _state(tenant),
            "up": tenant.is_in and seen is not None and seen.is_up,
            "seen": datetime.fromtimestamp(seen.time, UTC) if seen else None,
            "clock_ahead": round(seen.clock_ahead) if seen else None,
        }
        rows.append(row | rounds.get(tenant.name, {}))
    told = {"federation": name, "address": federation.address, "tenants": rows}
    return told | {"warnings": warnings(federation)}


def warnings(federation: Federation) -> list[str]:
    """What of its certificates ends soon."""
    now, folder = datetime.now(UTC), federation.door.folder
    authority, server = ends_at(folder / AUTHORITY), ends_at(folder / CERTIFICATE)
    found = []
    if authority - now < SOON:
        found.append(
            f"the certificate of {federation.name}'s authority ends on {authority:%Y-%m-%d %H:%M} "
            "UTC, and all invites with it: create another federation and invite its tenants"
        )
    if server - now < SOON and server < authority:
        found.append(
            f"the server certificate of {federation.name} ends on {server:%Y-%m-%d %H:%M} UTC; "
            "the next run renews it"
        )
    return found


def open_for_run(name: str, fewest: int) -> tuple[Federation, list[str]]:
    """The federation, ready for a run, and the tenants that may take part: who is in, or may come.

    A server certificate that ends soon is renewed. Raises InputError.
    """
    federation = find(name, "--federation")
    for warning in warnings(federation):
        log.warning("%s", warning)
    if not settings().local_network:
        raise InputError(
            "--federation: NIGHTSHIFT_LOCAL_NETWORK is off, and no tenant could reach the job",
            "Let it be on for this run.",
        )
    names = [tenant.name for tenant in federation.door.tenants() if tenant.may_come]
    if len(names) < fewest:
        raise InputError(
            f"--federation: {name} has {len(names)} tenants that were invited, {fewest} are needed",
            f"Invite more with `nightshift federation invite {name} TENANT`, or allow fewer with "
            "--minimum-tenants.",
        )
    folder = federation.door.folder
    if ends_at(folder / AUTHORITY) <= datetime.now(UTC):
        raise InputError(
            f"--federation: the certificate of {name}'s authority has ended",
            "Create another federation, and invite its tenants.",
        )
    if ends_at(folder / CERTIFICATE) - datetime.now(UTC) < SOON:
        authority = Authority.read(folder / AUTHORITY, federation.folder / CA_KEY)
        authority.issue(folder, _hosts(federation.address), SERVER_VALID)
    return federation, names


def _root() -> Path:
    return settings().home / "federations"


def _hosts(address: str) -> list[str]:
    host = split(address)[0]
    hosts = [host, LOOPBACK]
    with suppress(OSError):  # a name that nobody knows now: who listens there will say so
        hosts.append(socket.gethostbyname(host))
    return hosts


def _state(tenant: Tenant) -> str:
    if tenant.removed:
        return "removed"
    if tenant.is_in:
        return "joined"
    return "invited" if tenant.may_come else "invite expired"


def _require_name(argument: str, name: str) -> None:
    if not NAME.fullmatch(name):
        raise InputError(
            f"{argument}: {name!r} is no name of a federation or a tenant",
            "Use letters, digits, '-', '_' and '.', 64 at most.",
        )


def _require_address(address: str) -> None:
    try:
        host, _ = split(address)
    except ValueError:
        raise InputError(
            f"--address: {address!r} is not HOST:PORT", "For example 192.0.2.7:9443."
        ) from None
    if host == "0.0.0.0":  # noqa: S104 - refused
        raise InputError(
            "--address: no tenant can reach 0.0.0.0", "Give this machine's own address or name."
        )
    if reason := cannot_open(address):
        raise InputError(
            f"--address: {reason}",
            "Give an address of this machine that the tenants can reach, and a free port.",
        )
