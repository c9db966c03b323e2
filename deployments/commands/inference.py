"""The doors to champions at work: `nightshift predict` and `nightshift serve`.

    nightshift predict surrogate --input designs.csv --weather town.epw
    nightshift serve surrogate
    nightshift serve policy --name mine

A champion answers in its own job environment. For a surrogate this process fetches it, verified,
and then becomes that program; a policy is watched over, since its champion changes meanwhile.
"""

from pathlib import Path

import click

from deployments.commands.shared import Commands, become, say

WAIT_SECONDS = 10.0
"""Between two tries of `serve policy --wait`."""
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
    folder, _ = _champion(name)
    become("surrogate", "jobs.surrogate.predict", "--model", str(folder), *given)


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
    become("surrogate", "jobs.surrogate.serve", "--model", str(folder), *given)


@serve.command("policy")
@click.option(
    "--name", default="design", show_default=True, help="Name of the policy, or NAME@VERSION."
)
@click.option("--port", default=8800, show_default=True, type=click.IntRange(1, 65535), help="TCP.")
@click.option(
    "--kv-cache",
    default=256,
    show_default=True,
    type=click.IntRange(16),
    help="Memory for keys and values of what is being answered, MiB.",
)
@click.option(
    "--wait",
    is_flag=True,
    help="Wait where it cannot be served yet, as without a champion, instead of ending.",
)
def serve_policy(name: str, port: int, kv_cache: int, wait: bool) -> None:
    """Answer as OpenAI's API does, on this machine only, until Ctrl-C.

    Whatever becomes champion meanwhile answers from then on; no request is dropped. Each answer is
    stored as an interaction, which `nightly-ppo` trains on once it has feedback: docs/serving.md.
    NAME@VERSION answers with that version instead, a quantised one too. `nightshift up` does this
    for each of NIGHTSHIFT_SERVED_MODELS.
    """
    import signal
    import threading

    from infra.errors import NightshiftError
    from infra.serving.endpoint import Endpoint

    ending, said = threading.Event(), ""

    def end(*_: object) -> None:
        ending.set()
        endpoint.stopping.set()

    while not ending.is_set():
        endpoint = Endpoint(name, port, kv_cache, say)
        try:
            endpoint.prepare()
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, end)
            endpoint.run()
        except NightshiftError as error:
            if not wait:
                raise
            if said != str(error):
                said = str(error)
                say(f"{said}\nIt is tried again every {WAIT_SECONDS:g} seconds.")
            ending.wait(WAIT_SECONDS)
    say("Ended; what was answered is stored.")


def _champion(name: str) -> tuple[Path, str]:
    """A verified copy of the champion of `name`, and its version.

    Raises InputError where there is none or it is of another kind, and the errors of `objects.get`.
    """
    from infra import objects
    from infra.models import registry
    from infra.settings import settings

    command = f"nightshift run surrogate-retraining --name {name}"
    champion = registry.champion(name, "surrogate", command)
    folder = settings().home / "champions" / name / champion.sha256[:16]
    folder.parent.mkdir(parents=True, exist_ok=True)
    return objects.get(champion.uri, folder, champion.sha256), champion.version
