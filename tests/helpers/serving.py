"""A policy of tiny models that is served by the command, and questions to it."""

import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import psutil
import psycopg
from psycopg.rows import dict_row

from infra.settings import REPOSITORY
from tests.helpers.users import User

REGISTER = """
import sys
from pathlib import Path
from infra import database, objects
from infra.models import registry, verdicts
from infra.models.registry import ModelVersion
from infra.records import runs
from infra.settings import settings
from tasks.champions.gate import first_version

folder, pool = Path(sys.argv[1]), database.pool()
run = runs.begin(pool, "nightly-ppo", {"model": "tiny"})
store = settings().objects_uri
base = objects.put(folder / "base", f"{store}/models/base")
adapter = objects.put(folder / "adapter-1", f"{store}/models/adapter")
for made in (base, adapter, objects.put(folder / "adapter-2", f"{store}/models/adapter-2")):
    version = registry.register(run.id, ModelVersion(
        model="tiny", kind="policy", version="", uri=made.uri, sha256=made.sha256,
        base=base.uri))
    verdicts.save(pool, run, "tiny", version.version, "none", first_version())
    registry.promote("tiny", version.version)
(folder / "broken" / "adapter").mkdir(parents=True)
(folder / "broken" / "adapter" / "adapter_config.json").write_text('{"r": 8}')
made = objects.put(folder / "broken", f"{store}/models/broken")
version = registry.challenge(registry.register(run.id, ModelVersion(
    model="tiny", kind="policy", version="", uri=made.uri, sha256=made.sha256, base=base.uri)))
verdicts.save(pool, run, "tiny", version.version, "none", first_version())
"""


def register(user: User, python: Path) -> None:
    """Make models with `python`, which has torch. Version 1 is a base, 2 and 3 are adapters on it,
    3 is champion; 4 is the challenger, and broken."""
    models = user.folder / "models"
    make = [python, "-m", "tests.jobs.serve.models", models]
    subprocess.run(make, check=True, capture_output=True, cwd=REPOSITORY)
    command = [sys.executable, "-c", REGISTER, str(models)]
    environment = user.environment() | {"PYTHONPATH": str(REPOSITORY)}
    subprocess.run(command, check=True, env=environment, cwd=user.folder)


class Endpoint:
    """`nightshift serve policy`, and questions to it. `said` are its lines."""

    def __init__(self, user: User, name: str = "tiny") -> None:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]
        self.process = user.start("serve", "policy", "--name", name, "--port", str(self.port))
        self.said: list[str] = []
        self.listener = threading.Thread(target=self._listen)
        self.listener.start()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        self.said += self.process.stdout

    def wait_for(self, there: Callable[[], object], seconds: float = 600) -> None:
        deadline = time.monotonic() + seconds
        while not there():
            assert self.process.poll() is None, "".join(self.said)
            assert time.monotonic() < deadline, "".join(self.said)
            time.sleep(0.1)

    def has_said(self, text: str) -> Callable[[], bool]:
        return lambda: any(text in line for line in self.said)

    def post(self, path: str, key: str = "", **body: Any) -> dict[str, Any]:
        url = f"http://127.0.0.1:{self.port}/v1/{path}"
        bearer = {"Authorization": f"Bearer {key or 'none'}"}
        answer = httpx.post(url, json=body, headers=bearer, timeout=120)
        return answer.raise_for_status().json()

    def ask(self, key: str = "") -> str:
        """The id of an answer."""
        return self.post("completions", key, model="tiny", prompt="abc", max_tokens=8)["id"]

    def below(self) -> list[psutil.Process]:
        """All processes that it started, Ray's and vLLM's among them."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def end(self) -> int:
        """Ctrl-C; the exit code. Nothing that it started is left then."""
        below = self.below() if self.process.poll() is None else []
        self.process.send_signal(signal.SIGINT)
        code = self.process.wait(120)
        left = psutil.wait_procs(filter(_lives, below), timeout=5)[1]
        assert not list(filter(_lives, left))
        self.listener.join()
        for stream in (self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()
        return code


def command(process: psutil.Process) -> str:
    """Its command line; of one that has ended, and of a zombie, ''."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def _lives(process: psutil.Process) -> bool:
    """Whether it runs. Not counted is what users share, which lives as long as they do."""
    told = command(process)
    return told != "" and "infra.keeper" not in told


def under_load(endpoint: Endpoint, change: Callable[[], object]) -> tuple[list[str], list[Any]]:
    """What was answered, and what failed, while `change` was going on."""
    answers: list[str] = []
    failed: list[Any] = []
    over = threading.Event()

    def ask() -> None:
        while not over.is_set():
            try:
                answers.append(endpoint.ask())
            except httpx.HTTPError as error:
                failed.append(error)

    clients = [threading.Thread(target=ask) for _ in range(2)]
    for one in clients:
        one.start()
    try:
        change()
    finally:
        over.set()
        for one in clients:
            one.join()
    return answers, failed


def stored(user: User, table: str) -> list[dict[str, Any]]:
    with psycopg.connect(user.settings["NIGHTSHIFT_DATABASE_URL"], row_factory=dict_row) as asked:
        return asked.execute(f"SELECT * FROM {table} ORDER BY id").fetchall()  # noqa: S608
