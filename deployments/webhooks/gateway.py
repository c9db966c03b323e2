"""The gateway as a server: its address, its TLS, its patience; run by `infra.keeper`."""

import asyncio
import os
import signal
import socket
import ssl
import subprocess
import sys
from ipaddress import ip_address
from pathlib import Path
from typing import Any, cast

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from infra import database, inert, keeper
from infra.errors import ServiceUnavailable, SettingsError
from infra.settings import settings

HEADER_SECONDS = 10
HEADER_LIMIT = 64 * 1024
CONNECTIONS = 512


class Gateway:
    """`python -m deployments.webhooks.gateway` on the address that the settings give."""

    death_signal = signal.SIGTERM
    end_seconds = 10.0
    error = ServiceUnavailable

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = settings().gateway_port

    def start(self) -> subprocess.Popen[bytes]:
        self.port = self.port or keeper.free_port()
        self._check_port()
        return subprocess.Popen(
            [sys.executable, "-m", "deployments.webhooks.gateway", str(self.port)],
            stdin=subprocess.DEVNULL,
            preexec_fn=keeper.die_with_parent(self.death_signal),
            env=os.environ | {"PREFECT_CLIENT_MAX_RETRIES": "0"},
        )

    def _check_port(self) -> None:
        host = settings().gateway_host
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, self.port))
            except OSError as error:
                raise ServiceUnavailable(
                    f"the gateway cannot listen on {host} port {self.port}: {error.strerror}",
                    "Set NIGHTSHIFT_GATEWAY_PORT to a port that is free, or to 0.",
                ) from None

    def address(self) -> dict[str, str] | None:
        host = settings().gateway_host
        scheme = "https" if settings().gateway_certificate else "http"
        url = f"{scheme}://{f'[{host}]' if ':' in host else host}:{self.port}"
        unchecked = ssl._create_unverified_context()  # noqa: S323 - only whether it answers
        return None if keeper.answer(f"{url}/health", unchecked) is None else {"url": url}


class Gathered:
    """A transport that sends at once what is written in one turn of the loop.

    uvicorn writes the head of an answer and its body one after the other: two packets otherwise.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._parts: list[bytes] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        if not self._parts:
            self._loop.call_soon(self._flush)
        self._parts.append(data)

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        if self._parts:
            self._transport.write(b"".join(self._parts))
            self._parts.clear()


class PatientProtocol(HttpToolsProtocol):
    """uvicorn waits for ever for the headers of a request, however long they are; this does not."""

    _deadline = None
    _unread = 0

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(cast(asyncio.Transport, Gathered(transport, self.loop)))
        self._await_headers()

    def data_received(self, data: bytes) -> None:
        if self._deadline is None and (self.cycle is None or self.cycle.response_complete):
            self._await_headers()
        super().data_received(data)
        if self._deadline is not None:
            self._unread += len(data)
            if self._unread > HEADER_LIMIT:
                self.transport.close()

    def on_headers_complete(self) -> None:
        self._headers_came()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._headers_came()
        super().connection_lost(exc)

    def _await_headers(self) -> None:
        self._unread = 0
        self._deadline = self.loop.call_later(HEADER_SECONDS, self.transport.close)

    def _headers_came(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


def check() -> None:
    """Raises SettingsError for an address that would carry secrets in the clear."""
    given = settings()
    if bool(given.gateway_certificate) != bool(given.gateway_key):
        raise SettingsError(
            "NIGHTSHIFT_GATEWAY_CERTIFICATE and NIGHTSHIFT_GATEWAY_KEY go together",
            "Set both, or neither.",
        )
    for name in ("gateway_certificate", "gateway_key"):
        file = getattr(given, name)
        if file is not None and not file.is_file():
            raise SettingsError(f"NIGHTSHIFT_{name.upper()}: there is no file {file}", "Mend it.")
    try:
        loopback = ip_address(given.gateway_host).is_loopback
    except ValueError:
        raise SettingsError(
            f"NIGHTSHIFT_GATEWAY_HOST: {given.gateway_host!r} is no IP address",
            "Give one, e.g. 127.0.0.1.",
        ) from None
    if not (loopback or given.gateway_certificate or given.trusted_proxies):
        raise SettingsError(
            f"NIGHTSHIFT_GATEWAY_HOST={given.gateway_host} would take secrets in the clear",
            "Set NIGHTSHIFT_GATEWAY_CERTIFICATE and _KEY, or NIGHTSHIFT_TRUSTED_PROXIES to the "
            "proxy that ends TLS.",
        )


def main() -> None:
    check()
    inert.log_lines("%(asctime)s %(name)s %(message)s")
    given = settings()
    database.pool()
    uvicorn.run(
        "deployments.webhooks.app:app",
        host=given.gateway_host,
        port=int(sys.argv[1]),
        http=PatientProtocol,
        loop="uvloop",
        ssl_certfile=given.gateway_certificate,
        ssl_keyfile=given.gateway_key,
        proxy_headers=bool(given.trusted_proxies),
        forwarded_allow_ips=given.trusted_proxies,
        server_header=False,
        access_log=False,
        log_level="warning",
        limit_concurrency=CONNECTIONS,
        timeout_graceful_shutdown=10,
    )


if __name__ == "__main__":
    main()
