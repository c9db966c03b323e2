"""The commands of `nightshift models` that take versions as NAME[@ALIAS]; nothing heavy before."""

from pathlib import Path

import click

from deployments.commands.shared import as_json


@click.command()
@click.argument("first")
@click.argument("second")
@as_json
def compare(first: str, second: str, as_json: bool) -> None:
    """Two versions side by side: held-out metrics with intervals, and answers to the same prompts.

    FIRST and SECOND as NAME, NAME@ALIAS or NAME@NUMBER; of NAME alone the champion.
    """
    from deployments.commands import compare

    compare.show(first, second, as_json)


@click.command()
@click.argument("model")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--adapter", is_flag=True, help="The adapter of a policy, not merged with its base.")
@as_json
def export(model: str, folder: Path, adapter: bool, as_json: bool) -> None:
    """Write a version into the new FOLDER; a policy as one model, merged with its base.

    MODEL as NAME, NAME@ALIAS or NAME@NUMBER; of NAME alone the champion.
    """
    from deployments.commands import export

    export.export(model, folder, adapter, as_json)
