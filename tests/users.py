"""A home folder as a user has it, with a model, prompts and a reward that the project never saw."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
import pytest

from infra.compute.environments import ensure
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

    @property
    def home(self) -> Path:
        return self.folder / "home"

    def environment(self) -> dict[str, str]:
        clean = {
            k: v for k, v in os.environ.items() if not k.startswith(("NIGHTSHIFT_", "PREFECT_"))
        }
        own = {"NIGHTSHIFT_HOME": str(self.home), "NIGHTSHIFT_GATEWAY_PORT": "0", "COLUMNS": "120"}
        return clean | own | self.settings

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "deployments.cli", *arguments],
            cwd=self.folder,
            env=self.environment() | {"PYTHONPATH": str(REPOSITORY)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str) -> tuple[int, str, str]:
        """(exit code, stdout, stderr)"""
        process = self.start(*arguments)
        out, err = process.communicate(timeout=280)
        return process.returncode, out, err

    def json(self, *arguments: str):
        code, out, err = self.run(*arguments, "--json")
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

    def wait_until_nothing_runs(self, named: str = "", seconds: float = 30) -> None:
        deadline = time.monotonic() + seconds
        while left := self.processes(named):
            assert time.monotonic() < deadline, [p.cmdline() for p in left if p.is_running()]
            time.sleep(0.1)


@pytest.fixture(scope="session")
def train_python() -> Path:
    """The project's own `train` environment, made once for all tests."""
    settings.cache_clear()
    return ensure("train")


@pytest.fixture(scope="session")
def unseen_model(train_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "unseen"
    subprocess.run([train_python, "-c", MODEL, folder], check=True, capture_output=True)
    return folder


@contextmanager
def reachable_folder() -> Iterator[Path]:
    """A temporary folder that other users can walk through: root's PostgreSQL is not root.

    pytest's own lie below a private folder, whose mode every other run of pytest sets again.
    """
    with TemporaryDirectory(prefix="nightshift-test-", ignore_cleanup_errors=True) as name:
        folder = Path(name).resolve()
        folder.chmod(0o711)
        yield folder


def settle_in(folder: Path, model: Path, python: Path) -> User:
    """A user with an empty home, a model, prompts and rewards in `folder`."""
    user = User(folder)
    user.home.mkdir()
    (user.home / "environments").symlink_to(python.parents[2])
    (folder / "model").symlink_to(model)
    rows = [{"prompt": f"word {n}: ", "weight": 1.0} for n in range(100)]
    (folder / "words.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "myrewards.py").write_text(REWARD)
    return user


@pytest.fixture
def user(tmp_path: Path, unseen_model: Path, train_python: Path) -> User:
    """A user of a test's own."""
    return settle_in(tmp_path, unseen_model, train_python)


@pytest.fixture(scope="module")
def careless_user(unseen_model: Path, train_python: Path) -> Iterator[User]:
    """One user for many wrong inputs, whose PostgreSQL and Prefect server stay up meanwhile."""
    with reachable_folder() as folder:
        user = settle_in(folder, unseen_model, train_python)
        with subprocess.Popen(
            [sys.executable, "-c", "from infra import prefect_server as p; p.ensure(); input()"],
            cwd=REPOSITORY,
            env=user.environment(),
            stdin=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        ):
            yield user
        user.wait_until_nothing_runs()


CYCLE = (
    "run nightly-ppo --name words --model model --prompts words.jsonl --reward myrewards:vowels"
    " --trajectories 64 --max-new-tokens 12 --iterations 6 --rollouts 64"
    " --minibatch 32 --probe-prompts 16 --hours 0.05 --collect-hours 0.05"
    " --transfer-hours 0.05 --deploy-hours 0.05 --max-cost 1 --max-length-ratio 20"
    " --max-perplexity-ratio 50 --max-invalid-increase 1 --max-kl 1000"
).split()


@pytest.fixture
def cycle() -> list[str]:
    """The command of a whole night that takes seconds."""
    return list(CYCLE)
