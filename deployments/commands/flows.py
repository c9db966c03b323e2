"""`nightshift run` and `nightshift submit`: a command for each flow, made from its parameter model.

Names come from the files of flows/: Prefect is imported for the one flow that is asked for.
"""

from inspect import cleandoc
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from deployments.catalogue import (
    first_line,
    flow_module,
    flow_names,
    load_config,
    load_preset,
    parameter_model,
    preset_names,
)
from deployments.commands.shared import Commands
from infra.errors import InputError

AS_JSON = click.Option(["--json", "as_json"], is_flag=True, help="Print JSON for scripts.")


class Flow(click.Command):
    """The command of a flow. What maps names takes all that follow: `--map a=b c=d`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if "--plan" in args and not any(one.name == "plan" for one in self.params):
            raise InputError(
                "--plan: this command starts the flow",
                f"`nightshift run {self.name} --plan` says what it would do and cost.",
            )
        joined: list[str] = []
        for word in args:
            mapped = len(joined) > 1 and joined[-2] == "--map"
            if mapped and "=" in word and not word.startswith("-"):
                joined[-1] += f" {word}"
            else:
                joined.append(word)
        return super().parse_args(ctx, joined)


class Flows(Commands):
    """One command a flow. `own` are the options beside the flow's, `start` takes their values."""

    own: tuple[click.Parameter, ...] = ()

    def start(self, flow: str, parameters: Any, **own: Any) -> None:
        """Start it with checked parameters."""
        raise NotImplementedError

    def list_commands(self, ctx: click.Context) -> list[str]:
        return flow_names()

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return self._command(cmd_name) if cmd_name in flow_names() else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Flows"):
            formatter.write_dl([(name, first_line(name)) for name in flow_names()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        return complete_flows(ctx, self, incomplete)

    def _command(self, name: str) -> click.Command:
        from deployments import options
        from infra.settings import settings

        settings()
        model = parameter_model(name)

        def begin(config: str | None, preset: str | None = None, **given: Any) -> None:
            own = {one.name: given.pop(one.name) for one in self.own if one.name}
            if config and preset:
                raise InputError("--config and --preset both give values", "Take one of them.")
            values: dict[str, Any] = load_preset(name, preset) if preset else {}
            here = Path.cwd()  # files are named whole: the same run starts again from anywhere
            if config is not None:
                values = load_config(Path(config))
                named = options.absolute(model, options.flat(model, values), here)
                values = options.over(model, values, named)
            given = options.absolute(model, given, here)
            self.start(name, options.parameters(model, given, values, config), **own)

        said = "Start from the values of a YAML file, as each run leaves one beside its report."
        own = (click.Option(["--config"], type=click.Path(), help=said), *self.own)
        if presets := preset_names(name):
            choice = click.Choice(presets)
            said = f"Start from the values of a file in deployments/presets/{name}/."
            own = (click.Option(["--preset"], type=choice, help=said), *own)
        return Flow(
            name,
            callback=begin,
            help=_as_it_stands(flow_module(name).__doc__ or ""),
            params=[*options.options(model), *own],
        )


class Here(Flows):
    """Runs in this process."""

    own = (
        click.Option(
            ["--plan"],
            is_flag=True,
            help="Print what would run, where and at which price; run nothing.",
        ),
        AS_JSON,
    )

    def start(self, flow: str, parameters: Any, **own: Any) -> None:
        from deployments.commands import start

        if own["plan"]:
            start.show_plan(flow, parameters, own["as_json"])
        else:
            start.run(flow, parameters, own["as_json"])


class Served(Flows):
    """Runs where the worker of `nightshift up` is."""

    own = (
        click.Option(
            ["--wait"],
            is_flag=True,
            help="Follow its log until it has ended; the exit code is that of `nightshift run`.",
        ),
        AS_JSON,
    )

    def start(self, flow: str, parameters: Any, **own: Any) -> None:
        from deployments.commands import submit

        submit.submit(flow, parameters, own["wait"], own["as_json"])


def _as_it_stands(text: str) -> str:
    """The text with click's mark for code (what is indented), whose lines are not to be joined."""
    paragraphs = cleandoc(text).split("\n\n")
    return "\n\n".join(f"\b\n{one}" if one.startswith("    ") else one for one in paragraphs)


def complete_flows(_ctx: click.Context, _param: object, incomplete: str) -> list[CompletionItem]:
    """Names of flows, without importing them."""
    return [
        CompletionItem(name, help=first_line(name))
        for name in flow_names()
        if name.startswith(incomplete)
    ]
