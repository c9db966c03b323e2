"""A home folder as a user has it, with a model, prompts and a reward that the project never saw.

Users share the PostgreSQL and the Prefect server of the session, which saves the starts; those of
whom a service's start or death is the subject have services of their own.
"""

import fcntl
import io
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import chdir, contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import psutil
import psycopg
import pytest

from deployments import cli
from infra import database
from infra.compute.environments import ensure
from infra.database.embedded import USER
from infra.models import registry
from infra.services.prefect_server import PrefectServer
from infra.settings import REPOSITORY, settings

MODEL = """
import sys
from tokenizers import Tokenizer, models, pre_tokenizers, decoders
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast
letters = sorted(pre_tokenizers.ByteLevel.alphabet())
vocabulary = {"<end>": 0} | {letter: n + 1 for n, letter in enumerate(letters)}
tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
tokenizer.decoder = decoders.ByteLevel()
fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>")
fast.save_pretrained(sys.argv[1])
import torch
torch.manual_seed(0)
GPT2LMHeadModel(GPT2Config(vocab_size=len(vocabulary), n_embd=32, n_layer=2, n_head=2,
    n_positions=64, bos_token_id=0, eos_token_id=0)).save_pretrained(sys.argv[1])
"""
REWARD = '''
def vowels(prompts, completions, weight, **columns):
    """The share of vowels in the answer."""
    return [w * sum(c in "aeiou" for c in text) / max(1, len(text))
            for text, w in zip(completions, weight)]

def broken(prompts, completions, **columns):
    return [float("nan") for _ in completions]
'''


@dataclass
class User:
    """Runs the command `nightshift` as a person does, in a folder with the person's files."""

    folder: Path
    settings: dict[str, str] = field(default_factory=dict)
    source: Path = REPOSITORY
    """The tree whose command it is."""

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @property
    def prefect_auth(self) -> tuple[str, str]:
        """User and password of the Prefect server that this user's flows use."""
        given = self.settings.get("PREFECT_API_AUTH_STRING")
        ours = PrefectServer(self.home / "prefect")
        name, _, word = (given or ours.password()).partition(":")
        return name, word

    def environment(self) -> dict[str, str]:
        dropped = ["NIGHTSHIFT_", "PREFECT_"]
        if "PREFECT_API_URL" not in self.settings or self.source != REPOSITORY:
            dropped.append("COVERAGE_")  # a traced server needs half as long again
        clean = {k: v for k, v in os.environ.items() if not k.startswith(tuple(dropped))}
        own = {"NIGHTSHIFT_HOME": str(self.home), "NIGHTSHIFT_GATEWAY_PORT": "0", "COLUMNS": "120"}
        return clean | own | self.settings

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "deployments.cli", *arguments],
            cwd=self.folder,
            env=self.environment() | {"PYTHONPATH": str(self.source)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str) -> tuple[int, str, str]:
        """(exit code, stdout, stderr)"""
        process = self.start(*arguments)
        out, err = process.communicate(timeout=280)
        return process.returncode, out, err

    def run_here(self, *arguments: str) -> tuple[int, str, str]:
        """As `run`, but in this process, which saves the start of one."""
        out, err = io.StringIO(), io.StringIO()
        argv = patch.object(sys, "argv", ["nightshift", *arguments])
        with self.acting(), argv, redirect_stdout(out), redirect_stderr(err):
            try:
                cli.main()
                code = 0
            except SystemExit as end:
                code = int(end.code or 0)
        return code, out.getvalue(), err.getvalue()

    @contextmanager
    def acting(self) -> Iterator[None]:
        """This process is the user's: folder, environment, and what is cached of them."""
        ours = [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)]
        mask = os.umask(0o022)
        logger = logging.getLogger("nightshift")
        handlers, level = list(logger.handlers), logger.level
        with patch.dict(os.environ, self.environment(), clear=True), chdir(self.folder):
            settings.cache_clear()
            try:
                yield
            finally:
                database.close()
                registry._client.cache_clear()
                if crashed := sys.modules.get("tasks.runs.crashed"):
                    while crashed._held:  # what the end of a process closes
                        crashed._held.pop().close()
                logger.handlers[:] = handlers
                logger.setLevel(level)
                os.umask(mask)
                for one, handler in zip((signal.SIGINT, signal.SIGTERM), ours, strict=True):
                    signal.signal(one, handler)
        settings.cache_clear()

    def json(self, *arguments: str):
        """What a command says. Those that only look do so in this process."""
        looks = arguments[:2] in (("jobs", "list"), ("budget", "show"))
        code, out, err = (self.run_here if looks else self.run)(*arguments, "--json")
        assert code == 0, out + err
        return json.loads(out)

    def processes(self, named: str = "") -> list[psutil.Process]:
        """What runs for this home folder and has `named` in its command."""
        found = []
        for process in psutil.process_iter():
            try:
                command = " ".join(process.cmdline())
                mine = named in command and (
                    str(self.home) in command
                    or process.environ().get("NIGHTSHIFT_HOME") == str(self.home)
                )
                if mine and process.status() != psutil.STATUS_ZOMBIE and process.pid != os.getpid():
                    found.append(process)
            except psutil.Error:
                continue
        return found

    @contextmanager
    def held(self, program: str) -> Iterator[None]:
        """A job's program stands still meanwhile, once it is there: it computes nothing that a test
        would wait for, and does not end too early."""
        while not (found := self.processes(program)):
            time.sleep(0.05)
        (process,) = found
        process.suspend()
        try:
            yield
        finally:
            with suppress(psutil.NoSuchProcess):
                process.resume()

    def wait_until_nothing_runs(self, named: str = "", seconds: float = 30) -> None:
        deadline = time.monotonic() + seconds
        while left := self.processes(named):
            assert time.monotonic() < deadline, [p.cmdline() for p in left if p.is_running()]
            time.sleep(0.1)


def wait_for(condition: Callable[[], Any], seconds: float, pause: float = 0.05) -> Any:
    """What the condition says once it says something."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(pause)
    return found


@pytest.fixture(scope="session")
def train_python() -> Path:
    """The project's own `train` environment, made once for all tests."""
    settings.cache_clear()
    return ensure("train")


@pytest.fixture(scope="session")
def unseen_model(train_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made once for all workers of pytest-xdist."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    model, partial = folder / "unseen", folder / "unseen.partial"
    with (folder / "unseen.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not model.exists():
            command = [train_python, "-c", MODEL, partial]
            subprocess.run(command, check=True, capture_output=True)
            partial.rename(model)
    return model


@contextmanager
def reachable_folder() -> Iterator[Path]:
    """A temporary folder that other users can walk through: root's PostgreSQL is not root.

    pytest's own lie below a private folder, whose mode every other run of pytest sets again.
    """
    with TemporaryDirectory(prefix="nightshift-test-", ignore_cleanup_errors=True) as name:
        folder = Path(name).resolve()
        folder.chmod(0o711)
        yield folder


@dataclass(frozen=True)
class Shared:
    """The services that users share: PostgreSQL's URL with {} for a database, Prefect's API, and
    the home folder that the latter runs for."""

    postgres: str
    prefect: str
    home: Path
    numbers: Iterator[int] = field(default_factory=count)

    def settings(self) -> dict[str, str]:
        """Of a new user, who has a role, a database, and a schema of the database `mlflow`."""
        name = f"user_{next(self.numbers)}"
        with psycopg.connect(self.postgres.format("mlflow"), autocommit=True) as connection:
            connection.execute(f"CREATE ROLE {name} LOGIN CREATEDB PASSWORD '{name}'")
            connection.execute(f"ALTER ROLE {name} IN DATABASE mlflow SET search_path = {name}")
            connection.execute(f"CREATE SCHEMA AUTHORIZATION {name}")
        url = self.postgres.format(name).replace(f"//{USER}@", f"//{name}:{name}@")
        return {
            "NIGHTSHIFT_DATABASE_URL": url,
            "PREFECT_API_URL": self.prefect,
            "PREFECT_API_AUTH_STRING": PrefectServer(self.home / "prefect").password(),
        }


SERVE = (
    "from infra.services.prefect_server import ensure;"
    " print(ensure() + '/api', flush=True); input()"
)


@pytest.fixture(scope="session")
def shared(postgres: str) -> Iterator[Shared]:
    """The session's PostgreSQL and one Prefect server."""
    server = psycopg.connect(postgres.format("postgres"), autocommit=True)
    with server as connection, suppress(psycopg.errors.DuplicateDatabase):
        connection.execute("CREATE DATABASE mlflow")
    with reachable_folder() as folder:
        host = User(folder, {"NIGHTSHIFT_DATABASE_URL": postgres.format("host")})
        host.home.mkdir()
        with subprocess.Popen(
            [sys.executable, "-c", SERVE],
            cwd=REPOSITORY,
            env=host.environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        ) as process:
            assert process.stdout is not None
            prefect = process.stdout.readline().strip()
            assert prefect, "the users' Prefect server has not started"
            yield Shared(postgres, prefect, host.home)
        host.wait_until_nothing_runs()


def make_home(folder: Path, python: Path, settings: dict[str, str]) -> User:
    """A user with an empty home, but for the job environments beside that of `python`."""
    user = User(folder, settings)
    user.home.mkdir()
    (user.home / "environments").symlink_to(python.parents[2])
    return user


def settle_in(
    folder: Path, model: Path, python: Path, settings: dict[str, str] | None = None
) -> User:
    """A user with an empty home, a model, prompts and rewards in `folder`."""
    user = make_home(folder, python, settings or {})
    (folder / "model").symlink_to(model)
    # weights that differ: the gate tells nothing from a gain that is the same for all prompts
    rows = [{"prompt": f"word {n}: ", "weight": 0.8 + n % 5 / 10} for n in range(100)]
    (folder / "words.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "myrewards.py").write_text(REWARD)
    return user


@pytest.fixture
def user(tmp_path: Path, unseen_model: Path, train_python: Path, shared: Shared) -> User:
    """A user of a test's own."""
    return settle_in(tmp_path, unseen_model, train_python, shared.settings())


@pytest.fixture
def alone(tmp_path: Path, unseen_model: Path, train_python: Path) -> User:
    """A user whose services are their own: started with the first command, ended with the last."""
    return settle_in(tmp_path, unseen_model, train_python)


@pytest.fixture(scope="module")
def lasting_user(unseen_model: Path, train_python: Path, shared: Shared) -> Iterator[User]:
    """One user for the tests of a module."""
    with reachable_folder() as folder:
        yield settle_in(folder, unseen_model, train_python, shared.settings())


CYCLE = (
    "run nightly-ppo --name words --model model --prompts words.jsonl --reward myrewards:vowels"
    " --trajectories 64 --max-new-tokens 12 --iterations 6 --rollouts 64"
    " --minibatch 32 --probe-prompts 16 --hours 0.05 --collect-hours 0.05"
    " --transfer-hours 0.05 --deploy-hours 0.05 --max-cost 1 --max-length-ratio 20"
    " --max-perplexity-ratio 50 --max-invalid-increase 1 --max-kl 1000 --max-kl-per-token 100"
    " --max-repetition-increase 1 --min-distinct-ratio 0 --max-identical-increase 1"
    " --max-compression-ratio 50 --max-unfinished 1"
    " --max-length-correlation 1"
).split()


@pytest.fixture
def cycle() -> list[str]:
    """The command of a whole night that takes seconds."""
    return list(CYCLE)
