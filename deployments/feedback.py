"""`nightshift feedback`: what users left about answers, from a file into the table.

nightshift feedback import feedback.jsonl --name mine
"""

import json
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import click
from pydantic import ValidationError

from deployments import shared
from deployments.shared import as_json
from infra.errors import InputError, first_fault

if TYPE_CHECKING:
    from jobs.dpo.data import Feedback, Reading

FILE = "FILE"


@click.group(cls=shared.Commands)
def feedback() -> None:
    """Take in what users left about a model's answers; docs/dpo-training.md."""


@feedback.command("import")
@click.argument("path", metavar=FILE, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--name", default="design", show_default=True, help="The model that answered.")
@as_json
def import_file(path: Path, name: str, as_json: bool) -> None:
    """Store the feedback of FILE and the answers that it is about, for `dpo-training`.

    FILE holds JSON lines, plain or gzipped; docs/dpo-training.md shows one of each kind. Broken
    lines are named and left out; with more than 1 % of them nothing is stored.

    A file may be imported again: a line with the same content as a stored one is known, also from
    another file, unless it stands in its file more often. What is new counts as left now.
    """
    _check_name(name)
    rows, reading = read(path)

    from infra import database, prefect_server

    prefect_server.ensure()
    try:
        prefect_server.ask("health")  # first: an event that cannot be sent is lost
    except OSError as error:
        raise prefect_server.unanswered(error) from None

    from prefect.context import refresh_global_settings_context
    from prefect.events.worker import EventsWorker

    from tasks.feedback import take_in

    refresh_global_settings_context()
    new = take_in(database.pool(), name, rows)
    # while the server is there: without `up` it ends with this process
    EventsWorker.drain_all(at_exit=False)
    told = {
        "model": name,
        "feedback": dict(Counter(row.kind for row in rows)),
        "new": new,
        "known": len(rows) - new,
        "broken": reading.broken,
        "skipped": dict(reading.skipped),
        "named": reading.named,
    }
    if as_json:
        json.dump(told, sys.stdout)
        sys.stdout.write("\n")
        return
    kinds = ", ".join(f"{count} {kind}" for kind, count in told["feedback"].items())
    click.echo(f"Feedback on {name}: {kinds}; {new} new, {len(rows) - new} known before.")
    for reason, count in reading.skipped.items():
        click.echo(f"Left out: {count} {reason}.")
    if reading.broken:
        click.secho(f"! {reading.broken} of {reading.lines} lines are broken:", fg="yellow")
    for line in reading.named:
        click.echo(f"  {line}")


def read(path: Path) -> "tuple[list[Feedback], Reading]":
    """The feedback of a file, checked. Raises InputError."""
    from jobs.dpo.data import Feedback, Reading, require_one_kind

    reading, rows = Reading(path, FILE), list[Feedback]()
    for number, row in reading.rows(lambda text: text.replace("\0", "\ufffd")):
        if not isinstance(row, Feedback):
            raise InputError(
                f"{path}, line {number}: a pair, and no feedback with a `kind`",
                "Train on pairs with `nightshift run dpo-training --dataset`.",
            )
        if row.kind == "comparison" and row.against == row.completion:
            reading.skipped["comparisons of an answer with itself"] += 1
        else:
            rows.append(row)
    if not rows:
        why = "; ".join(reading.named) or "it is empty"
        raise InputError(f"{path} holds no feedback: {why}", f"Correct {FILE}.")
    require_one_kind({row.is_chat for row in rows}, FILE)
    return rows, reading


def _check_name(name: str) -> None:
    from tasks.dpo_parameters import PreferenceParameters

    try:
        PreferenceParameters(name=name)
    except ValidationError as error:
        message = first_fault(error)[1]
        remedy = "Use letters, digits, '-', '_' and '.'."
        raise InputError(f"--name: {message}", remedy) from None
