"""What `nightshift` prints, in the test's process."""

import json
from typing import Any

from click.testing import CliRunner

from deployments.cli import cli


def say(*words: str) -> str:
    """What a command prints for people. Raises what it raises."""
    result = CliRunner().invoke(cli, list(words), standalone_mode=False, catch_exceptions=False)
    return result.output


def tell(*words: str) -> Any:
    """What a command prints for scripts."""
    return json.loads(say(*words, "--json"))
