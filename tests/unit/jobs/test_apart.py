"""A function apart: what it returns, what it raises, and that its death is told."""

import os
import signal
from types import SimpleNamespace
from typing import Any

import pytest

from infra.errors import InputError
from jobs.apart import Apart, Failed
from jobs.runtime import Interrupted

HERE = __name__


def answer(number: int) -> int:
    if number == 0:
        raise InputError("no zero", "Give another.")
    if number < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return os.getpid() if number == 1 else 1 // (number - 2)


def wait() -> None:
    signal.pause()


def apart(function: str, stopping: bool = False) -> Apart:
    job: Any = SimpleNamespace(stopping=stopping)
    return Apart(job, f"{HERE}:{function}")


def test_a_function_has_a_process_of_its_own_each_time() -> None:
    ask = apart("answer")
    assert len({os.getpid(), ask(1), ask(1)}) == 3


@pytest.mark.parametrize(
    ("number", "told"), [(0, "no zero"), (2, "ZeroDivisionError"), (-1, "its process died")]
)
def test_what_it_raises_and_its_death_are_told(number: int, told: str) -> None:
    with pytest.raises(Failed, match=told):
        apart("answer")(number)


def test_it_ends_with_a_job_that_is_stopped() -> None:
    with pytest.raises(Interrupted):
        apart("wait", stopping=True)()
