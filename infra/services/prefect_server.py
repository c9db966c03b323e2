"""The Prefect server of this machine, on the same PostgreSQL, run by `infra.keeper`.

It asks for a password, which lies in a file that only its user can read. PREFECT_API_URL names a
server of your own instead, and PREFECT_API_AUTH_STRING its password. Nothing here imports Prefect:
it is a program that is started, and its address and password go into the environment of the process
that runs flows.
"""

import json
import os
import secrets
import shlex
import signal
import subprocess
import sys
import urllib.request
from base64 import b64encode
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from uuid import uuid4

from infra import database, keeper, private
from infra.errors import ServiceUnavailable
from infra.services import proxies
from infra.settings import settings

POOL = "local"
"""The work pool whose worker `nightshift up` runs."""
HERE = "run"
"""Tag of flow runs that `nightshift run` runs in its own process."""
HOSTS = ("127.0.0.1", "localhost")
USUAL_PORT = 4200
"""Prefect's own, where bookmarks and tunnels lead."""


def origins(port: int) -> list[str]:
    """Those of the pages that a server on this port serves."""
    return [f"http://{host}:{port}" for host in HOSTS]


def flow_run_locks() -> Path:
    """The folder with a file for each flow run, which its process holds locked."""
    return settings().home / "flow-runs"


class PrefectServer:
    """A Prefect server on loopback, for this machine's programs and its own UI; its log lies in
    `folder`."""

    death_signal = signal.SIGTERM
    end_seconds = 10.0
    error = ServiceUnavailable

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = 0
        self.password_file = folder / "password"

    def password(self) -> str:
        """USER:PASSWORD, as Prefect calls an auth string; made on first use."""
        return private.secret(self.password_file, lambda: f"nightshift:{secrets.token_urlsafe(32)}")

    def start(self) -> subprocess.Popen[bytes]:
        database.ensure_database("prefect")
        # the same after a crash, if it can be: clients know it
        self.port = keeper.free_port(self.port or USUAL_PORT)
        return subprocess.Popen(
            [sys.executable, "-m", "infra.services.same_origin"]
            + ["prefect.server.api.server:create_app", str(self.port)],
            stdin=subprocess.DEVNULL,
            preexec_fn=keeper.die_with_parent(self.death_signal),
            env=os.environ
            | {
                "PREFECT_HOME": str(self.folder / "home"),
                "PREFECT_API_DATABASE_CONNECTION_URL": database.url("prefect", "asyncpg"),
                "PREFECT_API_URL": f"http://127.0.0.1:{self.port}/api",
                "PREFECT_SERVER_API_AUTH_STRING": self.password(),
                "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": ",".join(origins(self.port)),
                "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
                "PREFECT_LOGGING_SERVER_LEVEL": "WARNING",
            },
        )

    def address(self) -> dict[str, str] | None:
        api = f"http://127.0.0.1:{self.port}/api"
        # Of two that begin at once on one port, one answers: by its password it is known.
        asked = urllib.request.Request(f"{api}/admin/version")  # noqa: S310 - http, on loopback
        asked.add_header("Authorization", _basic(self.password()))
        if keeper.answer(asked) is None:
            return None
        return {"api": api, "ui": f"http://127.0.0.1:{self.port}"}


def own() -> PrefectServer:
    """The server of this home folder."""
    return PrefectServer(settings().home / "prefect")


def find() -> str:
    """As `ensure`, but nothing is started. Raises ServiceUnavailable if no server runs."""
    if not os.environ.get("PREFECT_API_URL"):
        address = keeper.address(own())
        if not address:
            raise ServiceUnavailable(
                f"no Prefect server runs for {settings().home}",
                "Start one with `nightshift up --detach`, or set PREFECT_API_URL.",
            )
        _use(address["api"])
    elif is_own():
        _use(os.environ["PREFECT_API_URL"])
    _use_own_home()
    return os.environ["PREFECT_API_URL"].removesuffix("/api")


def ask(path: str, content: dict[str, Any] | None = None) -> Any:
    """POST `content` to, or GET without it from, the API that PREFECT_API_URL names, without
    importing Prefect. Raises OSError, also if it is no Prefect server that answers."""
    try:
        return _answer(path, content, {})
    except HTTPError as refusal:
        if content is None or refusal.code != 403:
            raise
        client = uuid4().hex
        try:  # it may want a token against CSRF
            token = _answer(f"csrf-token?client={client}", None, {})["token"]
        except (OSError, LookupError, TypeError):
            raise refusal from None
    headers = {"Prefect-Csrf-Client": client, "Prefect-Csrf-Token": token}
    return _answer(path, content, headers)


def _answer(path: str, content: dict[str, Any] | None, headers: dict[str, str]) -> Any:
    asked = urllib.request.Request(  # noqa: S310 - PREFECT_API_URL is http
        f"{os.environ['PREFECT_API_URL']}/{path}",
        data=None if content is None else json.dumps(content).encode(),
        headers={"Content-Type": "application/json"} | headers,
    )
    if auth := os.environ.get("PREFECT_API_AUTH_STRING"):
        asked.add_header("Authorization", _basic(auth))
    try:
        with urllib.request.urlopen(asked, timeout=10) as answer:  # noqa: S310
            return json.load(answer)
    except HTTPError as error:
        error.close()  # it holds the connection
        raise
    except (HTTPException, ValueError) as error:
        raise OSError(f"what answers is no Prefect server: {error}") from None


def _basic(auth: str) -> str:
    return f"Basic {b64encode(auth.encode()).decode()}"


def deployments(flows: list[str]) -> list[dict[str, Any]]:
    """The deployments of these flows, each named like its flow. Raises OSError.

    A server tells 200 at once, and may have more of others.
    """
    named = {"name": {"any_": flows}}
    return ask("deployments/filter", {"flows": named, "deployments": named})


def unanswered(error: OSError) -> ServiceUnavailable:
    """What to say where `ask` raised an error."""
    remedy = "Start it, or correct PREFECT_API_URL and PREFECT_API_AUTH_STRING."
    if through := proxies.named():
        remedy += f" It is asked through {', '.join(through)}; no_proxy names hosts that are not."
    return ServiceUnavailable(
        f"the Prefect server at {os.environ['PREFECT_API_URL']} does not answer: {error}", remedy
    )


def ensure() -> str:
    """Have a Prefect server, and let this process's Prefect use it; the address of its UI.

    Goes into the environment, which Prefect reads when it is imported or told to look again.
    """
    _use_own_home()
    if not os.environ.get("PREFECT_API_URL"):
        _use(keeper.use(own())["api"])
    elif is_own():
        _use(os.environ["PREFECT_API_URL"])
    return os.environ["PREFECT_API_URL"].removesuffix("/api")


def is_own() -> bool:
    """Whether PREFECT_API_URL names the server of this home folder, which runs."""
    return os.environ["PREFECT_API_URL"].rstrip("/") == keeper.address(own()).get("api")


def for_a_shell() -> str:
    """What a person writes before `prefect` to ask the same server; no password is in it."""
    words = f"PREFECT_API_URL={shlex.quote(os.environ['PREFECT_API_URL'])}"
    if is_own():
        words += f' PREFECT_API_AUTH_STRING="$(cat {shlex.quote(str(own().password_file))})"'
    return words


def _use(api: str) -> None:
    """The server of this home folder, which no other password than its own opens."""
    os.environ["PREFECT_API_URL"] = api
    os.environ["PREFECT_API_AUTH_STRING"] = own().password()


def _use_own_home() -> None:
    """Prefect makes the folder, but not those above it."""
    folder = settings().home / "prefect" / "home"
    folder.mkdir(parents=True, exist_ok=True)
    os.environ["PREFECT_HOME"] = str(folder)
