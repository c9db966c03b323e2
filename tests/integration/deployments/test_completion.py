"""Completion of the shell is quick: names of flows come without importing Prefect."""

import json
import subprocess
import sys

from deployments.catalogue import flow_names

COMPLETE = """
import contextlib, io, json, os, sys
from click.shell_completion import shell_complete
from deployments.cli import cli
told = []
for words in json.loads(sys.argv[1]):
    os.environ |= {"COMP_WORDS": words, "COMP_CWORD": str(len(words.split(" ")) - 1)}
    with contextlib.redirect_stdout(io.StringIO()) as said:
        shell_complete(cli, {}, "nightshift", "_NIGHTSHIFT_COMPLETE", "bash_complete")
    heavy = {"prefect", "sky", "mlflow", "psycopg", "boto3"} & set(sys.modules)
    told.append([said.getvalue(), sorted(heavy)])
print(json.dumps(told))
"""


def complete(*words: str) -> list[tuple[list[str], list[str]]]:
    """For each line: what is offered for its last word, and what was imported of what is slow."""
    done = subprocess.run(
        [sys.executable, "-c", COMPLETE, json.dumps(words)],
        capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    return [(offered.split(), heavy) for offered, heavy in json.loads(done.stdout)]


def test_flows_are_completed_without_importing_them() -> None:
    groups = ["run", "submit", "hooks create x --flow"]
    for offered, heavy in complete(*(f"nightshift {group} " for group in groups)):
        assert [line.removeprefix("plain,") for line in offered] == flow_names()
        assert heavy == []
    for offered, _ in complete(*(f"nightshift {group} d" for group in groups)):
        assert offered == ["plain,dpo-training"]


def test_commands_options_and_choices_are_completed() -> None:
    command, choice, option, preset = complete(
        "nightshift do",
        "nightshift quote --target s",
        "nightshift submit dpo-training --fee",
        "nightshift run nightly-ppo --preset d",
    )
    assert command == (["plain,doctor", "plain,down"], [])
    assert choice == (["plain,sky"], [])
    assert option[0] == ["plain,--feedback-since"] and preset[0] == ["plain,demo"]
