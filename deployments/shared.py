"""Options that several commands have."""

import click

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")
limit = click.option(
    "--limit",
    type=click.IntRange(1, 10_000),
    default=30,
    show_default=True,
    help="How many, newest first.",
)
