"""One serving process with a tiny model for all tests of the job environment `serve`.

pytest --confcutdir=tests/jobs/serve tests/jobs/serve
"""

import hashlib
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI

from infra.contract import CANARY_SIDE, CHAMPION_SIDE
from infra.serving.process import SETTINGS
from tests.jobs.serve.models import make_adapter, make_base

REPOSITORY = Path(__file__).resolve().parents[3]
KEY, OTHER_KEY = "ns-first", "ns-second"
FEW_REQUESTS, FEW_TOKENS = "ns-few-requests", "ns-few-tokens"
KEYS = (KEY, OTHER_KEY, FEW_REQUESTS, FEW_TOKENS, CHAMPION_SIDE, CANARY_SIDE)
"""Each is its tenant's name, too."""
OURS = {
    "HF_HUB_OFFLINE": "1",
    "NIGHTSHIFT_SERVING_SIGNING_KEY": "for tests",
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": str(REPOSITORY),
}


class Served:
    """A serving process: its address, what it recorded, and orders to it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.spool = folder / "spool"
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        # short, since sockets lie in it, which have 107 bytes for their path
        self.scratch = tempfile.mkdtemp(prefix="ns-")
        with (folder / "log.txt").open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "jobs.serving.serve"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
                env=os.environ | SETTINGS | OURS | {"RAY_AUTH_TOKEN": secrets.token_hex(32)},
            )
        self._tell(
            {
                "name": "mine",
                "port": self.port,
                "spool": str(self.spool),
                "spool_bytes": 50_000_000,
                "scratch": self.scratch,
                "kv_cache_bytes": 16 * 2**20,
                "request_bytes": 200_000,
                "request_seconds": 120,
            }
        )

    def serve(
        self, version: str, adapter: Path | None, canary: Path | None = None, share: float = 0
    ) -> dict[str, Any]:
        """Order a version, and version 2 as its canary; what is served then."""
        beside = None if canary is None else self._version("2", canary)
        keys = {hashed(key): key for key in KEYS}
        limits = {
            hashed(FEW_REQUESTS): {"requests_per_minute": 2},
            hashed(FEW_TOKENS): {"tokens_per_minute": 30},
        }
        order = {"live": self._version(version, adapter), "canary": beside, "share": share}
        self._tell(order | {"keys": keys, "limits": limits, "keys_required": True})
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, (self.folder / "log.txt").read_text()[-3000:]
        return json.loads(line)

    def _version(self, version: str, adapter: Path | None) -> dict[str, Any]:
        return {
            "version": version,
            "sha256": hashlib.sha256(version.encode()).hexdigest(),
            "base": str(self.folder / "base"),
            "adapter": adapter and str(adapter),
        }

    def client(self, key: str = KEY) -> OpenAI:
        return OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0, timeout=120)

    def rows(self) -> list[dict[str, Any]]:
        """Everything recorded, in its order."""
        paths = sorted(self.spool.glob("*.jsonl"))
        return [json.loads(line) for path in paths for line in path.read_text().splitlines()]

    def row(self, key: str) -> dict[str, Any]:
        return next(row for row in self.rows() if row["key"] == key)

    def end(self) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.terminate()
        self.process.wait(120)
        self.process.stdin.close()
        self.process.stdout.close()
        shutil.rmtree(self.scratch, ignore_errors=True)

    def _tell(self, what: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(what) + "\n")
        self.process.stdin.flush()


def hashed(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("served")
    base = make_base(folder / "base")
    for number in (1, 2):
        make_adapter(base, folder / f"adapter-{number}", number)
    served = Served(folder)
    try:
        state = served.serve("1", folder / "adapter-1" / "adapter")
        assert state["live"]["version"] == "1" and state["error"] is None, state
        yield served
    finally:
        served.end()
    wait_until_gone(served.scratch)


def wait_until_gone(mark: str) -> None:
    """Until no process has `mark` on its command line, as Ray's have their session's folder."""
    deadline = time.monotonic() + 30
    while left := [path for path in Path("/proc").glob("[0-9]*/cmdline") if mark in _read(path)]:
        assert time.monotonic() < deadline, [_read(path) for path in left]
        time.sleep(0.1)


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:  # it has ended
        return ""
