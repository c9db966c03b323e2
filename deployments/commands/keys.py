"""`nightshift keys`: who may ask a policy that is served.

nightshift keys create acme
nightshift keys create acme --requests-per-minute 60 --tokens-per-minute 20000
"""

import click

from deployments.commands import shared
from deployments.commands.shared import as_json, say, tell

MOST = click.IntRange(1, 2**31 - 1)


@click.group(cls=shared.Commands)
def keys() -> None:
    """API keys of tenants, for `serve policy`; docs/serving.md."""


@keys.command()
@click.argument("tenant")
@click.option("--requests-per-minute", type=MOST, help="Answers that may be asked for with it.")
@click.option(
    "--tokens-per-minute", type=MOST, help="Tokens of prompts and answers; none: no limit."
)
@as_json
def create(
    tenant: str, requests_per_minute: int | None, tokens_per_minute: int | None, as_json: bool
) -> None:
    """Make a key of TENANT and show it, this once. From the first one on a key is needed.

    Beyond its limits a request is refused with status 429, which says in how many seconds to try
    again. To change a limit, make another key and revoke this one.
    """
    from infra import database
    from infra.serving import keys

    key = keys.create(database.pool(), tenant, requests_per_minute, tokens_per_minute)
    if as_json:
        tell({"tenant": tenant, "key": key})
    else:
        say(key)


@keys.command("list")
@as_json
def show(as_json: bool) -> None:
    """Number, tenant, limits and state of each key, newest first."""
    from deployments.commands.tables import make_table, show_table
    from infra import database
    from infra.serving import keys

    rows = keys.all_keys(database.pool())
    if as_json:
        tell(rows)
        return
    table = make_table(
        "API keys", "number", "tenant", "requests/min", "tokens/min", "made", "revoked"
    )
    for row in rows:
        table.add_row(
            str(row["number"]),
            row["tenant"],
            *(f"{row[name]:,}" if row[name] else "" for name in keys.LIMITS),
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
