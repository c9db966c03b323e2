"""The door for people: every flow by name, the budget, the jobs and the models.

    nightshift run nightly-ppo --help

Nothing heavy is imported before a command needs it.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import click

from deployments.commands import inference, shared, versions
from deployments.commands.federation import federation
from deployments.commands.feedback import feedback
from deployments.commands.flows import Here, Served
from deployments.commands.keys import keys
from deployments.commands.mqtt import mqtt
from deployments.commands.shared import Commands, as_json, prepare, say, tell
from deployments.commands.webhooks import hooks
from infra import private
from infra.errors import InputError, NightshiftError, SettingsError
from infra.services import proxies
from infra.settings import settings

UNAVAILABLE = 4
INTERRUPTED = 130
"""128 + SIGINT, as shells have it."""

PREFECT_DEFAULTS = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_LOGGING_EXTRA_LOGGERS": "nightshift",
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
    "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "false",
}
"""Prefect reads these when it is imported. Its own lines are for its UI; ours are for people."""


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="nightshift")
def cli() -> None:
    """Improve models overnight under a budget that cannot be overspent.

    Settings are environment variables NIGHTSHIFT_*; docs/settings.md lists them.
    """
    from infra.settings import unknown_variables

    for unknown in unknown_variables():  # a misspelt limit would limit nothing
        say(f"! {unknown}.", "yellow", err=True)


@cli.group(cls=Here, name="run")
def run_group() -> None:
    """Run a flow here, in this process. A killed run is finished by the next one."""


@cli.group(cls=Served, name="submit")
def submit_group() -> None:
    """Run a flow through the Prefect server, on the worker of `nightshift up`."""


@cli.command()
@as_json
def setup(as_json: bool) -> None:
    """Make the database and the job environment `train`.

    So the first training of a language model starts at once. Other environments, as that of
    surrogates, are made on first use.
    """
    from deployments.commands import start

    start.set_up(as_json)


@cli.command()
@click.argument("folder", type=click.Path(path_type=Path), default=Path())
@as_json
def init(folder: Path, as_json: bool) -> None:
    """Write an example to begin with into FOLDER: prompts, a reward with a test, a night.yaml.

    Nothing that is there is overwritten. Without FOLDER it is the present one.
    """
    from deployments.commands import init

    init.write(folder, as_json)


@cli.command()
@click.option("--detach", is_flag=True, help="Return once everything is up; `down` ends it.")
@as_json
def up(detach: bool, as_json: bool) -> None:
    """Run PostgreSQL, the Prefect UI, a worker, the webhooks and all deployments until Ctrl-C."""
    from deployments.commands import start

    start.keep_up(detach, as_json)


@cli.command()
@as_json
def status(as_json: bool) -> None:
    """What of `nightshift up` runs, and where it answers; exit code 4 if something does not."""
    from deployments.commands import start

    start.show_status(as_json)


@cli.command()
@as_json
def down(as_json: bool) -> None:
    """End what `nightshift up` runs."""
    from deployments.commands import start

    start.end_up(as_json)


@cli.command()
@as_json
def doctor(as_json: bool) -> None:
    """What is set up, what is missing, how to mend it; an exit code if something is broken."""
    from deployments.commands import doctor

    doctor.show(as_json)


@cli.command()
@click.option("--accelerators", help="GPUs as NAME:COUNT, e.g. H100:8 [default: none].")
@click.option("--cpus", default=1, show_default=True, help="CPU cores at least.")
@click.option("--memory", default=2.0, show_default=True, help="GB of memory at least.")
@click.option("--spot", is_flag=True, help="Machines that the provider may take away.")
@click.option("--hours", default=1.0, show_default=True, help="For how long.")
@click.option(
    "--target",
    type=click.Choice(["local", "sky", "auto"]),
    default="auto",
    show_default=True,
    help="Where to ask: this machine, SkyPilot, or both.",
)
@as_json
def quote(
    accelerators: str | None,
    cpus: int,
    memory: float,
    spot: bool,
    hours: float,
    target: Any,
    as_json: bool,
) -> None:
    """What such a machine costs, where, and whether it fits today's budget."""
    from deployments.commands import tables

    tables.show_quotes(accelerators, cpus, memory, spot, hours, target, as_json)


cli.add_command(feedback)
cli.add_command(hooks)
cli.add_command(mqtt)


@cli.group()
def budget() -> None:
    """What may be spent, what is, and who reserved it."""


@budget.command("show")
@as_json
def budget_show(as_json: bool) -> None:
    """Limit, charged, reserved and remaining dollars of every budget, by flow and by provider."""
    from deployments.commands import tables

    tables.show_budgets(as_json)


@budget.command("set")
@click.argument("limit")
@click.option(
    "--scope",
    default="project",
    show_default=True,
    help="'project' or 'flow:NAME', e.g. flow:dpo-training.",
)
@click.option(
    "--window",
    type=click.Choice(["day", "month"]),
    default="day",
    show_default=True,
    help="How often it resets.",
)
@click.option("--timezone", help="IANA zone of its days [default: NIGHTSHIFT_BUDGET_TIMEZONE].")
@as_json
def budget_set(limit: str, scope: str, window: str, timezone: str | None, as_json: bool) -> None:
    """Set a budget to LIMIT dollars; 0 denies everything."""
    from deployments.commands import tables

    tables.set_budget(scope, window, limit, timezone)
    tables.show_budgets(as_json)


@budget.command("reconcile")
@click.argument("bill", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--tolerance",
    type=click.FloatRange(min=0),
    default=10.0,
    show_default=True,
    help="By how many percent of what was charged a day's bill may exceed it.",
)
@as_json
def budget_reconcile(bill: Path, tolerance: float, as_json: bool) -> None:
    """Compare BILL, a provider's CSV, with what was charged; exit code 3 where it is dearer."""
    from deployments.commands import bills

    bills.show_bill(bill, tolerance, as_json)


@cli.group()
def runs() -> None:
    """The runs of flows, and their reports."""


@runs.command("list")
@shared.limit
@as_json
def runs_list(limit: int, as_json: bool) -> None:
    """Newest runs with their state and what they cost."""
    from deployments.commands import runs

    runs.show_runs(limit, as_json)


@runs.command("show")
@click.argument("run")
@as_json
def runs_show(run: str, as_json: bool) -> None:
    """The report of one run; RUN as `runs list` shows it, its end is enough."""
    from deployments.commands import runs

    runs.show_run(run, as_json)


@cli.group()
def jobs() -> None:
    """What ran, what runs, and what it cost."""


@jobs.command("list")
@click.option("--running", is_flag=True, help="Only jobs that have not ended.")
@shared.limit
@as_json
def jobs_list(running: bool, limit: int, as_json: bool) -> None:
    """Newest jobs with their state, the seconds for which money was kept, and dollars."""
    from deployments.commands import tables

    tables.show_jobs(running, limit, as_json)


@jobs.command("logs")
@click.argument("key")
@click.option("--follow", "-f", is_flag=True, help="Go on until the job ends.")
@as_json
def jobs_logs(key: str, follow: bool, as_json: bool) -> None:
    """The log of one job; KEY as `jobs list` shows it, its end is enough."""
    from deployments.commands import tables

    tables.show_logs(key, follow, as_json)


@jobs.command("stop")
@click.argument("key")
@as_json
def jobs_stop(key: str, as_json: bool) -> None:
    """Stop one job: it checkpoints, ends, and its unspent reservation is freed."""
    from deployments.commands import tables

    tables.stop_job(key, as_json)


@cli.group()
def models() -> None:
    """Registered model versions and who is champion."""


@models.command("list")
@click.argument("model", required=False)
@as_json
def models_list(model: str | None, as_json: bool) -> None:
    """Versions, aliases and metrics."""
    from deployments.commands import tables

    tables.show_models(model, as_json)


@models.command("promote")
@click.argument("model")
@click.argument("version")
@as_json
def models_promote(model: str, version: str, as_json: bool) -> None:
    """Make VERSION the champion and serve it; needs a stored verdict that allows it."""
    from deployments.commands import tables

    tables.promote(model, version, as_json)


@models.command("rollback")
@click.argument("model")
@as_json
def models_rollback(model: str, as_json: bool) -> None:
    """Make the previous champion the champion again, and serve it."""
    from deployments.commands import tables

    tables.rollback(model, as_json)


models.add_command(versions.compare)
models.add_command(versions.export)
cli.add_command(inference.predict)
cli.add_command(inference.serve)
cli.add_command(keys)
cli.add_command(federation)


@contextmanager
def _clear_errors() -> Iterator[None]:
    """One clear error and an exit code, no traceback, for everything that a user can mend."""
    try:
        yield
    except NightshiftError as error:
        if "--json" in sys.argv:
            fields = {"error": type(error).__name__, "message": error.message}
            tell(fields | {"remedy": error.remedy})
        say(f"✗ {error.message}", "red", err=True)
        if error.remedy:
            say(f"  → {error.remedy}", err=True)
        _exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        say("Interrupted; the same command goes on where this one ended.", err=True)
        _exit(INTERRUPTED)
    except Exception as error:
        kinds = {kind.__name__ for kind in type(error).__mro__}
        status = getattr(getattr(error, "response", None), "status_code", 0)
        away = kinds & {"OperationalError", "PoolTimeout", "InterfaceError", "TransportError"}
        if not away and status < 500:  # Prefect's server answers so while its database is away
            raise
        say(f"✗ a service stopped answering: {error}", "red", err=True)
        say("  → Run the same command again: it goes on where this one ended.", err=True)
        _exit(UNAVAILABLE)


def _exit(code: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    sys.exit(code)


def main() -> None:
    """Entry point of the command `nightshift`."""
    for name, value in PREFECT_DEFAULTS.items():
        os.environ.setdefault(name, value)
    proxies.reach_loopback()
    prepare()
    with _clear_errors():
        with suppress(SettingsError):  # the command tells it
            private.close(settings().home)
        try:
            cli(standalone_mode=False)
        except click.NoSuchOption as error:
            raise InputError(error.format_message(), "--help lists the options.") from None
        except click.UsageError as error:
            if error.ctx:
                say(error.ctx.get_usage(), err=True)
            raise InputError(error.format_message(), "Add --help to see how.") from None


if __name__ == "__main__":
    main()
