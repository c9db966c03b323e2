"""Fit a training to the memory that is really there, so that the effective batch stays as asked.

The estimate of a micro-batch's memory follows Korthikanti et al. 2022 (arXiv:2205.05198): without
attention matrices a transformer layer keeps 34 bytes for each token and feature at 2 bytes a
number, and 2 with gradient checkpointing. It need not be exact: where memory runs out the
micro-batch is halved.
"""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import psutil
import torch

from infra.errors import InputError
from jobs.dpo.config import DPOConfig
from jobs.runtime import write_whole

USABLE = 0.8
"""Share of the free memory that is planned with."""
SEQUENCES = 2
"""Of a pair: chosen and rejected."""
BYTES_A_FEATURE = 17
"""Activations a token, feature and layer, for each byte of a number."""
CHECKPOINTED = 1
LOGIT_BYTES = 12
"""A token and vocabulary entry: logits, their softmax and its gradient in float32, at worst."""
LORA_BYTES = 16
"""A trained parameter: weight, gradient and two moments in float32."""
FOUR_BITS = 0.6
"""Bytes of a parameter in NF4 with its scales."""
WORTH_IT = 4
"""Memory is saved by slower means where less than this part of the batch fits otherwise."""
BF16_ON_CPU = 100_000_000
"""Parameters from which bfloat16 is worth it on a CPU that has instructions for it."""


@dataclass(frozen=True)
class Machine:
    """What trains: `free` bytes of the memory that the model lies in."""

    kind: Literal["cuda", "unified", "cpu"]
    free: int
    bf16: bool
    devices: int


@dataclass(frozen=True)
class Shape:
    """Of the base: parameters in all, layers, features of a layer, vocabulary."""

    parameters: int
    layers: int
    width: int
    vocabulary: int


@dataclass(frozen=True)
class Fit:
    """How a training runs. micro_batch × accumulation × processes is the effective batch."""

    micro_batch: int
    accumulation: int
    processes: int
    dtype: Literal["float32", "bfloat16"]
    gradient_checkpointing: bool
    quantised: bool
    reasons: tuple[str, ...]

    def halved(self) -> "Fit":
        """The same effective batch in smaller steps. Raises InputError where it is 1 already.

        The likelihood that `sft_weight` adds is TRL's mean over a micro-batch's tokens: in smaller
        ones short answers weigh more, so that it is not quite the same loss.
        """
        if self.micro_batch == 1:
            raise InputError(
                "memory ran out with one pair at a time",
                "Lower --max-tokens, set --gradient-checkpointing on or --quantise on, or give a "
                "larger machine with --accelerators.",
            )
        each = self.micro_batch * self.accumulation
        micro = _divisor(each, self.micro_batch // 2)
        why = f"memory ran out with {self.micro_batch} pairs at a time: {micro} from now on"
        return replace(
            self, micro_batch=micro, accumulation=each // micro, reasons=(*self.reasons, why)
        )

    def save(self, path: Path) -> None:
        """Write it whole, for the next attempt and the other processes."""
        write_whole(path, json.dumps(asdict(self)))

    @staticmethod
    def load(path: Path) -> "Fit":
        """What `save` wrote."""
        values: dict[str, Any] = json.loads(path.read_text())
        return Fit(**{**values, "reasons": tuple(values["reasons"])})


def machine() -> Machine:
    """This machine. A GPU that shares the CPU's memory is 'unified': both limits hold."""
    free = min(psutil.virtual_memory().available, _cgroup_free())
    if not torch.cuda.is_available():
        bf16 = torch.cpu._is_avx512_bf16_supported()  # pyright: ignore[reportAttributeAccessIssue]
        return Machine("cpu", free, bf16, 1)
    on_device = torch.cuda.mem_get_info()[0]
    unified = bool(getattr(torch.cuda.get_device_properties(0), "is_integrated", False))
    return Machine(
        "unified" if unified else "cuda",
        min(free, on_device) if unified else on_device,
        torch.cuda.is_bf16_supported(),
        torch.cuda.device_count(),
    )


def shape_of(model: Any) -> Shape:
    """The shape of a model, with or without its weights."""
    config = model.config.get_text_config()
    return Shape(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        layers=config.num_hidden_layers,
        width=config.hidden_size,
        vocabulary=config.vocab_size,
    )


def fit(machine: Machine, shape: Shape, config: DPOConfig, tokens: int) -> Fit:
    """How to train on pairs of at most `tokens` tokens each side; says why.

    Raises InputError where the effective batch cannot be divided among the processes.
    """
    processes = config.processes or machine.devices
    if config.effective_batch % processes:
        raise InputError(
            f"--effective-batch {config.effective_batch} cannot be divided among "
            f"{processes} processes",
            "Make it a multiple of the number of GPUs.",
        )
    each = config.effective_batch // processes
    dtype = _dtype(machine, shape, config)
    free = machine.free // (processes if machine.kind == "cpu" else 1)
    best = (0, False, False)
    for quantised in _allowed(config.quantise, machine.kind != "cpu"):
        left = USABLE * free - fixed_bytes(shape, config, dtype, quantised)
        found: list[tuple[int, bool, bool]] = []
        for checkpointing in _allowed(config.gradient_checkpointing, True):
            pair = pair_bytes(shape, tokens, dtype, checkpointing)
            micro = min(each, int(max(0.0, left) // pair))
            found.append((_divisor(each, micro) if micro else 0, checkpointing, quantised))
        enough = [one for one in found if one[0] * WORTH_IT >= each]
        best = enough[0] if enough else max(found, key=lambda one: (one[0], one[1]))
        if best[0]:
            break
    micro, checkpointing, quantised = best
    memory = f"{free / 2**30:.1f} GiB free ({machine.kind})"
    reasons = [
        f"{memory}, {shape.parameters / 1e6:,.1f} million parameters in {dtype}"
        + (", the base in 4 bits" if quantised else "")
    ]
    if micro == 0:
        micro = 1
        reasons.append("by the estimate not even one pair fits; it is tried all the same")
    if checkpointing and config.gradient_checkpointing == "auto":
        reasons.append("gradient checkpointing: too little of the batch fits without")
    if config.micro_batch:
        micro = min(config.micro_batch, each)
        reasons.append(f"micro-batch {micro} as asked for")
    else:
        reasons.append(
            f"micro-batch {micro}: {pair_bytes(shape, tokens, dtype, checkpointing) / 2**20:,.0f} "
            f"MiB a pair of {tokens} tokens each side"
        )
    micro = _divisor(each, micro)
    reasons.append(f"{micro} × {each // micro} × {processes} = {config.effective_batch} pairs")
    return Fit(micro, each // micro, processes, dtype, checkpointing, quantised, tuple(reasons))


def fixed_bytes(shape: Shape, config: DPOConfig, dtype: str, quantised: bool) -> float:
    """Memory of weights, adapter and optimiser, bytes; all-linear LoRA has at most 14 matrices'
    sides of the width a layer (4 square ones, and 3 of an MLP that is 4 times as wide)."""
    base = shape.parameters * (FOUR_BITS if quantised else _bytes(dtype))
    adapter = config.lora_rank * shape.width * shape.layers * (4 * 2 + 3 * 5)
    return base + LORA_BYTES * adapter


def pair_bytes(shape: Shape, tokens: int, dtype: str, checkpointing: bool) -> float:
    """Memory of one pair in a training step, bytes."""
    numbers = tokens * SEQUENCES * shape.width * _bytes(dtype)
    layers = CHECKPOINTED * shape.layers + BYTES_A_FEATURE if checkpointing else (
        BYTES_A_FEATURE * shape.layers
    )  # fmt: skip
    return numbers * layers + tokens * SEQUENCES * shape.vocabulary * LOGIT_BYTES


def _dtype(machine: Machine, shape: Shape, config: DPOConfig) -> Literal["float32", "bfloat16"]:
    if config.dtype != "auto":
        return config.dtype
    on_cpu = machine.kind == "cpu" and shape.parameters < BF16_ON_CPU
    return "bfloat16" if machine.bf16 and not on_cpu else "float32"


def _allowed(choice: str, possible: bool) -> list[bool]:
    if choice == "auto":
        return [False, True] if possible else [False]
    return [choice == "on"]


def _bytes(dtype: str) -> int:
    return 2 if dtype == "bfloat16" else 4


def _divisor(number: int, most: int) -> int:
    """The largest divisor of `number` that is at most `most`."""
    return max(d for d in range(1, max(1, most) + 1) if number % d == 0)


def _cgroup_free() -> float:
    """Bytes that a container leaves to its processes; infinite outside of one."""
    group = Path("/sys/fs/cgroup")
    try:
        limit = (group / "memory.max").read_text().strip()
        return int(limit) - int((group / "memory.current").read_text())
    except (OSError, ValueError):
        return float("inf")
