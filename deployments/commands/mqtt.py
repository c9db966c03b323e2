"""`nightshift mqtt`: messages of sensors as observations and events; docs/mqtt.md."""

import ssl

import click

from deployments.commands import shared
from deployments.commands.shared import as_json, say, tell
from infra.errors import SettingsError
from infra.settings import settings


def check() -> None:
    """Raises SettingsError for settings without which no message can be taken."""
    given = settings()
    if given.mqtt_broker is None:
        raise SettingsError(
            "no MQTT broker is set",
            "Set NIGHTSHIFT_MQTT_BROKER, e.g. mqtts://broker.example:8883.",
        )
    if given.mqtt_password is not None and given.mqtt_username is None:
        raise SettingsError(
            "NIGHTSHIFT_MQTT_PASSWORD is set without a user name", "Set NIGHTSHIFT_MQTT_USERNAME."
        )
    try:
        ssl.create_default_context(cafile=given.mqtt_authority)
    except OSError as error:
        raise SettingsError(
            f"NIGHTSHIFT_MQTT_AUTHORITY: {given.mqtt_authority}: {error}",
            "Give a PEM file with certificates.",
        ) from None
    if given.mqtt_mapping is not None:
        from deployments.mqtt import mapping

        mapping.read(given.mqtt_mapping)


@click.group(cls=shared.Commands)
def mqtt() -> None:
    """Take messages of sensors from an MQTT broker."""


@mqtt.command()
def run() -> None:
    """Store messages of NIGHTSHIFT_MQTT_BROKER until Ctrl-C; `nightshift up` does so too.

    Observations go to the surrogate that their topic names, everything else to Prefect as events.
    """
    from infra import database, inert, interruption
    from infra.services import prefect_server

    interruption.install()
    inert.log_lines("%(asctime)s %(name)s %(message)s")
    check()
    prefect_server.ensure()

    from deployments.mqtt import bridge

    bridge.run(database.pool())


@mqtt.command()
@click.option("--refused", is_flag=True, help="Only those that could not be used, and why.")
@shared.limit
@as_json
def messages(refused: bool, limit: int, as_json: bool) -> None:
    """Events that came in and messages that were refused, newest first, and how many."""
    from rich.table import Table

    from deployments.commands.tables import show_table
    from infra import database
    from infra.records import messages as stored

    rows = stored.newest(database.pool(), "refused" if refused else None, limit)
    counts = stored.count(database.pool())
    if as_json:
        tell({"count": counts, "messages": rows})
        return
    title = "Messages: " + (", ".join(f"{n} {state}" for state, n in counts.items()) or "none")
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for column in ("received", "topic", "state", "message", "because"):
        table.add_column(column, overflow="fold")
    for row in rows:
        when = f"{row['received_at']:%d %b %H:%M:%S}"
        table.add_row(when, row["topic"], row["state"], row["payload"], row["error"] or "")
    show_table(table)


@mqtt.command()
@as_json
def readings(as_json: bool) -> None:
    """Buildings with hourly readings: how much of a year is there, what was refused."""
    from rich.table import Table

    from deployments.commands.tables import show_table
    from infra import database
    from infra.records import readings as stored

    rows = stored.summary(database.pool())
    if as_json:
        tell(rows)
        return
    table = Table(title="Readings", title_justify="left", box=None, pad_edge=False)
    for column in (
        "surrogate",
        "building",
        "described",
        "first hour",
        "newest",
        "hours",
        "refused",
    ):
        table.add_column(column, overflow="fold", justify="right" if column == "hours" else "left")
    for row in rows:
        first, newest = (f"{row[n]:%Y-%m-%d %H:%M}" if row[n] else "" for n in ("first", "newest"))
        described = "yes" if row["described"] else "no"
        names = row["model"], row["building"], described, first, newest
        table.add_row(*names, f"{row['hours']} of 8760", row["refused"] or "")
    show_table(table)


@mqtt.command()
@click.option("--days", default=30, show_default=True, type=click.IntRange(min=1), help="Kept.")
@as_json
def prune(days: int, as_json: bool) -> None:
    """Delete messages that are older than --days: refused ones, and events that Prefect has.

    An event that comes again after that is a new one.
    """
    from datetime import timedelta

    from infra import database
    from infra.records import messages as stored

    gone = stored.prune(database.pool(), timedelta(days=days))
    if as_json:
        tell({"deleted": gone})
    else:
        say(f"{gone} messages are deleted.")
