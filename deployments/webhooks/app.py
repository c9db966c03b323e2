"""The webhook gateway: `POST /hooks/<hook>` by other systems becomes a flow run.

    python -m deployments.webhooks.gateway 8180        (nightshift up runs it)

Accepted means stored: one writer commits all deliveries that wait in one transaction, and only
then are they answered with 202. `deployments.webhooks.dispatch` starts their runs.
"""

import asyncio
import json
import logging
import os
import re
import time
from collections.abc import AsyncIterator, Set
from contextlib import AsyncExitStack, asynccontextmanager
from functools import lru_cache
from uuid import UUID

import psycopg
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool, PoolTimeout
from starlette.datastructures import URL
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from deployments.catalogue import flow_names, parameter_model
from deployments.webhooks import mapping, signatures
from deployments.webhooks.answers import ANSWERS, BODY, REJECTED, problem
from deployments.webhooks.signatures import Malformed, Refused
from infra import database, hooks
from infra.hooks import Hook, deliveries, secrets
from infra.hooks.deliveries import AsyncPool, Delivery

log = logging.getLogger("nightshift")
audit = logging.getLogger("nightshift.audit")

HOOK = re.compile(r"/hooks/([^/]+)(?:/([^/]+))?")
LOGGED = 64
"""Characters of a hook's name; hooks have at most 63."""
BODY_LIMIT = 1_000_000
BODY_SECONDS = 10
BATCH = 256
WAITING_LIMIT = 4096
REFRESH_SECONDS = 1.0


class Writer:
    """Commits deliveries in batches: while one batch is being committed, the next one gathers."""

    def __init__(self, pool: AsyncPool) -> None:
        self.pool = pool
        self.waiting: asyncio.Queue[tuple[Delivery, asyncio.Future[UUID]]] = asyncio.Queue(
            WAITING_LIMIT
        )

    async def store(self, delivery: Delivery) -> UUID:
        """Its id once it is on disk. Raises AnotherFlow, QueueFull, psycopg.Error, PoolTimeout."""
        answer: asyncio.Future[UUID] = asyncio.get_running_loop().create_future()
        self.waiting.put_nowait((delivery, answer))
        return await answer

    async def run(self) -> None:
        while True:
            batch = [await self.waiting.get()]
            while len(batch) < BATCH and not self.waiting.empty():
                batch.append(self.waiting.get_nowait())
            try:
                ids = await deliveries.store(self.pool, [delivery for delivery, _ in batch])
            except (psycopg.Error, PoolTimeout) as error:
                for _, answer in batch:
                    if not answer.done():
                        answer.set_exception(error)
            else:
                for (_, answer), id_ in zip(batch, ids, strict=True):
                    if answer.done():
                        continue
                    if isinstance(id_, UUID):
                        answer.set_result(id_)
                    else:
                        answer.set_exception(id_)


class Gateway:
    """What the requests share: the hooks as they are in the database, and the writer."""

    def __init__(self, pool: AsyncPool) -> None:
        self.pool = pool
        self.writer = Writer(pool)
        self.hooks: dict[str, Hook] = {}
        self.unreadable: Set[str] = set()
        self.tokens: dict[str, tuple[float, float]] = {}
        self.nobody = Hook(name="nobody", flows=["none"], secret=secrets.fresh())  # pyright: ignore
        self.models = {name: parameter_model(name) for name in flow_names()}

    async def read_hooks(self) -> None:
        async with self.pool.connection() as connection:
            cursor = await connection.execute(f"SELECT {hooks.COLUMNS} FROM hooks".encode())  # noqa: S608
            found, wrong = hooks.readable(await cursor.fetchall())
        self.hooks = {hook.name: hook for hook in found}
        for name in wrong.keys() - self.unreadable:
            log.error("the hook %s takes nothing: %s", name, wrong[name])
        self.unreadable = wrong.keys()

    async def keep_hooks_fresh(self) -> None:
        while True:
            await asyncio.sleep(REFRESH_SECONDS)
            try:
                await self.read_hooks()
            except (psycopg.Error, PoolTimeout):
                continue  # the writer refuses deliveries while there is no database

    def take_token(self, hook: Hook) -> float:
        """0 if the hook may deliver now, else in how many seconds: a token bucket."""
        now, rate = time.monotonic(), hook.per_minute / 60
        left, since = self.tokens.get(hook.name, (float(hook.per_minute), now))
        left = min(float(hook.per_minute), left + (now - since) * rate)
        if left < 1:
            return (1 - left) / rate
        self.tokens[hook.name] = left - 1, now
        return 0


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    from deployments.webhooks.dispatch import dispatch

    pool: AsyncPool = AsyncConnectionPool(
        database.url(),
        min_size=2,
        max_size=4,
        open=False,
        timeout=5,
        kwargs={"autocommit": True, "row_factory": dict_row},
    )
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(pool)
        gateway = app.state.gateway = Gateway(pool)
        await gateway.read_hooks()
        tasks = [
            asyncio.create_task(work)
            for work in (gateway.writer.run(), gateway.keep_hooks_fresh(), dispatch(pool))
        ]
        for task in tasks:
            task.add_done_callback(_end_with)
        yield
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _end_with(task: "asyncio.Task[None]") -> None:
    """A gateway without its writer or dispatcher is worse than none: the keeper starts another."""
    if not task.cancelled():
        log.critical("the gateway ends", exc_info=task.exception())
        os._exit(1)


class Doors:
    """POST /hooks/... itself, everything else by FastAPI, whose routing and layers would be half of
    a delivery's time. The two routes below are what its OpenAPI document tells of it."""

    def __init__(self, others: FastAPI) -> None:
        self.others = others

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        posted = scope["type"] == "http" and scope["method"] == "POST"
        if posted and (found := HOOK.fullmatch(scope["path"])):
            answer = await take(self.others.state.gateway, scope, receive, *found.groups())
            await answer(scope, receive, send)
        else:
            await self.others(scope, receive, send)


api = FastAPI(title="Nightshift webhooks", lifespan=lifespan, docs_url=None, redoc_url=None)
app = Doors(api)


@api.post("/hooks/{hook}", status_code=202, responses=ANSWERS, openapi_extra=BODY)
async def deliver(hook: str) -> None:
    """Start the hook's first flow."""


@api.post("/hooks/{hook}/{flow}", status_code=202, responses=ANSWERS, openapi_extra=BODY)
async def deliver_to(hook: str, flow: str) -> None:
    """Start one of the flows that the hook may start."""


@api.get("/deliveries/{delivery}", responses={404: REJECTED})
async def status(request: Request, delivery: str) -> Response:
    """What became of a delivery; `Authorization: Bearer` with the secret of its hook."""
    gateway: Gateway = request.app.state.gateway
    try:
        row = await deliveries.find(gateway.pool, UUID(delivery))
    except ValueError:
        row = None
    except (psycopg.Error, PoolTimeout):
        return problem(503, "the database does not answer", retry_after=5)
    hook = gateway.hooks.get(row["hook"]) if row else None
    if not signatures.is_bearer((hook or gateway.nobody).secrets, request.headers) or not row:
        return problem(404, "not found")
    shown = ("id", "hook", "flow", "state", "flow_run", "error", "received_at")
    return JSONResponse(json.loads(json.dumps({name: row[name] for name in shown}, default=str)))


@api.get("/health")
async def health(request: Request) -> Response:
    """Whether deliveries can be stored."""
    gateway: Gateway = request.app.state.gateway
    try:
        async with gateway.pool.connection() as connection:
            await connection.execute("SELECT 1")
    except (psycopg.Error, PoolTimeout):
        return problem(503, "the database does not answer", retry_after=5)
    return JSONResponse(True)


async def take(
    gateway: Gateway, scope: Scope, receive: Receive, name: str, flow: str | None
) -> Response:
    """Verify, read, check, store, answer."""
    try:
        async with asyncio.timeout(BODY_SECONDS):
            body = await _body(receive)
    except TimeoutError:
        return _cut_off(scope, name, 408, "the body took too long")
    except ClientDisconnect:
        return _cut_off(scope, name, 400, "the body is not whole")
    if body is None:
        return _cut_off(scope, name, 413, f"the body has more than {BODY_LIMIT} bytes")
    # the first of each name, as Starlette's Headers have it
    headers = {n.decode("latin-1"): v.decode("latin-1") for n, v in reversed(scope["headers"])}
    encoding = headers.get("content-encoding", "identity")
    if encoding.lower() != "identity":  # before the signature: of which bytes, nobody says
        _refuse(scope, name, "an encoded body")
        return problem(415, "send the body as it is, without encoding", "content-encoding")
    hook = gateway.hooks.get(name, gateway.nobody)
    try:
        signatures.verify(hook.form, hook.secrets, headers, body)
        if hook is gateway.nobody or (flow or hook.flows[0]) not in hook.flows:
            raise Refused("no such hook, or not its flow")
    except Refused as refusal:
        _refuse(scope, name, str(refusal))
        return problem(401, "not authorised")
    if seconds := gateway.take_token(hook):
        _refuse(scope, name, "rate limit")
        return problem(429, f"at most {hook.per_minute} a minute", retry_after=seconds)
    if hook.form == "github" and headers.get("x-github-event") == "ping":
        return JSONResponse({"pong": True})
    base = base_url(scope["scheme"], headers.get("host"), scope["server"])
    try:
        return await _accept(gateway, hook, flow or hook.flows[0], headers, body, base)
    except Malformed as error:
        # its message may quote the body
        _refuse(scope, name, f"the field {error.field[:LOGGED]} is wrong")
        return problem(400, str(error), field=error.field)


async def _accept(
    gateway: Gateway, hook: Hook, flow: str, headers: dict[str, str], body: bytes, base: str
) -> Response:
    """Raises Malformed."""
    event = signatures.read(hook.form, headers, body)
    given = mapping.parameters(hook, gateway.models[flow], event)
    delivery = Delivery(hook.name, event.key, flow, body, given, hook.debounce)
    try:
        id_ = await gateway.writer.store(delivery)
    except deliveries.AnotherFlow as error:
        raise Malformed(str(error), "flow") from None
    except asyncio.QueueFull:
        return problem(503, "too many deliveries wait", retry_after=1)
    except (psycopg.Error, PoolTimeout):
        return problem(503, "the database does not answer", retry_after=5)
    url = f"{base}deliveries/{id_}"
    return JSONResponse({"delivery": str(id_), "status": url}, 202, {"Location": url})


@lru_cache(maxsize=256)
def base_url(scheme: str, host: str | None, server: tuple[str, int]) -> str:
    """The address by which the sender reached the gateway, as Starlette tells it."""
    headers = [(b"host", host.encode("latin-1"))] if host is not None else []
    return str(URL(scope={"scheme": scheme, "server": server, "path": "/", "headers": headers}))


async def _body(receive: Receive) -> bytes | None:
    """The whole body, or None if it is larger than BODY_LIMIT. Raises ClientDisconnect."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        body += message["body"]
        if len(body) > BODY_LIMIT:
            return None
        if not message["more_body"]:
            return bytes(body)


def _cut_off(scope: Scope, hook: str, code: int, reason: str) -> Response:
    _refuse(scope, hook, reason)
    return problem(code, reason, close=True)


def _refuse(scope: Scope, hook: str, reason: str) -> None:
    """A line of the audit log. What came from outside is cut, and quoted as JSON."""
    address = scope["client"][0] if scope["client"] else ""
    audit.warning(json.dumps({"refused": hook[:LOGGED], "from": address, "because": reason}))
