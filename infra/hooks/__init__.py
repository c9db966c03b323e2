"""Hooks: who may start which flows by HTTP, with what, how often and for how much."""

import contextlib
import getpass
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Literal

import psycopg
from psycopg.types.json import Jsonb
from pydantic import BaseModel, ConfigDict, Field, SecretStr

from infra.database import Pool
from infra.errors import InputError, SettingsError
from infra.hooks import secrets

Form = Literal["standard", "github", "cloudevents"]
COLUMNS = (
    "name, form, flows, mapping, per_minute, max_cost, debounce, created_at,"
    " secret, previous_secret, previous_until"
)

NAME = r"^[a-z0-9][a-z0-9-]{0,62}$"


class Hook(BaseModel):
    """One hook as it is stored, its secrets decrypted."""

    model_config = ConfigDict(frozen=True)

    name: str = Field(pattern=NAME)
    form: Form = "standard"
    flows: list[str] = Field(min_length=1)
    mapping: dict[str, str] = {}
    per_minute: int = Field(default=600, gt=0)
    max_cost: Decimal | None = Field(default=None, ge=0, max_digits=12, decimal_places=4)
    debounce: timedelta = Field(default=timedelta(0), ge=timedelta(0))
    created_at: datetime = Field(default_factory=lambda: datetime.now(UTC))
    secret: SecretStr
    previous_secret: SecretStr | None = None
    previous_until: datetime | None = None

    @property
    def secrets(self) -> list[str]:
        """Those that are good now: the newest first, then one that still runs out."""
        valid = [self.secret.get_secret_value()]
        if self.previous_secret and self.previous_until and datetime.now(UTC) < self.previous_until:
            valid.append(self.previous_secret.get_secret_value())
        return valid


def from_row(row: dict[str, Any]) -> Hook:
    """A row of COLUMNS with its secrets decrypted, without a previous one that is of no use.

    Raises SettingsError if the secret was encrypted with another key.
    """
    previous = None
    if row["previous_until"] is not None and datetime.now(UTC) < row["previous_until"]:
        with contextlib.suppress(SettingsError):
            previous = secrets.decrypt(bytes(row["previous_secret"]))
    secret = secrets.decrypt(bytes(row["secret"]))
    return Hook.model_validate(row | {"secret": secret, "previous_secret": previous})


def readable(rows: Iterable[dict[str, Any]]) -> tuple[list[Hook], dict[str, SettingsError]]:
    """The hooks of these rows of COLUMNS, and by name why others cannot be decrypted."""
    found, wrong = [], {}
    for row in rows:
        try:
            found.append(from_row(row))
        except SettingsError as error:
            wrong[row["name"]] = error
    return found, wrong


def read(pool: Pool) -> tuple[list[Hook], dict[str, SettingsError]]:
    """Every hook, as `readable` tells them."""
    with pool.connection() as connection:
        return readable(connection.execute(f"SELECT {COLUMNS} FROM hooks".encode()).fetchall())  # noqa: S608


def create(pool: Pool, hook: Hook) -> None:
    """Store a hook. Raises InputError if there is one of that name, SettingsError if our key is
    that of no other hook: then the gateway's is another one, too."""
    there, wrong = read(pool)
    if wrong and not there:
        raise next(iter(wrong.values()))
    try:
        with pool.connection() as connection, connection.transaction():
            connection.execute(
                "INSERT INTO hooks"
                " (name, form, flows, mapping, per_minute, max_cost, debounce, secret)"
                " VALUES (%s, %s, %s, %s, %s, %s, %s, %s)",
                [
                    *(hook.name, hook.form, hook.flows, Jsonb(hook.mapping), hook.per_minute),
                    *(hook.max_cost, hook.debounce),
                    secrets.encrypt(hook.secret.get_secret_value()),
                ],
            )
            shown = hook.model_dump(mode="json", include={"form", "flows", "mapping", "max_cost"})
            audit(connection, "create", hook.name, shown)
    except psycopg.errors.UniqueViolation:
        raise InputError(
            f"there is a hook {hook.name!r} already",
            "Give another NAME, or `nightshift hooks rotate` for a new secret.",
        ) from None


def rotate(pool: Pool, name: str, overlap: timedelta) -> str:
    """Give a hook a new secret, the old one is good for `overlap` more; return the new one."""
    secret = secrets.fresh()
    with pool.connection() as connection, connection.transaction():
        done = connection.execute(
            "UPDATE hooks SET previous_secret = secret, previous_until = now() + %s, secret = %s"
            " WHERE name = %s",
            [overlap, secrets.encrypt(secret), name],
        )
        if done.rowcount == 0:
            raise unknown(name)
        audit(connection, "rotate", name, {"overlap_seconds": overlap.total_seconds()})
    return secret


def newest(pool: Pool) -> list[dict[str, Any]]:
    """Every hook without its secrets, with how much it has delivered and when it did last."""
    with pool.connection() as connection:
        return connection.execute(
            "SELECT name, form, flows, mapping, per_minute, max_cost, debounce, hooks.created_at,"
            " count(webhook_deliveries.id) AS deliveries, max(received_at) AS last_delivery"
            " FROM hooks LEFT JOIN webhook_deliveries ON hook = name GROUP BY name ORDER BY name"
        ).fetchall()


def audit(connection: Any, action: str, hook: str, detail: dict[str, Any]) -> None:
    """Remember who did what to a hook; in the transaction that does it."""
    connection.execute(
        "INSERT INTO hook_audit (actor, action, hook, detail) VALUES (%s, %s, %s, %s)",
        [getpass.getuser(), action, hook, Jsonb(detail)],
    )


def unknown(name: str) -> InputError:
    return InputError(f"there is no hook {name!r}", "`nightshift hooks list` shows them.")
