"""`nightshift run` and `nightshift submit`: a command for each flow, made from its parameter model.

Names come from the files of flows/: Prefect is imported for the one flow that is asked for.
"""

from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from deployments.catalogue import (
    first_line,
    flow_module,
    flow_names,
    load_preset,
    parameter_model,
    preset_names,
)
from deployments.shared import Commands

AS_JSON = click.Option(["--json", "as_json"], is_flag=True, help="Print JSON for scripts.")


class Flows(Commands):
    """One command a flow. `own` are the options beside the flow's, `start` takes their values."""

    own: tuple[click.Parameter, ...] = ()

    def start(self, flow: str, parameters: Any, **own: Any) -> None:
        """Start it with checked parameters."""
        raise NotImplementedError

    def place(self, model: Any, given: dict[str, Any]) -> dict[str, Any]:
        """The values of the options as they are meant where the flow runs."""
        return given

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

        def begin(preset: str | None = None, **given: Any) -> None:
            own = {one.name: given.pop(one.name) for one in self.own if one.name}
            values = load_preset(name, preset) if preset else None
            self.start(name, options.parameters(model, self.place(model, given), values), **own)

        own = self.own
        if presets := preset_names(name):
            choice = click.Choice(presets)
            said = f"Start from the values of a file in deployments/presets/{name}/."
            own = (click.Option(["--preset"], type=choice, help=said), *own)
        return click.Command(
            name,
            callback=begin,
            help=flow_module(name).__doc__,
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
        from deployments import start

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
        from deployments import submit

        submit.submit(flow, parameters, own["wait"], own["as_json"])

    def place(self, model: Any, given: dict[str, Any]) -> dict[str, Any]:
        from deployments import options

        return options.absolute(model, given, Path.cwd())


def complete_flows(_ctx: click.Context, _param: object, incomplete: str) -> list[CompletionItem]:
    """Names of flows, without importing them."""
    return [
        CompletionItem(name, help=first_line(name))
        for name in flow_names()
        if name.startswith(incomplete)
    ]
