"""What several commands have: options, lines that they print, an answer to a misspelt command."""

import codecs
import io
import json
import os
import sys
import traceback
from difflib import get_close_matches
from types import TracebackType
from typing import Any, NoReturn

import click

from infra.inert import visible

ASCII = {"✗": "x", "✓": "+", "→": "->", "–": "-", "…": "...", "█": "#", "▒": "=", "·": "."}
"""Our own signs on a terminal that has no others."""


class Commands(click.Group):
    """A group that names the commands like one that it does not have, as click does of options; all
    where none is like it."""

    group_class = type

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            known = self.list_commands(ctx)
            near = get_close_matches(args[0], known) or known
            error.message += f" (Possible commands: {', '.join(near)})"
            raise


as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")
limit = click.option(
    "--limit",
    type=click.IntRange(1, 10_000),
    default=30,
    show_default=True,
    help="How many, newest first.",
)


def say(text: str, colour: str | None = None, err: bool = False) -> None:
    """Print a line, on standard error with `err`."""
    click.secho(visible(text), fg=colour, err=err)


def tell(value: Any) -> None:
    """Print a line of JSON for scripts, in ASCII."""
    sys.stdout.write(json.dumps(value, default=str) + "\n")


def prepare() -> None:
    """Let no stream fail at a sign that its encoding lacks, and show tracebacks as `visible`."""
    codecs.register_error("nightshift", _replaced)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="nightshift")
    sys.excepthook = _traceback


def _replaced(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    found = error.object[error.start : error.end]
    return "".join(ASCII.get(one) or ascii(one)[1:-1] for one in found), error.end


def _traceback(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    sys.stderr.write(visible("".join(traceback.format_exception(kind, error, trace))))


def become(environment: str, program: str, *arguments: str) -> NoReturn:
    """Replace this process by `program` in the job environment of that name."""
    from infra.compute import environments
    from infra.settings import REPOSITORY

    python = environments.ensure(environment)
    path = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    sys.stdout.flush()
    command = [str(python), "-m", program, *arguments]
    os.execve(python, command, os.environ | {"PYTHONPATH": path})  # noqa: S606 - no shell
