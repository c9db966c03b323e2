"""Jobs as processes that can be killed.

Importing torch and TRL takes as long as such a training does. So a process that is to be killed or
to go on is forked from this one; `command` starts one as a launcher does.
"""

import multiprocessing
import random
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import torch

from jobs.runtime import main


def command(module: str, folder: Path) -> int:
    """The exit code of a job that is started anew, from the command line."""
    return subprocess.run([sys.executable, "-W", "ignore", "-m", module, str(folder)]).returncode


def fork(program: Callable[..., Any], model: type, folder: Path) -> BaseProcess:
    """Start a job; `exitcode` is None while it runs."""
    context = multiprocessing.get_context("fork")
    process = context.Process(target=_run, args=(program, model, folder), daemon=True)
    process.start()
    return process


def run(program: Callable[..., Any], model: type, folder: Path) -> int | None:
    """Start a job and wait for its exit code."""
    process = fork(program, model, folder)
    process.join()
    return process.exitcode


def wait_for(condition: Callable[[], bool], process: BaseProcess) -> None:
    deadline = time.monotonic() + 240
    while not condition():
        assert process.exitcode is None
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _run(program: Callable[..., Any], model: type, folder: Path) -> None:
    # nothing random may come from what the tests did before
    random.seed()
    np.random.seed()
    torch.seed()
    warnings.simplefilter("ignore")
    sys.argv = [sys.argv[0], str(folder)]
    main(model, program)
