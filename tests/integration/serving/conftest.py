"""A model whose challenger may take over, and a stand-in for its endpoint.

It does with the rows what the real one does, and answers at once: the real one takes 40 seconds of
CPU to start, and is in tests/end_to_end/test_serving.py.
"""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from infra import objects
from infra.contract import CANARY_SIDE
from infra.database import Pool
from infra.models import registry, verdicts
from infra.models.registry import ModelVersion
from infra.records import rollouts, runs
from infra.serving.endpoint import address_file
from infra.serving.secret import rollout_keys
from tasks.champions import announce
from tasks.champions.gate import first_version
from tasks.serving import steps as serving
from tests.helpers.rollouts import ANSWER

_numbers = count()


@pytest.fixture
def model(database: Pool, home: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Three versions, with verdicts on the first two; the first is champion."""
    name = f"rolled-{next(_numbers)}"
    run = runs.begin(database, "test-flow", {})
    home.mkdir(exist_ok=True)
    base = objects.put(folder(home, "base", "config.json", "tokenizer_config.json"), uri(home, "b"))
    for number in (1, 2, 3):
        made = folder(home, f"made-{number}", "adapter/adapter_config.json")
        stored = objects.put(made, uri(home, str(number)))
        version = ModelVersion(
            kind="policy", model=name, version="", uri=stored.uri, sha256=stored.sha256,
            base=base.uri,
        )  # fmt: skip
        assert registry.register(f"run-{number}", version).version == str(number)
        if number < 3:
            verdicts.save(database, run, name, str(number), "none", first_version())
    registry.promote(name, "1")
    monkeypatch.setattr(announce, "promoted", lambda _version: None)
    for step in ("finish_decided", "check", "load", "watch", "promote"):
        monkeypatch.setattr(serving, step, getattr(serving, step).fn)  # without Prefect
    monkeypatch.setattr(serving, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(serving, "DOWN_SECONDS", 10)  # a stand-in may be slow on a busy machine
    return name


def folder(home: Path, name: str, *files: str) -> Path:
    for file in files:
        path = home / name / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return home / name


def uri(home: Path, name: str) -> str:
    return f"{home.as_uri()}/objects/{name}"


class StandIn(BaseHTTPRequestHandler):
    """`failing`: whether the challenger fails; `refusing`: whether it cannot be served at all;
    `asked`: the paths of questions."""

    pool: Pool
    model: str
    asked: set[str]
    failing = False
    refusing = False

    def do_GET(self) -> None:
        champion = registry.by_alias(self.model, "champion")
        assert champion is not None
        split = rollouts.split(self.pool, self.model, champion.version)
        told: dict[str, Any] = {
            "model": self.model,
            "live": {"version": champion.version},
            "canary": split and not self.refusing and {"version": split[0]},
            "share": split[1] if split else 0,
            "refused": {"version": "2"} if self.refusing else None,
            "error": "it is broken" if self.refusing else None,
            "under_way": {},
        }
        self._answer(200, told)

    def do_POST(self) -> None:
        self.asked.add(self.path)
        self.rfile.read(int(self.headers["Content-Length"]))
        canary = rollout_keys()[CANARY_SIDE] in self.headers["Authorization"]
        failed = canary and self.failing
        reason = "error" if failed else "stop"
        version, tenant = ("2", "@canary") if canary else ("1", "@champion")
        with self.pool.connection() as connection:
            connection.execute(ANSWER, [self.model, version, tenant, reason, 5])
        self._answer(500 if failed else 200, {"choices": [{"text": "b"}]})

    def _answer(self, status: int, body: dict[str, Any]) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def endpoint(database: Pool, model: str) -> Iterator[type[StandIn]]:
    kind = type("Endpoint", (StandIn,), {"pool": database, "model": model, "asked": set()})
    with ThreadingHTTPServer(("127.0.0.1", 0), kind) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        address_file(model).parent.mkdir(parents=True, exist_ok=True)
        address_file(model).write_text(f"http://127.0.0.1:{server.server_port}")
        yield kind
        server.shutdown()
        thread.join()


@pytest.fixture
def prompts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Held-out prompts; reports are written, and shown to nobody."""
    monkeypatch.setattr("tasks.serving.report.show", lambda *_: None)
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "one"}\n{"prompt": "two"}\n')
    return tmp_path / "prompts.jsonl"
