"""The student as ONNX: fp32, fp16 and int8, compared with torch, the best one chosen."""

import json
import os
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import onnx
import onnxruntime
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.transformers.float16 import convert_float_to_float16
from torch import Tensor

from jobs.surrogate.config import DESIGN, INPUTS, OUTPUTS, TARGETS, WEATHER
from jobs.surrogate.network import Student

Result = TypeVar("Result")

KINDS = ("fp32", "fp16", "int8")
CLOSE = 1e-3
"""fp32 may differ from torch by this share of a target's deviation."""
WORSE = 1.005
"""A smaller kind may have this times the error of fp32."""
ROUNDS = 5
BATCH = 4096
"""Designs at once in one thread: what lies between two layers stays in the cache."""


def session(path: Path, providers: list[str] | None = None) -> onnxruntime.InferenceSession:
    """A session on those of `providers` that there are, with a warning for the others; then CPU."""
    available = onnxruntime.get_available_providers()
    for provider in providers or []:
        if provider not in available:
            warnings.warn(f"{provider} is not available here: the CPU is used", stacklevel=2)
    chosen = [p for p in providers or [] if p in available] + ["CPUExecutionProvider"]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # `in_batches` has one a core, each with a batch
    return onnxruntime.InferenceSession(path, options, providers=list(dict.fromkeys(chosen)))


def run(model: onnxruntime.InferenceSession, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and half-width, each (B, targets), of designs (B, inputs)."""

    def batch(rows: slice) -> Any:
        return model.run(None, {"designs": np.ascontiguousarray(x[rows].T, np.float32)})

    mean, half_width = zip(*in_batches(batch, len(x)), strict=True)
    return np.concatenate(mean, axis=1).T, np.concatenate(half_width, axis=1).T


def in_batches(work: Callable[[slice], Result], count: int) -> list[Result]:
    """What `work` makes of each BATCH of `count` rows, one to a thread for each core."""
    parts = [slice(start, start + BATCH) for start in range(0, count, BATCH)]
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads:
        return list(threads.map(work, parts))


def write(
    student: Student, x: Tensor, y: Tensor, confidence: float, folder: Path
) -> dict[str, float]:
    """Write `folder` with a model of each kind and surrogate.json; sizes, differences and errors.

    `confidence` is that of the intervals.

    Raises ValueError where fp32 is not what torch computes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    program = torch.onnx.export(
        student,
        (x[:8].T,),
        input_names=["designs"],
        output_names=["mean", "half_width"],
        dynamic_shapes=({1: torch.export.Dim("batch")},),
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    model = program.model_proto
    del model.graph.value_info[:]  # torch's shapes of transposed weights, which onnx refuses
    for node in model.graph.node:  # stack traces, more than half of the file
        del node.metadata_props[:]
    onnx.save(model, folder / "fp32.onnx")
    onnx.save(convert_float_to_float16(model, keep_io_types=True), folder / "fp16.onnx")
    quantize_dynamic(folder / "fp32.onnx", folder / "int8.onnx", weight_type=QuantType.QInt8)
    with torch.no_grad():
        expected = student(x.T)[0].T.numpy()
    truth = y.numpy()
    unit = np.nanstd(truth, axis=0)
    measured: dict[str, float] = {}
    for kind in KINDS:
        model = session(folder / f"{kind}.onnx")
        mean, _ = run(model, x.numpy())
        measured[f"{kind}_kb"] = (folder / f"{kind}.onnx").stat().st_size / 1000
        measured[f"{kind}_difference"] = float((np.abs(mean - expected) / unit).max())
        measured[f"{kind}_error"] = float(np.nanmean(np.abs(mean - truth) / unit))
        measured[f"{kind}_designs_per_second"] = _speed(model, x.numpy())
    if measured["fp32_difference"] > CLOSE:
        raise ValueError(f"ONNX differs from torch by {measured['fp32_difference']:.1e} deviations")
    accurate = [k for k in KINDS if measured[f"{k}_error"] <= WORSE * measured["fp32_error"]]
    chosen = max(accurate, key=lambda k: measured[f"{k}_designs_per_second"])
    facts: dict[str, Any] = {
        "inputs": INPUTS,
        "outputs": OUTPUTS,
        "ranges": {q.name: [q.low, q.high, q.unit] for q in DESIGN + WEATHER},
        "units": {q.name: q.unit for q in TARGETS},
        "chosen": chosen,
        "confidence": confidence,
    }
    (folder / "surrogate.json").write_text(json.dumps(facts, indent=1))
    return measured


def _speed(model: onnxruntime.InferenceSession, x: np.ndarray, batch: int = 65536) -> float:
    """Designs a second in batches, the median of some rounds."""
    many = np.asfortranarray(np.resize(x, (batch, x.shape[1])), np.float32)
    seconds = []
    for _ in range(ROUNDS + 1):
        began = time.perf_counter()
        run(model, many)
        seconds.append(time.perf_counter() - began)
    return batch / float(np.median(seconds[1:]))
