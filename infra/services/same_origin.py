"""Serve an ASGI application on loopback to programs and to its own pages, to no other web page.

    python -m infra.services.same_origin prefect.server.api.server:create_app 4200

A browser names the page that asks: every request that could change something, and every
WebSocket, carries its `Origin`. One that is not ours is refused, whatever its content type. So is a
`Host` that is not ours: a name of the page's own domain that leads here (DNS rebinding).
"""

import sys
from collections.abc import Collection

import uvicorn
from starlette.datastructures import Headers
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.importer import import_from_string

from infra.services.prefect_server import HOSTS, origins


class SameOrigin:
    """Passes on what comes from `allowed` origins or names none, as programs do."""

    def __init__(self, app: ASGIApp, allowed: Collection[str]) -> None:
        self.app = app
        self.allowed = allowed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        origin = None if scope["type"] == "lifespan" else Headers(scope=scope).get("origin")
        if origin is None or origin in self.allowed:
            await self.app(scope, receive, send)
        else:
            await PlainTextResponse("not for other origins", 403)(scope, receive, send)


def main() -> None:
    factory, port = sys.argv[1], int(sys.argv[2])
    app = SameOrigin(import_from_string(factory)(), origins(port))
    uvicorn.run(
        TrustedHostMiddleware(app, HOSTS, www_redirect=False),
        host=HOSTS[0],
        port=port,
        log_level="warning",
    )


if __name__ == "__main__":
    main()
