"""One version under load, by the engine that serves: how fast it answers, and what.

So many clients each ask one prompt after another, and wait for each answer. Decoding is greedy.
"""

import asyncio
import resource
import time
from itertools import count
from typing import Any

from vllm import SamplingParams
from vllm.inputs import TokensPrompt
from vllm.lora.request import LoRARequest
from vllm.v1.engine.async_llm import AsyncLLM

from jobs.serving.config import LoadConfig
from jobs.serving.engine import engine_arguments

NAME = "measured"


def measure(
    config: LoadConfig, model: str, adapter: str | None, prompts: list[list[int]]
) -> dict[str, Any]:
    """`answers` to all `prompts` (token ids), {"completion", "ids"} each; `first_s` and `answer_s`,
    the seconds to the first token and to the end of each of `config.requests`; `tokens` of all
    answers and the `seconds` that they took together; `memory`, the peak of this process in bytes.
    """
    return asyncio.run(_measure(config, model, adapter, prompts))


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
        "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }
