"""What a command of `nightshift` costs before it does anything, beside a bare interpreter.

CPU seconds of the process and its children: a loaded machine changes them least. Files of the
interpreter are in the page cache after the first round, which is not counted.
"""

import resource
import subprocess
import sys
from collections.abc import Iterator

from benchmarks.figures import Take, figure, yardstick


def cpu_milliseconds(*arguments: str) -> float:
    """CPU time of one command, user and system."""
    before = spent()
    subprocess.run([sys.executable, *arguments], stdout=subprocess.DEVNULL, check=True)
    return (spent() - before) * 1000


def spent() -> float:
    """CPU seconds of all children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@figure("control-plane", "CPU ms", better="less", beside="bare_interpreter")
def command_help() -> Iterator[Take]:
    """`nightshift --help`"""
    yield lambda: cpu_milliseconds("-m", "deployments.cli", "--help")


@figure("control-plane", "CPU ms", better="less", beside="bare_interpreter")
def command_run_help() -> Iterator[Take]:
    """`nightshift run nightly-ppo --help`, which imports Prefect and the flow."""
    yield lambda: cpu_milliseconds("-m", "deployments.cli", "run", "nightly-ppo", "--help")


@yardstick("CPU ms")
def bare_interpreter() -> Iterator[Take]:
    """`python -c pass`, ten times."""
    yield lambda: [cpu_milliseconds("-c", "pass") for _ in range(10)]
