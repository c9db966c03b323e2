"""vLLM's engine, which answers with the live version and records every answer as an interaction.

The version is fixed when a request enters: what is under way ends with the adapter that it began
with, whatever is loaded meanwhile. Each adapter has a number of its own, never used again.
"""

import json
import os
import re
import time
from collections.abc import AsyncGenerator
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from vllm import AsyncEngineArgs, RequestOutput, SamplingParams
from vllm.inputs import TokensPrompt
from vllm.lora.request import LoRARequest
from vllm.platforms import current_platform
from vllm.v1.engine.async_llm import AsyncLLM

from infra.errors import InputError
from jobs.serving.config import Live
from jobs.serving.spool import Spool

LARGEST_RANK = 64
"""Of an adapter; memory for two of this size is kept."""
REQUEST = re.compile(r"((?:chatcmpl|cmpl)-[0-9a-f]+)(?:-(\d+))?")
"""The engine's name of a request: the answer's id; of a completion also which of its prompts."""
SAMPLING = (
    *("temperature", "top_p", "top_k", "min_p", "seed", "n", "max_tokens"),
    *("presence_penalty", "frequency_penalty", "repetition_penalty"),
)
"""What is recorded of how an answer was sampled."""


@dataclass(frozen=True)
class Loaded:
    """A version that the engine can answer with."""

    live: Live
    lora: LoRARequest | None


@dataclass
class Asked:
    """A request that is being answered: for and by whom, since when (monotonic seconds), its text
    where the engine does not get it, whether the engine failed at it, and the tokens of prompt and
    answer so far."""

    tenant: str
    loaded: Loaded
    since: float = field(default_factory=time.monotonic)
    prompt: str | None = None
    failed: bool = False
    tokens: int = 0


ASKED: ContextVar[Asked | None] = ContextVar("asked", default=None)
"""None for what the server asks itself."""


def engine_arguments(name: str, kv_cache_bytes: int, base: str, adapted: bool) -> AsyncEngineArgs:
    """How the engine runs. Log-probabilities are those of the distribution that is sampled from:
    after temperature, top-p, penalties; numbers as in training."""
    on_cpu = current_platform.is_cpu()
    if on_cpu:  # the first answer would wait for a C++ compiler, for what a small model gains
        os.environ["TORCH_COMPILE_DISABLE"] = "1"
    return AsyncEngineArgs(
        model=base,
        served_model_name=name,
        dtype="float32" if on_cpu and not _has_packed_weights(base) else "bfloat16",
        max_model_len=-1,  # as much of the model's context as the memory below holds
        kv_cache_memory_bytes=kv_cache_bytes,
        enforce_eager=on_cpu,
        distributed_executor_backend="uni",
        logprobs_mode="processed_logprobs",
        enable_lora=adapted,
        max_loras=2,
        max_cpu_loras=4,
        max_lora_rank=LARGEST_RANK,
    )


def _has_packed_weights(base: str) -> bool:
    """Whether they have 4 bits, which vLLM on a CPU does not multiply in float32."""
    path = Path(base) / "config.json"
    config = json.loads(path.read_text()) if path.is_file() else {}
    return config.get("quantization_config", {}).get("format") == "pack-quantized"


class RecordingEngine(AsyncLLM):
    """Answers with whichever version a request is for."""

    loads = 0

    def record_to(self, spool: Spool, name: str, neutral: Path | None) -> None:
        """`neutral`: an adapter that changes nothing, for the base beside adapters."""
        self.spool, self.name, self.neutral = spool, name, neutral

    async def load(self, live: Live) -> Loaded:
        """Get ready to answer with `live`.

        Raises InputError where its adapter cannot be used: then everything is as before.
        """
        adapter = live.adapter or (self.neutral and str(self.neutral))
        if adapter is None:
            return Loaded(live, None)
        self.loads += 1
        lora = LoRARequest(f"{live.version}-{live.sha256[:12]}", self.loads, adapter)
        try:
            _check(Path(adapter))
            await self.add_lora(lora)
            await self._try_out(lora)
        except Exception as error:
            raise InputError(
                f"the adapter of version {live.version} cannot be served: {error}",
                "Roll back, or promote a version whose adapter fits its base.",
            ) from error
        return Loaded(live, lora)

    async def _try_out(self, lora: LoRARequest) -> None:
        params = SamplingParams(temperature=0, max_tokens=2, logprobs=0)
        prompt = TokensPrompt(prompt_token_ids=[0])
        async for output in super().generate(prompt, params, lora.lora_name, lora_request=lora):
            if output.finished and not _logprobs(output.outputs[0])[0] <= 0:
                raise ValueError("its log-probabilities are no numbers")

    async def generate(
        self, prompt: Any, sampling_params: SamplingParams, request_id: str, **given: Any
    ) -> AsyncGenerator[RequestOutput, None]:
        """As AsyncLLM's. The last output comes once the interaction is on the disk."""
        asked = ASKED.get()
        if asked is None:
            async for output in super().generate(prompt, sampling_params, request_id, **given):
                yield output
            return
        try:
            async for output in self._recorded(asked, prompt, sampling_params, request_id, given):
                yield output
        except Exception:
            asked.failed = True  # of a stream the client has got its status before
            raise

    async def _recorded(
        self,
        asked: Asked,
        prompt: Any,
        sampling_params: SamplingParams,
        request_id: str,
        given: dict[str, Any],
    ) -> AsyncGenerator[RequestOutput, None]:
        given = given | {"lora_request": asked.loaded.lora}
        if sampling_params.logprobs is None:
            sampling_params.logprobs = 0  # the sampled token's only
        answers: dict[int, dict[str, Any]] = {}
        begun = False
        async for output in super().generate(prompt, sampling_params, request_id, **given):
            if not begun:
                asked.tokens, begun = asked.tokens + len(output.prompt_token_ids or []), True
            for part in output.outputs:
                asked.tokens += len(part.token_ids)
                answer = answers.setdefault(part.index, _no_answer())
                answer["completion"] += part.text
                answer["completion_token_ids"] += part.token_ids
                answer["logprobs"] += _logprobs(part)
                answer["finish_reason"] = part.finish_reason
            if output.finished:
                text = asked.prompt or (prompt.get("prompt") if isinstance(prompt, dict) else None)
                common = self._common(asked, output, sampling_params, text)
                for index, answer in answers.items():
                    key = interaction_key(request_id, index, sampling_params.n)
                    await self.spool.write(common | answer | {"key": key})
            yield output

    def _common(
        self,
        asked: Asked,
        output: RequestOutput,
        params: SamplingParams,
        text: str | None,
    ) -> dict[str, Any]:
        """What all answers to a request have in common."""
        ids = list(output.prompt_token_ids or [])
        return who(self.name, asked) | {
            "prompt": self.renderer.get_tokenizer().decode(ids) if text is None else text,
            "prompt_token_ids": ids,
            "sampling": {name: getattr(params, name) for name in SAMPLING},
        }


def failure(name: str, asked: Asked, request: str) -> dict[str, Any]:
    """The interaction of a request that was not answered, by our fault: without a completion."""
    nothing = _no_answer() | {"finish_reason": "error", "prompt_token_ids": [], "sampling": {}}
    return who(name, asked) | nothing | {"key": f"{request}/failed", "prompt": asked.prompt or ""}


def who(name: str, asked: Asked) -> dict[str, Any]:
    """For and by whom a request has ended just now, and after how long."""
    live = asked.loaded.live
    return {
        "kind": "answer",
        "model": name,
        "model_version": live.version,
        "model_sha256": live.sha256,
        "tenant": asked.tenant,
        "latency_ms": 1000 * (time.monotonic() - asked.since),
        "created_at": datetime.now(UTC).isoformat(),
    }


def interaction_key(request_id: str, index: int, n: int) -> str:
    """ID/CHOICE as the client sees them, from the engine's request and number of the answer.

    A completion's request is ID-PROMPT; the choices of its prompts are counted through.
    """
    found = REQUEST.fullmatch(request_id)
    assert found is not None, request_id
    return f"{found[1]}/{int(found[2] or 0) * n + index}"


def _no_answer() -> dict[str, Any]:
    return {"completion": "", "completion_token_ids": [], "logprobs": [], "finish_reason": None}


def _logprobs(part: Any) -> list[float]:
    """Of the sampled tokens, natural logarithms."""
    return [
        found[token].logprob for found, token in zip(part.logprobs, part.token_ids, strict=True)
    ]


def make_neutral(adapter: Path, folder: Path) -> Path:
    """An adapter of the shape of `adapter` that changes nothing, B = 0; in the new `folder`.

    Raises InputError for files that are none of an adapter.
    """
    try:
        tensors = load_file(adapter / "adapter_model.safetensors")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "adapter_config.json").write_bytes((adapter / "adapter_config.json").read_bytes())
    except (OSError, SafetensorError) as error:
        raise InputError(f"{adapter} is no adapter: {error}", "Give another version.") from error
    for name, tensor in tensors.items():
        if "lora_B" in name:
            tensor.zero_()
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder


def _check(adapter: Path) -> None:
    """Raises ValueError for a kind of adapter that vLLM would load and apply wrongly or not at
    all."""
    config = json.loads((adapter / "adapter_config.json").read_text())
    if config["r"] > LARGEST_RANK:
        raise ValueError(f"its rank is {config['r']}, at most {LARGEST_RANK} is served")
    for name in ("use_dora", "modules_to_save", "rank_pattern", "alpha_pattern"):
        if config.get(name):
            raise ValueError(f"adapters with {name} are not served")
