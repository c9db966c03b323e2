"""What a figure depends on beside the code: facts of the machine that survive a restart.

Absolute times of two keys are never compared. Not in it: host names, addresses, boot ids, clock
rates of the moment, free memory.
"""

import hashlib
import json
import os
import platform
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

CGROUP = Path("/sys/fs/cgroup/cpu.max")


def facts() -> dict[str, Any]:
    """The facts, for people too. Libraries are told by a checksum of their names and versions."""
    libraries = sorted(f"{one.name}=={one.version}" for one in distributions())
    return {
        "cpu": cpu_model(),
        "cores": cores(),
        "memory_gib": memory_gib(),
        "gpus": gpus(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "libraries": hashlib.sha256("\n".join(libraries).encode()).hexdigest()[:16],
        "blas": blas(),
        "threads": os.environ.get("OMP_NUM_THREADS", ""),
    }


def key(known: dict[str, Any]) -> str:
    """A short name of the facts: the same facts, the same key."""
    text = json.dumps(known, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def cpu_model(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """As the kernel names it."""
    for line in cpuinfo.read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("model name", "Model"):
            return value.strip()
    return platform.processor() or platform.machine()


def cores(limit: Path = CGROUP) -> float:
    """Cores that this process may use, of a container too."""
    ours = float(len(os.sched_getaffinity(0)))
    try:
        quota, period = limit.read_text().split()
    except (OSError, ValueError):
        return ours
    return ours if quota == "max" else min(ours, round(int(quota) / int(period), 2))


def memory_gib(meminfo: Path = Path("/proc/meminfo")) -> int:
    """Rounded to GiB: what a kernel keeps for itself differs a little from start to start."""
    return round(int(meminfo.read_text().split()[1]) / 2**20)


def gpus() -> list[str]:
    """As nvidia-smi names them, with their drivers; none where there is none."""
    command = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        listed = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return listed.stdout.splitlines()


def blas() -> str:
    """The BLAS of numpy and the kernel that it has chosen for this CPU."""
    code = (
        "import ctypes, glob, os, numpy\n"
        "for path in glob.glob(os.path.join(os.path.dirname(numpy.__file__), '..', 'numpy.libs',"
        " '*openblas*')):\n"
        "    library = ctypes.CDLL(path)\n"
        "    for name in ('scipy_openblas_get_config64_', 'scipy_openblas_get_config',"
        " 'openblas_get_config64_', 'openblas_get_config'):\n"
        "        if hasattr(library, name):\n"
        "            config = getattr(library, name); config.restype = ctypes.c_char_p\n"
        "            print(config().decode()); break\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    return " ".join(done.stdout.split())
