"""`nightshift keys`: who may ask a policy that is served.

nightshift keys create acme
"""

import click

from deployments.commands import shared
from deployments.commands.shared import as_json, say, tell


@click.group(cls=shared.Commands)
def keys() -> None:
    """API keys of tenants, for `serve policy`; docs/serving.md."""


@keys.command()
@click.argument("tenant")
@as_json
def create(tenant: str, as_json: bool) -> None:
    """Make a key of TENANT and show it, this once. From the first one on a key is needed."""
    from infra import database
    from infra.serving import keys

    key = keys.create(database.pool(), tenant)
    if as_json:
        tell({"tenant": tenant, "key": key})
    else:
        say(key)


@keys.command("list")
@as_json
def show(as_json: bool) -> None:
    """Number, tenant and state of each key, newest first."""
    from deployments.commands.tables import make_table, show_table
    from infra import database
    from infra.serving import keys

    rows = keys.all_keys(database.pool())
    if as_json:
        tell(rows)
        return
    table = make_table("API keys", "number", "tenant", "made", "revoked")
    for row in rows:
        table.add_row(
            str(row["number"]),
            row["tenant"],
            f"{row['created_at']:%Y-%m-%d %H:%M}",
            f"{row['revoked_at']:%Y-%m-%d %H:%M}" if row["revoked_at"] else "",
        )
    show_table(table)


@keys.command()
@click.argument("number", type=click.IntRange(1))
def revoke(number: int) -> None:
    """Let the key NUMBER open nothing any more, within a second or two."""
    from infra import database
    from infra.serving import keys

    keys.revoke(database.pool(), number)
    say(f"Key {number} is revoked.")
