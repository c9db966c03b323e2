"""Processes that take samples, one for each side of a figure, in the tree that they measure."""

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from infra.errors import InputError

PATIENCE_SECONDS = 20


class Sampler:
    """As a context: a process of `benchmarks.sampler`, ready to take samples; of this Python, or
    of that of another environment."""

    def __init__(self, tree: Path, suite: str, name: str, python: Path | None = None) -> None:
        self.name, self.tree = name, tree
        self.process = _start(tree, suite, name, python=python)

    def __enter__(self) -> Self:
        try:
            self._answer()
        except BaseException:
            self.end()
            raise
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self.end()

    def take(self) -> tuple[float, list[float]]:
        """A sample, and the measurements that it is the median of. Raises InputError: it ended."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write("\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise self._ended() from None
        answer = self._answer()
        return answer["value"], answer["raw"]

    def end(self) -> None:
        """Let it clean up, and end it."""
        assert self.process.stdin is not None and self.process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        try:
            self.process.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise self._ended()
        return json.loads(line)

    def _ended(self) -> InputError:
        return InputError(
            f"the figure {self.name} cannot be measured in {self.tree}",
            "The lines above in the job's log say why.",
        )


def listed(tree: Path, suite: str) -> list[dict[str, Any]]:
    """The figures of a suite: their `name`, `unit`, `better`, `beside` and `gpu`."""
    process = _start(tree, suite)
    told, _ = process.communicate()
    if process.returncode:
        raise InputError(
            f"the suite {suite} cannot be read in {tree}", "The job's log has its error."
        )
    return json.loads(told)


def _start(tree: Path, *arguments: str, python: Path | None = None) -> "subprocess.Popen[str]":
    """Each tree keeps the bytecode of its modules, else the one that was used before is faster."""
    environment = os.environ | {"PYTHONPATH": str(tree), "HF_HUB_OFFLINE": "1"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    return subprocess.Popen(
        [str(python or sys.executable), "-m", "benchmarks.sampler", *arguments],
        cwd=tree,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
