"""SkyPilot's own gate: admits each machine that the ledger has reserved, once, and nothing else.

In the `~/.sky/config.yaml` of the machine that runs SkyPilot's API server, whose Python
environment is Nightshift's:

    admin_policy: infra.compute.policy.RequireReservation

SkyPilot asks it on the client's side and again in the server, where the admission is noted. It
starts no database: where that cannot be reached, nothing is launched.
"""

from decimal import ROUND_UP, Decimal
from operator import eq, le
from typing import Any

import psycopg
import sky
from psycopg.rows import dict_row

from infra import database
from infra.compute.sky.task import LABEL, RESERVATION_LABEL

NO_LAUNCHES = ("validate", "optimize", "exec")
"""All others rent machines: of clusters, managed jobs, services, their controllers and pools."""
OURS = "launch"
"""How a flow rents its machine, and the only way that can be admitted."""


class RequireReservation(sky.AdminPolicy):
    """Raises PermissionError for a launch that is not of an open attempt, as it was reserved."""

    @classmethod
    def validate_and_mutate(cls, user_request: sky.UserRequest) -> sky.MutatedUserRequest:
        options, kind = user_request.request_options, user_request.request_name.value
        dry = options is not None and options.dryrun
        if kind not in NO_LAUNCHES and not dry:
            place = options.cluster_name if options is not None and kind == OURS else None
            _require_reservation(user_request.task, place, user_request.at_client_side)
        return sky.MutatedUserRequest(user_request.task, user_request.skypilot_config)


def _require_reservation(task: Any, place: str | None, at_client_side: bool) -> None:
    wanted = list(task.resources)
    labels = (wanted[0].labels if wanted else None) or {}
    number = labels.get(RESERVATION_LABEL, "")
    if place is None or LABEL not in labels or not number.isdecimal():
        raise PermissionError(
            "Nightshift: this launch has no reservation. Start it as a flow: nightshift run ..."
        )
    with (
        psycopg.connect(database.running_url(), connect_timeout=10) as connection,
        connection.cursor(row_factory=dict_row) as cursor,
    ):
        reserved = cursor.execute(
            "SELECT a.* FROM reservations r JOIN installation i ON i.id = %s"
            " LEFT JOIN attempts a ON a.reservation_id = r.id AND a.place = %s"
            " WHERE r.id = %s AND r.closed_at IS NULL AND r.expires_at > now()",
            [labels[LABEL], place, int(number)],
        ).fetchone()
        if reserved is None:
            raise PermissionError(f"Nightshift: the reservation {number} is closed or has expired.")
        if reserved["place"] is None:
            raise PermissionError(f"Nightshift: the reservation {number} is not for {place}.")
        if len(wanted) != 1 or task.num_nodes != 1:
            raise PermissionError(
                f"Nightshift: {place} is reserved as one machine, asked are "
                f"{task.num_nodes} machines of {len(wanted)} kinds."
            )
        _require_as_reserved(wanted[0], place, reserved)
        admitted = cursor.execute(
            "UPDATE attempts SET admitted_at = CASE WHEN %s THEN NULL ELSE now() END"
            " WHERE place = %s AND admitted_at IS NULL AND gone_at IS NULL RETURNING place",
            [at_client_side, place],
        ).fetchone()
    if admitted is None:
        raise PermissionError(f"Nightshift: {place} was launched already; each attempt is once.")


def _require_as_reserved(resources: Any, place: str, reserved: dict[str, Any]) -> None:
    hourly = Decimal(str(resources.get_cost(3600))).quantize(Decimal("0.0001"), ROUND_UP)
    for what, asked, agreed, fits in (
        ("in", resources.infra.to_str(), reserved["region"], eq),
        ("on", resources.instance_type or "", reserved["instance_type"], eq),
        ("at dollars an hour", hourly, reserved["hourly_usd"], le),
    ):
        if not fits(asked, agreed):
            raise PermissionError(
                f"Nightshift: {place} is reserved {what} {agreed}, asked is {asked}."
            )
