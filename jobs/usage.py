"""What a job uses of its machine, looked at from a thread of its own while it runs.

The cores are CPU seconds of the process and its ended children over the wall-clock time; memory is
that of the process and all below it. GPUs are those of CUDA_VISIBLE_DEVICES, by nvidia-smi.
"""

import contextlib
import math
import os
import resource
import shutil
import subprocess
import threading
import time

import psutil

from infra.contract import Usage

SECONDS_BETWEEN = 2.0
GPU_SECONDS_BETWEEN = 10.0
GIB = 2**30
MIB_A_GIB = 1024
"""nvidia-smi counts memory in MiB."""


class Meter:
    """Looks every few seconds after `start`; `read` tells what was used since it was made."""

    def __init__(self) -> None:
        self.began, self.used = time.monotonic(), _cpu_seconds()
        self.memory = 0.0
        self.gpu_memory = 0.0
        self.gpu_busy: list[float] = []
        is_told = shutil.which("nvidia-smi") is not None
        self.gpus = os.environ.get("CUDA_VISIBLE_DEVICES", "all") if is_told else ""
        self.asked = -math.inf

    def start(self) -> None:
        threading.Thread(target=self._watch, daemon=True).start()

    def read(self) -> Usage:
        own = resource.getrusage(resource.RUSAGE_SELF)
        peak = own.ru_maxrss * 1024 / GIB  # the kernel counts KiB, and misses nothing
        busy = self.gpu_busy
        return Usage(
            cores=(_cpu_seconds() - self.used) / max(1e-3, time.monotonic() - self.began),
            memory_gb=max(peak, self.memory),
            gpu_busy=sum(busy) / len(busy) if busy else 0,
            gpu_memory_gb=self.gpu_memory,
        )

    def _watch(self) -> None:
        while True:
            self.look()
            time.sleep(SECONDS_BETWEEN)

    def look(self) -> None:
        self.memory = max(self.memory, _memory() / GIB)
        if self.gpus and time.monotonic() - self.asked >= GPU_SECONDS_BETWEEN:
            self.asked = time.monotonic()
            self._see(_gpus(self.gpus))

    def _see(self, gpus: list[tuple[float, float]]) -> None:
        if gpus:
            self.gpu_busy.append(sum(busy for busy, _ in gpus) / 100 / len(gpus))
            self.gpu_memory = max(self.gpu_memory, sum(mib for _, mib in gpus) / MIB_A_GIB)


def _cpu_seconds() -> float:
    """Of this process and its ended children."""
    both = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(used.ru_utime + used.ru_stime for used in map(resource.getrusage, both))


def _memory() -> int:
    """Bytes of this process and all below it."""
    process, found = psutil.Process(), 0
    for one in [process, *process.children(recursive=True)]:
        with contextlib.suppress(psutil.Error):
            found += one.memory_info().rss
    return found


def _gpus(which: str) -> list[tuple[float, float]]:
    """(percent busy, MiB used) of each GPU; none where nvidia-smi does not tell."""
    chosen = [] if which == "all" else ["--id", which]
    command = ["nvidia-smi", "--query-gpu=utilization.gpu,memory.used"]
    command += ["--format=csv,noheader,nounits", *chosen]
    found = []
    with contextlib.suppress(OSError, ValueError, subprocess.SubprocessError):
        said = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
        for line in said.stdout.splitlines():
            busy, memory = line.split(",")
            found.append((float(busy), float(memory)))
    return found
