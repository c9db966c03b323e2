"""`nightshift federation`: tenants on their own machines.

    nightshift federation create clinics --address 192.0.2.7:9443
    nightshift federation invite clinics north > north.invite
    nightshift federation join north.invite --data ./data

`run federated-rounds --federation clinics` trains with those that have joined.
"""

from pathlib import Path

import click

from deployments.commands import shared
from deployments.commands.shared import as_json, become, say, tell


@click.group(cls=shared.Commands)
def federation() -> None:
    """Tenants on their own machines train together; docs/federated-rounds.md."""


@federation.command()
@click.argument("name")
@click.option(
    "--address",
    default="127.0.0.1:9443",
    show_default=True,
    help="HOST:PORT of this machine, where tenants find it while a run is on.",
)
@as_json
def create(name: str, address: str, as_json: bool) -> None:
    """Make the federation NAME, with certificates of its own."""
    from tasks.federated import federations

    made = federations.create(name, address)
    if as_json:
        tell({"federation": made.name, "address": made.address})
    else:
        say(f"{made.name} will listen on {made.address} while a run of it is on.")


@federation.command()
@click.argument("name")
@click.argument("tenant")
@as_json
def invite(name: str, tenant: str, as_json: bool) -> None:
    """Make an invite for TENANT and show it, this once. It is good for one machine and three
    days, and voids an older one that was not used."""
    from tasks.federated import federations

    text = federations.invite(name, tenant)
    if as_json:
        tell({"federation": name, "tenant": tenant, "invite": text})
    else:
        say(text)


@federation.command()
@click.argument("invite")
@click.option(
    "--data",
    required=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder with data.csv, with --model texts.jsonl, which stays here.",
)
@click.option(
    "--model",
    help="This machine's copy of the language model that runs adapt: a folder or hub id.",
)
@click.option(
    "--secure-aggregation",
    is_flag=True,
    help="Train in runs with secure aggregation only, whatever the owner asks for.",
)
def join(invite: str, data: Path, model: str | None, secure_aggregation: bool) -> None:
    """Take part with INVITE, or the file that it lies in, until Ctrl-C.

    The node waits for runs, and is started again when it dies. Weights and counts leave this
    machine; rows do not.
    """
    from tasks.federated import federations

    asks = ["--secure-aggregation"] if secure_aggregation else []
    told = federations.settle_in(invite, data, model)
    become("federated", "jobs.federated.tenant", *asks, *told)


@federation.command()
@click.argument("name")
@as_json
def status(name: str, as_json: bool) -> None:
    """Who was invited, who has joined, whose node is up, its last round and its share of the rows.

    Nodes can be seen while a run is on.
    """
    from deployments.commands.tables import make_table, show_table
    from tasks.federated import federations

    told = federations.status(name)
    if as_json:
        tell(told)
        return
    titles = ("tenant", "state", "node", "seen", "last round", "share", "remark")
    table = make_table(f"Federation {name} at {told['address']}", *titles)
    for row in told["tenants"]:
        ahead = row["clock_ahead"] or 0
        remarks = [row["left_out"]] if "left_out" in row else []
        remarks += [f"its clock is {ahead:+d} s off"] if abs(ahead) > 60 else []
        table.add_row(
            row["tenant"],
            row["state"],
            "up" if row["up"] else "",
            f"{row['seen']:%Y-%m-%d %H:%M}" if row["seen"] else "",
            f"{row['round']} of {row['run']}" if "round" in row else "",
            f"{row['share']:.0%}" if "share" in row else "",
            "; ".join(remarks),
        )
    show_table(table)
    for warning in told["warnings"]:
        say(f"! {warning}.", "yellow", err=True)


@federation.command()
@click.argument("name")
@click.argument("tenant")
def remove(name: str, tenant: str) -> None:
    """Let TENANT in no more: its next message is refused, also in a run that is on."""
    from tasks.federated import federations

    federations.remove(name, tenant)
    say(f"{tenant} is removed from {name}.")
