"""Keys that people type: the end of one is enough."""

from psycopg import sql

from infra.database import Pool
from infra.errors import InputError


def whole_key(
    pool: Pool, table: str, column: str, ending: str, *, argument: str, remedy: str
) -> str:
    """The one key of `table` that is `ending`, else the one that ends so.

    Raises InputError naming the `argument`, for none or several.
    """
    if not ending:  # an empty shell variable is no key
        raise InputError(f"{argument} is empty", remedy)
    query = sql.SQL("SELECT {0} AS key FROM {1} WHERE right({0}, %s) = %s ORDER BY {0}")
    with pool.connection() as connection:
        rows = connection.execute(
            query.format(sql.Identifier(column), sql.Identifier(table)), [len(ending), ending]
        ).fetchall()
    keys = [row["key"] for row in rows]
    if ending in keys:
        return ending
    if len(keys) != 1:
        found = "several: " + ", ".join(keys[:5]) if keys else "none"
        raise InputError(f"{argument} {ending!r} names {found}", remedy)
    return keys[0]
