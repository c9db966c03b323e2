"""One version under load, by the engine that serves: how fast it answers, and what.

So many clients each ask one prompt after another, and wait for each answer. Decoding is greedy.
"""

import asyncio
import os
import re
import sys
import time
from itertools import count
from pathlib import Path
from typing import Any

import psutil
from vllm import SamplingParams
from vllm.inputs import TokensPrompt
from vllm.lora.request import LoRARequest
from vllm.v1.engine.async_llm import AsyncLLM

from infra.errors import JobFailed
from jobs.serving.config import LoadConfig
from jobs.serving.engine import engine_arguments

NAME = "measured"
FAULT = re.compile(r"\b(\w*(?:Error|Exception): (?!EngineCore).+)")


def measure(
    config: LoadConfig, model: str, adapter: str | None, prompts: list[list[int]], log: Path
) -> dict[str, Any]:
    """`answers` to all `prompts` (token ids), {"completion", "ids"} each; `first_s` and `answer_s`,
    the seconds to the first token and to the end of each of `config.requests`; `tokens` of all
    answers and the `seconds` that they took together; `memory`, the peaks of this process and the
    engine's core in bytes. What both say goes into the new file `log`.

    Raises what the engine does; JobFailed with the last error in the log where its core died.
    """
    with log.open("wb") as stream:
        for descriptor in (1, 2):
            os.dup2(stream.fileno(), descriptor)
    try:
        return asyncio.run(_measure(config, model, adapter, prompts))
    except Exception as error:
        sys.stderr.flush()
        told = [line for line in log.read_text(errors="replace").splitlines() if FAULT.search(line)]
        why = FAULT.findall(told[-1])[0] if told else f"{type(error).__name__}: {error}"
        raise JobFailed(f"vLLM: {why}", f"Read {log.name} in the job's folder.") from error


async def _measure(
    config: LoadConfig, model: str, adapter: str | None, prompts: list[list[int]]
) -> dict[str, Any]:
    arguments = engine_arguments(NAME, config.kv_cache_bytes, model, adapter is not None)
    engine = AsyncLLM.from_engine_args(arguments)
    lora = LoRARequest(NAME, 1, adapter) if adapter else None
    params = SamplingParams(temperature=0, max_tokens=config.max_new_tokens)
    numbers = count()

    async def ask(ids: list[int]) -> dict[str, Any]:
        began, first = time.monotonic(), None
        answer: dict[str, Any] = {"completion": "", "ids": []}
        prompt = TokensPrompt(prompt_token_ids=ids)
        stream = engine.generate(prompt, params, str(next(numbers)), lora_request=lora)
        async for output in stream:
            first = first or time.monotonic() - began
            answer = {
                "completion": output.outputs[0].text,
                "ids": list(output.outputs[0].token_ids),
            }
        return answer | {"first_s": first, "answer_s": time.monotonic() - began}

    try:
        await asyncio.gather(*(ask(ids) for ids in prompts[: config.clients]))  # to warm up
        asked = max(config.requests, len(prompts))
        waiting = iter(range(asked))
        found: list[dict[str, Any]] = [{} for _ in range(asked)]

        async def client() -> None:
            for number in waiting:
                found[number] = await ask(prompts[number % len(prompts)])

        began = time.monotonic()
        await asyncio.gather(*(client() for _ in range(config.clients)))
        seconds = time.monotonic() - began
        ours = psutil.Process()
        memory = sum(_peak(one.pid) for one in (ours, *ours.children(recursive=True)))
    finally:
        engine.shutdown()
    return {
        "answers": [
            {name: one[name] for name in ("completion", "ids")} for one in found[: len(prompts)]
        ],
        "first_s": [one["first_s"] for one in found],
        "answer_s": [one["answer_s"] for one in found],
        "tokens": sum(len(one["ids"]) for one in found),
        "seconds": seconds,
        "memory": memory,
    }


def _peak(pid: int) -> int:
    """Of a process's memory, in bytes; 0 of one that has ended."""
    try:
        told = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    found = re.search(r"^VmHWM:\s+(\d+) kB", told, re.MULTILINE)
    return 1024 * int(found[1]) if found else 0
