"""A gateway process of a test's own, and senders that sign as the specifications say."""

import os
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from pydantic import SecretStr
from standardwebhooks import Webhook

from infra import hooks
from infra.database import Pool
from infra.hooks import Hook, secrets
from infra.keeper import free_port
from infra.settings import REPOSITORY

NOWHERE = "http://127.0.0.1:9/api"
"""A Prefect server that does not answer: the port of the discard service."""


@dataclass
class Door:
    """One running gateway. `process` may be killed and `start`ed again on the same port."""

    folder: Path
    prefect: str = NOWHERE
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it, and return once it answers."""
        with (self.folder / "gateway.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "deployments.webhooks.gateway", str(self.port)],
                cwd=REPOSITORY,
                env=os.environ
                | {"PREFECT_API_URL": self.prefect, "PREFECT_CLIENT_MAX_RETRIES": "0"}
                | {"PREFECT_HOME": str(self.folder / "prefect-home")},
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + 90
        while not self._answers():
            assert time.monotonic() < deadline and self.process.poll() is None, self.log()
            time.sleep(0.05)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=2) as answer:  # noqa: S310
                return answer.status == 200
        except OSError:
            return False

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def log(self) -> str:
        return (self.folder / "gateway.log").read_text()


@contextmanager
def open_door(folder: Path, prefect: str = NOWHERE) -> Iterator[Door]:
    door = Door(folder, prefect)
    door.start()
    try:
        yield door
    finally:
        assert door.process is not None
        door.process.terminate()
        door.process.wait(timeout=30)


def make_hook(pool: Pool, **values: Any) -> Hook:
    """A stored hook of a new name that starts `build-preferences`."""
    name = f"hook-{uuid.uuid4().hex[:8]}"
    given: dict[str, Any] = {"flows": ["build-preferences"], "secret": SecretStr(secrets.fresh())}
    hook = Hook(**({"name": name} | given | values))
    hooks.create(pool, hook)
    return hook


def signed(
    secret: str, body: str, id_: str | None = None, age: timedelta = timedelta(0)
) -> dict[str, str]:
    """Headers of Standard Webhooks."""
    id_, at = id_ or uuid.uuid4().hex, datetime.now(UTC) - age
    signature = Webhook(secret).sign(id_, at, body)
    return {
        "webhook-id": id_,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": signature,
    }
