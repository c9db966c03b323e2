"""A federation whose tenants are on their own machines: its SuperLink listens on the federation's
address, and its door says who may come in.

Over the network a tenant reaches two things: `POST /v1/tenant`, by which it shows its invite and
its key and hears which start of the SuperLink this is; and Flower's Fleet API, which the door opens
for those keys only. All else that a SuperLink serves is for this machine.
"""

import base64
import binascii
import os
import secrets
import socket
import time
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from flwr.proto.control_pb2 import UnregisterNodeRequest
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER
from pydantic import BaseModel, SecretStr

from infra.errors import InputError
from jobs.federated.config import FederatedConfig
from jobs.federated.door import Door, Refused, Seen, cannot_open, split
from jobs.federated.federation import SuperLink
from jobs.federated.keys import LOOPBACK
from jobs.federated.processes import superlink
from jobs.federated.state import State
from jobs.runtime import Job

DOOR, HOST = "FEDERATION_DOOR", "FEDERATION_HOST"
"""Environment variables of the SuperLink's process."""
KNOCK, FLEET = "/v1/tenant", "/v1/fleet/"
LONGEST_KNOCK = 8192
"""Bytes."""


class Knock(BaseModel):
    """What a tenant says every two seconds. `clock`: its Unix seconds."""

    tenant: str
    token: SecretStr
    public_key: str
    clock: float


def open_superlink() -> None:
    """As `superlink`, with the door before it."""
    from flwr.superlink import main

    create, guard = main.create_app, Guard(Door(Path(os.environ[DOOR])), os.environ[HOST])

    def guarded(*given: Any, **named: Any) -> FastAPI:
        served = create(*given, **named)
        served.post(KNOCK)(guard.answer)
        served.middleware("http")(guard.admit)
        return served

    main.create_app = guarded
    superlink()


class Guard:
    """Stands at the door of one SuperLink, whose own machine has the address `host`."""

    def __init__(self, door: Door, host: str) -> None:
        self.door = door
        self.here = {LOOPBACK, socket.gethostbyname(host)}
        self.session = secrets.token_hex(8)
        self.names: dict[str, str] = {}

    async def answer(self, knock: Knock) -> Response:
        """Which start this is and what time, for who may come in; else why not."""
        try:
            token = knock.token.get_secret_value()
            tenant = self.door.admit(knock.tenant, token, knock.public_key)
        except Refused as refusal:
            return JSONResponse({"refused": str(refusal)}, 403)
        self.names[knock.public_key] = tenant.name
        self.door.see(tenant.name, knock.clock)
        return JSONResponse({"session": self.session, "time": time.time()})

    async def admit(self, request: Request, call_next: Any) -> Response:
        """Let through what the sender may ask."""
        path = request.url.path
        if path.startswith(FLEET):
            if not self._is_in(request.headers.get(FLEET_HTTP_PUBLIC_KEY_HEADER, "")):
                return Response(status_code=403)
        elif path == KNOCK:
            length = request.headers.get("content-length", "")
            if not length.isdecimal() or int(length) > LONGEST_KNOCK:
                return Response(status_code=413)
        elif request.client is None or request.client.host not in self.here:
            return Response(status_code=403)
        return await call_next(request)

    def _is_in(self, header: str) -> bool:
        """Whether the key of a request, whose signature Flower verifies, is a tenant's now."""
        try:
            key = base64.b64decode(header, validate=True).decode()
        except (binascii.Error, UnicodeDecodeError):
            return False
        tenant = self.door.tenant(self.names.get(key, ""))
        return tenant is not None and tenant.is_in and tenant.public_key == key


class OpenFederation(SuperLink):
    """The SuperLink of a job, at the federation's address."""

    program = staticmethod(open_superlink)

    def __init__(self, folder: Path, job: Job[FederatedConfig]) -> None:
        door, address = job.config.door, job.config.address
        assert door is not None and address is not None
        if reason := cannot_open(address):
            raise InputError(
                f"--federation: {reason}",
                "End what listens there, perhaps another run of the same federation.",
            )
        os.environ |= {DOOR: door, HOST: split(address)[0]}
        self.job, self.door = job, Door(Path(door))
        self.keys: dict[int, str] = {}
        self.noted = 0
        super().__init__(folder, address, self.door.folder)

    def look(self, run: int) -> dict[str, float]:
        """As a SuperLink's. Who has joined is let in, who was removed is forgotten; `names` has
        those whose nodes are up."""
        moved = super().look(run)
        tenants = {t.name: t for t in self.door.tenants() if t.name in self.job.config.names}
        keys = {t.public_key: name for name, t in tenants.items() if t.is_in and t.public_key}
        for node in [node for node, key in self.keys.items() if key not in keys]:
            self.control.UnregisterNode(UnregisterNodeRequest(node_id=node))
            del self.keys[node]
        for key in keys.keys() - self.keys.values():
            self.keys[self.register(key.encode())] = key
        self.names = {node: keys[key] for node, key in self.keys.items() if self._is_up(keys[key])}
        self._note_rounds()
        return moved

    def _is_up(self, name: str) -> bool:
        seen: Seen | None = self.door.seen(name)
        return seen is not None and seen.is_up

    def _note_rounds(self) -> None:
        """For `nightshift federation status`."""
        saved = self.job.latest_checkpoint()
        if saved is None or saved[0] == self.noted:
            return
        try:
            row = State.read(saved[1]).log[-1]
        except FileNotFoundError:  # a newer checkpoint has replaced it meanwhile
            return
        self.door.note_rounds(notes_of(row, self.job.spec.key.partition("/")[0]))
        self.noted = row["round"]


def notes_of(row: dict[str, Any], run: str) -> dict[str, dict[str, Any]]:
    """Of each tenant: the round of the log's `row`, its share of the rows, which secure aggregation
    hides, or why it was left out."""
    told = {"run": run, "round": row["round"]}
    rows = {name: counts.get("num-examples") for name, counts in row["counts"].items()}
    total = sum(filter(None, rows.values()))
    notes = {
        name: told | ({"share": rows[name] / total} if rows.get(name) else {})
        for name in row["took_part"]
    }
    return notes | {name: told | {"left_out": why} for name, why in row["left_out"].items()}
