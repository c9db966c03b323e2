"""Says while a suite runs how far it is: `make test` shows the output of a suite only at its end.

The lines go to the open descriptor that PROGRESS names.

PROGRESS=3 python -m pytest -p tests.helpers.progress --junitxml=train.xml tests/jobs/train 3>&2
"""

import os
import time
from pathlib import Path

import pytest

LONGEST = 300
EVERY = 30.0
"""Seconds from one line to the next, at the least; a failure is told at once."""


class Progress:
    def __init__(self, descriptor: int, suite: str) -> None:
        self.descriptor, self.suite = descriptor, suite
        self.found, self.done, self.told = 0, 0, time.monotonic()

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self.found = len(session.items)

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, ids: list[str]) -> None:
        self.found = len(ids)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self._say(f"FAILED {report.nodeid} ({report.when}): {_why(report.longreprtext)}")
        if report.when == "teardown":
            self.done += 1
            if time.monotonic() - self.told >= EVERY:
                self._say(f"{self.done} of {self.found} tests done")

    def _say(self, text: str) -> None:
        self.told = time.monotonic()
        os.write(self.descriptor, f"{self.suite}: {text}\n".encode())


def _why(text: str) -> str:
    """The error's first line of a report, and where it was raised."""
    lines = text.rstrip().split("\n")
    errors = [line[1:].strip() for line in lines if line.startswith("E ")]
    return " | ".join([*errors[:1], lines[-1]])[:LONGEST]


def pytest_configure(config: pytest.Config) -> None:
    descriptor, report = os.environ.get("PROGRESS"), config.getoption("xmlpath")
    if descriptor and report and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Progress(int(descriptor), Path(report).stem))
