"""What every request passes first: who asks, how often, how much, for how long, and which version;
ASGI."""

import asyncio
import hashlib
from contextlib import suppress

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from jobs.serving import ids
from jobs.serving.config import Limit
from jobs.serving.engine import ASKED, Asked, failure
from jobs.serving.live import Serving
from jobs.serving.split import OPEN_TENANT

HOSTS = ("127.0.0.1", "localhost")


class Door:
    """Knows the tenant by its API key, names the answer, limits number, size and time; for /v1."""

    def __init__(self, app: ASGIApp, serving: Serving) -> None:
        self.app, self.serving = app, serving

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith("/v1/"):
            await self.app(scope, receive, send)
            return
        config = self.serving.config
        key = _key(Headers(scope=scope).get("authorization", ""))
        tenant = self._tenant(key)
        if tenant is None:
            refusal = error(401, "give an API key that is valid: Authorization: Bearer ...")
            await refusal(scope, receive, send)
            return
        answers = scope["path"].endswith("/completions")
        limit = self.serving.limits.get(key, Limit()) if answers else Limit()
        body = await _body(receive, config.request_bytes)
        if body is None:
            refusal = error(413, f"the body has more than {config.request_bytes} bytes")
            await refusal(scope, receive, send)
            return
        if too_many := self.serving.asked.enter(key, limit):
            enough, seconds = too_many
            refusal = error(429, f"this API key may ask for {enough}; try again in {seconds} s")
            refusal.headers["Retry-After"] = str(seconds)
            await refusal(scope, receive, send)
            return
        headers = MutableHeaders(scope=scope)
        request = headers["x-request-id"] = ids.fresh(tenant, self.serving.signing_key)
        loaded = self.serving.loaded(tenant, request)
        assert loaded is not None, "Serve asks no replica before its first order"
        asked, status = Asked(tenant, loaded), 0

        async def tell(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        before = ASKED.set(asked)
        self.serving.under_way[loaded.live.version] += 1
        try:
            async with asyncio.timeout(config.request_seconds):
                await self.app(scope, _again(body, receive), tell)
        except TimeoutError:
            asked.failed = True
            if not status:
                refusal = error(504, f"there was no answer within {config.request_seconds:g} s")
                await refusal(scope, receive, send)
        finally:
            ASKED.reset(before)
            self.serving.under_way[loaded.live.version] -= 1
            self.serving.asked.leave(key, limit, asked.tokens)
            if (asked.failed or status >= 500) and answers:
                with suppress(OSError):  # a full disk, which answers with 503 itself
                    await self.serving.spool.write(failure(config.name, asked, request))

    def _tenant(self, key: str) -> str | None:
        known = self.serving.keys.get(key)
        return known if known or self.serving.keys_required else OPEN_TENANT


def _key(authorization: str) -> str:
    """SHA-256 of the API key."""
    return hashlib.sha256(authorization.removeprefix("Bearer ").strip().encode()).hexdigest()


def error(status: int, message: str) -> JSONResponse:
    """A refusal in OpenAI's form."""
    kinds = {
        401: "authentication_error",
        413: "invalid_request_error",
        429: "rate_limit_error",
    }
    kind = kinds.get(status, "server_error")
    told = {"message": message, "type": kind, "param": None, "code": status}
    return JSONResponse({"error": told}, status)


async def _body(receive: Receive, most: int) -> bytes | None:
    """The body, read no further than `most` bytes, whatever its header says; None beyond."""
    body, more = bytearray(), True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) > most:
            return None
    return bytes(body)


def _again(body: bytes, receive: Receive) -> Receive:
    """The body once more, then what comes after it."""
    given = False

    async def next_message() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return next_message
