"""SkyPilot's own gate: refuses every launch that the ledger has no live reservation for.

In the `~/.sky/config.yaml` of the machine that runs SkyPilot's API server, whose Python
environment is Nightshift's:

    admin_policy: infra.compute.policy.RequireReservation

SkyPilot asks it on the client's side and again in the server, so it changes nothing. It starts no
database: where that cannot be reached, nothing is launched.
"""

import psycopg
import sky

from infra import database
from infra.compute.sky.task import LABEL, RESERVATION_LABEL

NO_LAUNCHES = ("validate", "optimize", "exec")
"""All others rent machines: of clusters, managed jobs, services, their controllers and pools."""


class RequireReservation(sky.AdminPolicy):
    """Raises PermissionError for a launch without a live reservation."""

    @classmethod
    def validate_and_mutate(cls, user_request: sky.UserRequest) -> sky.MutatedUserRequest:
        options = user_request.request_options
        dry = options is not None and options.dryrun
        if user_request.request_name.value not in NO_LAUNCHES and not dry:
            for resources in user_request.task.resources:
                _require_reservation(resources.labels or {})
        return sky.MutatedUserRequest(user_request.task, user_request.skypilot_config)


def _require_reservation(labels: dict[str, str]) -> None:
    number = labels.get(RESERVATION_LABEL, "")
    if LABEL not in labels or not number.isdecimal():
        raise PermissionError(
            "Nightshift: this launch has no reservation. Start it as a flow: nightshift run ..."
        )
    with psycopg.connect(database.running_url(), connect_timeout=10) as connection:
        live = connection.execute(
            "SELECT 1 FROM reservations, installation i WHERE reservations.id = %s"
            " AND closed_at IS NULL AND expires_at > now() AND i.id = %s",
            [int(number), labels[LABEL]],
        ).fetchone()
    if live is None:
        raise PermissionError(f"Nightshift: the reservation {number} is closed or has expired.")
