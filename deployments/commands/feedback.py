"""`nightshift feedback`: what users left about answers, from a file into the table.

nightshift feedback import feedback.jsonl --name mine
"""

from collections import Counter
from pathlib import Path

import click
from pydantic import ValidationError

from deployments.commands import shared
from deployments.commands.shared import as_json, say, tell
from infra.errors import InputError, first_fault

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
    from tasks.dpo.feedback import read, store_with_answers

    _check_name(name)
    rows, reading = read(path, FILE)

    from infra import database
    from infra.services import prefect_server

    prefect_server.ensure()
    try:
        prefect_server.ask("health")  # first: an event that cannot be sent is lost
    except OSError as error:
        raise prefect_server.unanswered(error) from None

    from prefect.context import refresh_global_settings_context
    from prefect.events.worker import EventsWorker

    refresh_global_settings_context()
    new = store_with_answers(database.pool(), name, rows)
    # while the server is there: without `up` it ends with this process
    EventsWorker.drain_all(at_exit=False)
    counts = {
        "model": name,
        "feedback": dict(Counter(row.kind for row in rows)),
        "new": new,
        "known": len(rows) - new,
        "broken": reading.broken,
        "skipped": dict(reading.skipped),
        "named": reading.named,
    }
    if as_json:
        tell(counts)
        return
    kinds = ", ".join(f"{count} {kind}" for kind, count in counts["feedback"].items())
    say(f"Feedback on {name}: {kinds}; {new} new, {len(rows) - new} known before.")
    for reason, count in reading.skipped.items():
        say(f"Left out: {count} {reason}.")
    if reading.broken:
        say(f"! {reading.broken} of {reading.lines} lines are broken:", "yellow")
    for line in reading.named:
        say(f"  {line}")


def _check_name(name: str) -> None:
    from tasks.dpo.parameters import PreferenceParameters

    try:
        PreferenceParameters(name=name)
    except ValidationError as error:
        message = first_fault(error)[1]
        remedy = "Use letters, digits, '-', '_' and '.'."
        raise InputError(f"--name: {message}", remedy) from None
