"""What several commands have: options, and an answer to a command that is misspelt."""

from difflib import get_close_matches

import click


class Commands(click.Group):
    """A group that names the commands like one that it does not have, as click does of options."""

    group_class = type

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            if near := get_close_matches(args[0], self.list_commands(ctx)):
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
