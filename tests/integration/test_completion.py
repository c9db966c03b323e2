"""Completion of the shell is quick: names of flows come without importing Prefect."""

import os
import subprocess
import sys

import pytest

from deployments.catalogue import flow_names

COMPLETE = """
import os, sys
from click.shell_completion import shell_complete
from deployments.cli import cli
try:
    code = shell_complete(cli, {}, "nightshift", "_NIGHTSHIFT_COMPLETE", sys.argv[1])
finally:
    heavy = {"prefect", "sky", "mlflow", "psycopg", "boto3"} & set(sys.modules)
    sys.stderr.write(" ".join(sorted(heavy)))
"""


def complete(words: str, shell: str = "bash") -> tuple[str, str]:
    """(what is offered for the last word, what was imported of what is slow)"""
    environment = os.environ | {"COMP_WORDS": words, "COMP_CWORD": str(len(words.split(" ")) - 1)}
    done = subprocess.run(
        [sys.executable, "-c", COMPLETE, f"{shell}_complete"],
        env=environment, capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    return done.stdout, done.stderr


@pytest.mark.parametrize("group", ["run", "submit", "hooks create x --flow"])
def test_flows_are_completed_without_importing_them(group: str) -> None:
    offered, heavy = complete(f"nightshift {group} ")
    assert [line.removeprefix("plain,") for line in offered.split()] == flow_names()
    assert heavy == ""
    offered, _ = complete(f"nightshift {group} d")
    assert offered.split() == ["plain,dpo-training"]


def test_commands_options_and_choices_are_completed() -> None:
    offered, heavy = complete("nightshift do")
    assert offered.split() == ["plain,doctor", "plain,down"] and heavy == ""
    offered, heavy = complete("nightshift quote --target s")
    assert offered.split() == ["plain,sky"] and heavy == ""
    offered, _ = complete("nightshift submit dpo-training --fee")
    assert offered.split() == ["plain,--feedback-since"]
    offered, _ = complete("nightshift run nightly-ppo --preset d")
    assert offered.split() == ["plain,demo"]
