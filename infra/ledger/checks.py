"""What a caller may give: each check raises InputError before the database is asked."""

from datetime import UTC, datetime
from decimal import Decimal
from zoneinfo import ZoneInfo

from infra.errors import InputError

LARGEST = Decimal("99999999.9999")
"""What numeric(12,4) holds."""


def scope(scope: str) -> None:
    kind, _, name = scope.partition(":")
    if scope != "project" and not (kind in ("flow", "run") and name):
        raise InputError(f"--scope: {scope!r} is no scope", "Use project, flow:NAME or run:ID.")


def key(key: str) -> None:
    if not key:
        raise InputError("a key is empty", "Make it of the run and the step.")


def dollars(what: str, amount: Decimal, least: Decimal = Decimal("0.0001")) -> None:
    if not isinstance(amount, Decimal):
        raise InputError(f"{what}: {amount!r} is no Decimal", "Give dollars as Decimal.")
    if not amount.is_finite() or not least <= amount <= LARGEST:
        raise InputError(
            f"{what}: {amount} dollars", f"Give an amount from {least} to {LARGEST} dollars."
        )
    if amount != amount.quantize(Decimal("0.0001")):
        raise InputError(f"{what}: {amount} dollars", "Give at most four decimal places.")


def timezone(name: str) -> None:
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise InputError(
            f"--timezone: {name!r} is no IANA time zone", "Give one like Europe/Berlin."
        ) from None


def future(expires_at: datetime, now: datetime | None) -> None:
    if expires_at.tzinfo is None or expires_at <= (now or datetime.now(UTC)):
        raise InputError(
            f"a reservation that expires at {expires_at}", "Give an aware time in the future."
        )
