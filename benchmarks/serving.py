"""What our serving adds to bare vLLM: the time of an answer, and answers a second of 8 clients.

    nightshift run benchmarks --suite serving

Ours is `jobs.serving.serve` as `nightshift serve policy` starts it: Ray Serve, API keys, and each
answer on the disk before it is sent. Bare is vLLM's own server with the same engine arguments. Both
serve the same small Llama of random weights; every answer has 16 tokens. Nothing is answered
unrecorded, so that recording cannot be switched off to be measured alone.
"""

import asyncio
import hashlib
import json
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import torch
from openai import AsyncOpenAI

from benchmarks.figures import Take, figure, yardstick
from infra.serving.process import SETTINGS
from jobs.design.base import make_model, make_tokenizer
from jobs.design.config import BaseModelConfig

CLIENTS, TOKENS = 8, 16
SINGLE, EACH = 20, 5
"""Answers in a sample of one client, and of each of several."""
NAME, KEY = "mine", "ns-benchmark"
CACHE_BYTES = 64 * 2**20
START_SECONDS = 600
PROMPT = "a steel bracket, 3 mm thick"


@contextmanager
def model() -> Iterator[Path]:
    """A folder with a model's folder in it."""
    with tempfile.TemporaryDirectory(prefix="ns-", ignore_cleanup_errors=True) as name:
        tokenizer = make_tokenizer(0)
        torch.manual_seed(0)
        make_model(BaseModelConfig(), tokenizer).save_pretrained(Path(name) / "base")
        tokenizer.save_pretrained(Path(name) / "base")
        yield Path(name)


@contextmanager
def process(module: str, *arguments: str, **given: Any) -> Iterator["subprocess.Popen[str]"]:
    """A server's process, ended in order; what it says is in the job's log."""
    started = subprocess.Popen(
        [sys.executable, "-m", module, *arguments], text=True, stdin=subprocess.PIPE, **given
    )
    try:
        yield started
    finally:
        started.terminate()
        started.communicate()


@contextmanager
def ours() -> Iterator[str]:
    """Address of our server."""
    own = {"NIGHTSHIFT_SERVING_SIGNING_KEY": "x", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    with (
        model() as folder,
        process(
            "jobs.serving.serve", stdout=subprocess.PIPE, env=os.environ | SETTINGS | own
        ) as server,
    ):
        port = free_port()
        config = {
            "name": NAME,
            "port": port,
            "spool": str(folder / "spool"),
            "spool_bytes": 2**30,
            "scratch": str(folder),
            "kv_cache_bytes": CACHE_BYTES,
            "request_bytes": 200_000,
            "request_seconds": 120,
        }
        live = {"version": "1", "sha256": "0" * 64, "base": str(folder / "base")}
        keys = {hashlib.sha256(KEY.encode()).hexdigest(): "default"}
        assert server.stdin is not None and server.stdout is not None
        for line in (config, {"live": live, "keys": keys, "keys_required": True}):
            server.stdin.write(json.dumps(line) + "\n")
        server.stdin.flush()
        state = json.loads(server.stdout.readline())
        if state["error"]:
            raise RuntimeError(state["error"])
        yield f"http://127.0.0.1:{port}/v1"


@contextmanager
def bare() -> Iterator[str]:
    """Address of vLLM's own server."""
    port = free_port()
    told = {
        "--served-model-name": NAME,
        "--host": "127.0.0.1",
        "--port": str(port),
        "--dtype": "float32",
        "--kv-cache-memory-bytes": str(CACHE_BYTES),
        "--distributed-executor-backend": "uni",
    }
    options = [word for option in told.items() for word in option]
    environment = os.environ | SETTINGS | {"TORCH_COMPILE_DISABLE": "1"}
    with model() as folder:
        options += ["--model", str(folder / "base"), "--enforce-eager", "--disable-log-stats"]
        with process(
            "vllm.entrypoints.openai.api_server", *options, stdout=sys.stderr, env=environment
        ) as server:
            wait_until_healthy(server, f"http://127.0.0.1:{port}/health")
            yield f"http://127.0.0.1:{port}/v1"


def wait_until_healthy(server: "subprocess.Popen[str]", url: str) -> None:
    """Raises RuntimeError where it ends first, or takes too long."""
    deadline = time.monotonic() + START_SECONDS
    while server.poll() is None and time.monotonic() < deadline:
        try:
            urlopen(url, timeout=5).close()  # noqa: S310
            return
        except (URLError, OSError):
            time.sleep(0.5)
    raise RuntimeError("vLLM's server did not start; the lines above say why")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


def asking(url: str, sample: Callable[[AsyncOpenAI], Awaitable[float | list[float]]]) -> Take:
    """Takes a sample with a client whose connections stay open between samples."""
    client = AsyncOpenAI(base_url=url, api_key=KEY, max_retries=0, timeout=120)
    loop = asyncio.new_event_loop()
    return lambda: loop.run_until_complete(sample(client))


async def milliseconds(client: AsyncOpenAI) -> float:
    """Of one answer, whole."""
    began = time.perf_counter()
    answer = await client.completions.create(
        model=NAME, prompt=PROMPT, max_tokens=TOKENS, extra_body={"ignore_eos": True}
    )
    took = (time.perf_counter() - began) * 1000
    if answer.usage is None or answer.usage.completion_tokens != TOKENS:
        raise RuntimeError(f"an answer has not {TOKENS} tokens: {answer.usage}")
    return took


async def single(client: AsyncOpenAI) -> list[float]:
    """Milliseconds of SINGLE answers, one after the other."""
    return [await milliseconds(client) for _ in range(SINGLE)]


async def together(client: AsyncOpenAI) -> float:
    """Answers a second of CLIENTS clients, each of which asks for EACH one after the other."""

    async def one() -> None:
        for _ in range(EACH):
            await milliseconds(client)

    began = time.perf_counter()
    await asyncio.gather(*(one() for _ in range(CLIENTS)))
    return CLIENTS * EACH / (time.perf_counter() - began)


@figure("serving", "ms", better="less", beside="bare_answer_time")
def answer_time() -> Iterator[Take]:
    """An answer for the only client."""
    with ours() as url:
        yield asking(url, single)


@yardstick("ms")
def bare_answer_time() -> Iterator[Take]:
    """An answer of vLLM's own server for the only client."""
    with bare() as url:
        yield asking(url, single)


@figure("serving", "answers/s", beside="bare_answers")
def answers() -> Iterator[Take]:
    """Answers a second for several clients together."""
    with ours() as url:
        yield asking(url, together)


@yardstick("answers/s")
def bare_answers() -> Iterator[Take]:
    """Answers a second of vLLM's own server."""
    with bare() as url:
        yield asking(url, together)
