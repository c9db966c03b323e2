"""The doors to champions at work: `nightshift predict` and `nightshift serve`.

    nightshift predict surrogate --input designs.csv --weather town.epw
    nightshift serve surrogate

A champion answers in its own job environment: this process fetches it, verified, and then becomes
that program.
"""

import os
import sys
from pathlib import Path
from typing import NoReturn

import click

from deployments.shared import Commands

NAME = click.option("--name", default="house", show_default=True, help="Name of the surrogate.")


@click.group(cls=Commands)
def predict() -> None:
    """Ask a champion."""


@predict.command("surrogate")
@NAME
@click.option("--input", "path", help="Designs as CSV, Parquet or JSON lines.")
@click.option("--stdin", is_flag=True, help="Designs as JSON lines from standard input.")
@click.option("--weather", help="EPW file that fills in the columns of the weather.")
@click.option("--json", "as_json", is_flag=True, help="JSON lines for a table, too.")
def predict_surrogate(
    name: str, path: str | None, stdin: bool, weather: str | None, as_json: bool
) -> None:
    """Mean, interval and flags for designs, one line each, from the champion.

    `outside` names inputs beyond the training ranges, `broken` the physics that the answer breaks.
    """
    from infra.errors import InputError

    if stdin == (path is not None):
        raise InputError("--input or --stdin: exactly one is needed", "Give --input a file.")
    given = ["--stdin"] if path is None else ["--input", path]
    given += ["--weather", weather] if weather else []
    given += ["--json"] if as_json else []
    _become("jobs.surrogate.predict", _champion(name)[0], given)


@click.group(cls=Commands)
def serve() -> None:
    """Serve a champion over HTTP."""


@serve.command("surrogate")
@NAME
@click.option("--port", default=8700, show_default=True, type=click.IntRange(0, 65535), help="TCP.")
@click.option("--weather", help="EPW file for requests that tell nothing of the weather.")
def serve_surrogate(name: str, port: int, weather: str | None) -> None:
    """Answer POST /v1/surrogate/evaluate on this machine only, until Ctrl-C."""
    folder, version = _champion(name)
    given = ["--port", str(port), "--version", f"{name} {version}"]
    given += ["--weather", weather] if weather else []
    _become("jobs.surrogate.serve", folder, given)


def _champion(name: str) -> tuple[Path, str]:
    """A verified copy of the champion of `name`, and its version.

    Raises InputError where there is none, and the errors of `objects.get`.
    """
    from infra import objects, registry
    from infra.errors import InputError
    from infra.settings import settings

    champion = registry.by_alias(name, "champion")
    if champion is None:
        raise InputError(
            f"--name: {name!r} has no champion",
            f"Make one with `nightshift run surrogate-retraining --name {name}`.",
        )
    folder = settings().home / "champions" / name / champion.sha256[:16]
    folder.parent.mkdir(parents=True, exist_ok=True)
    return objects.get(champion.uri, folder, champion.sha256), champion.version


def _become(program: str, folder: Path, arguments: list[str]) -> NoReturn:
    """Replace this process by `program` in the job environment, with the model in `folder`."""
    from infra.compute import environments
    from infra.settings import REPOSITORY

    python = environments.ensure("surrogate")
    command = [str(python), "-m", program, "--model", str(folder), *arguments]
    path = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    sys.stdout.flush()
    os.execve(python, command, os.environ | {"PYTHONPATH": path})  # noqa: S606 - no shell
