"""docs/commands.md: every command with its purpose and its options, made from the CLI itself.

    python -m deployments.reference > docs/commands.md

`make docs` does it; tests/unit/house/test_documents.py fails while the page is another one.
"""

import re
from collections.abc import Iterator
from inspect import cleandoc

import click

from deployments.cli import cli
from deployments.commands.flows import Served

EXIT_CODES = {
    0: "fine; a gate that said no is no failure",
    1: "a fault of Nightshift itself, with a traceback",
    2: "wrong input or setting",
    3: "no money",
    4: "a service does not answer, no deployment, no worker",
    5: "storage",
    6: "no environment or launcher",
    7: "the job failed, or the run was cancelled or crashed",
    8: "a promotion without a verdict, or a rollout that was rolled back",
    9: "another process is at the same run",
    10: "a benchmark got worse, and `--fail-on-regression` was given",
    130: "interrupted; the same command goes on, and a submitted run goes on by itself",
}
"""Of every command; the errors of infra/errors.py carry theirs."""

INTRODUCTION = """\
# Every command

`make docs` writes this page from the commands themselves. Each has `--help`, and most have `--json`
for scripts: one line, and an error is a line with `error`, `message` and `remedy`. `nightshift` is
`.venv/bin/nightshift` after `make setup`. Settings are environment variables:
[settings.md](settings.md).
"""

Found = tuple[tuple[str, ...], click.Command]


def page() -> str:
    """The whole page."""
    found = list(commands())
    purposes = [
        (f"[`{_name(path)}`](#{'-'.join(('nightshift', *path))})", purpose(command))
        for path, command in found
        if not isinstance(command, click.Group) or isinstance(command, Served)
    ]
    codes = [(str(code), meaning) for code, meaning in EXIT_CODES.items()]
    sections = [_section(path, command) for path, command in found]
    return (
        "\n".join(
            [
                INTRODUCTION,
                _table(("command", "what it does"), purposes),
                f"## Exit codes\n\n{_table(('code', 'meaning'), codes)}",
                *sections,
            ]
        ).rstrip("\n")
        + "\n"
    )


def commands(command: click.Command = cli, path: tuple[str, ...] = ()) -> Iterator[Found]:
    """Every group and command with its words, in the order of `--help`.

    The flows of `submit` are those of `run`, so it counts as one command.
    """
    if path:
        yield path, command
    if isinstance(command, click.Group) and not isinstance(command, Served):
        context = click.Context(command)
        for name in command.list_commands(context):
            if inner := command.get_command(context, name):
                yield from commands(inner, (*path, name))


def purpose(command: click.Command) -> str:
    """What it does, in its first sentence."""
    return command.get_short_help_str(limit=1000)


def _name(path: tuple[str, ...]) -> str:
    return " ".join(("nightshift", *path))


def _section(path: tuple[str, ...], command: click.Command) -> str:
    title = f"{'#' * (len(path) + 1)} {_name(path)}\n\n{_prose(command.help or '')}"
    if isinstance(command, Served):
        return f"{title}\n{_usage(path, 'FLOW [OPTIONS]')}\n{_options(command.own)}"
    if isinstance(command, click.Group):
        return title
    usage = " ".join(command.collect_usage_pieces(click.Context(command)))
    return f"{title}\n{_usage(path, usage)}\n{_options(command.params)}"


def _usage(path: tuple[str, ...], arguments: str) -> str:
    return f"```\n{_name(path)} {arguments}\n```\n"


def _options(parameters: "tuple[click.Parameter, ...] | list[click.Parameter]") -> str:
    context = click.Context(cli)
    records = (one.get_help_record(context) for one in parameters)
    return _table(
        ("option", "meaning"), [(f"`{names}`", help_) for names, help_ in filter(None, records)]
    )


def _prose(text: str) -> str:
    """A docstring as Markdown: what is indented is code."""
    paragraphs = []
    for paragraph in re.split(r"\n\s*\n", cleandoc(text).replace("\b\n", "")):
        code = paragraph.startswith("    ")
        paragraphs.append(f"```\n{cleandoc(paragraph)}\n```" if code else paragraph)
    return "\n\n".join(paragraphs) + "\n"


def _table(head: tuple[str, str], rows: list[tuple[str, str]]) -> str:
    lines = [head, ("---", "---"), *rows]
    return "".join(
        f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines
    )


if __name__ == "__main__":
    print(page(), end="")
