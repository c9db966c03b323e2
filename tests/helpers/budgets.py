"""Tells at the end of a run which suites took much longer than budgets.toml allows.

    python -m pytest -p tests.helpers.budgets

It sums the seconds of a suite's tests, not of the clock, so that the number of workers of
pytest-xdist changes nothing. It only warns: a busy machine is no error.
"""

import tomllib
from collections import Counter
from pathlib import Path

import pytest

FILE = Path(__file__).with_name("budgets.toml")
TOLERANCE = 1.5


class Budgets:
    """Seconds so far by suite."""

    def __init__(self) -> None:
        self.allowed: dict[str, float] = tomllib.loads(FILE.read_text())
        self.seconds = Counter[str]()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        for suite in self.allowed:
            if report.nodeid.startswith(f"tests/{suite}/"):
                self.seconds[suite] += report.duration

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        for suite, seconds in self.seconds.items():
            if seconds > TOLERANCE * self.allowed[suite]:
                terminalreporter.write_line(
                    f"WARNING: tests/{suite} took {seconds:.1f} s; its budget in "
                    f"tests/helpers/{FILE.name} is {self.allowed[suite]:g} s",
                    yellow=True,
                )


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Budgets())
