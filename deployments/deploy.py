"""Put the deployments of prefect.yaml and the automations on the Prefect server; safe to repeat.

    python -m deployments.deploy

Schedules are the server's once a deployment is there: `prefect deploy` alone would turn off what
somebody turned on in the UI, and remove what they added.
"""

import signal
import subprocess
import sys
from typing import Any

from infra import keeper, prefect_server
from infra.errors import NightshiftError
from infra.settings import REPOSITORY, settings

SECONDS = 180


def main() -> None:
    prefect_server.find()
    before = {one["name"]: one for one in prefect_server.ask("deployments/filter", {})}
    deploying = subprocess.Popen(
        [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"],
        cwd=REPOSITORY,
        preexec_fn=keeper.die_with_parent(signal.SIGTERM),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    from prefect.client.orchestration import get_client

    from deployments import automations
    from deployments.catalogue import flow_names

    try:
        out, _ = deploying.communicate(timeout=SECONDS)
    finally:
        deploying.kill()
    if deploying.returncode:
        sys.exit(out.strip()[-800:])
    with get_client(sync_client=True) as client:
        flows = {name: client.read_deployment_by_name(f"{name}/{name}").id for name in flow_names()}
        for name, id_ in flows.items():
            if name in before:
                content = {"schedules": [_schedule(one) for one in before[name]["schedules"]]}
                client.request("PATCH", "/deployments/{id}", path_params={"id": id_}, json=content)
        blocks = [_block(client, given) for given in settings().notifications]
        found = [block for block in blocks if block is not None]
        automations.apply(client, automations.automations(flows, found))


def _schedule(stored: dict[str, Any]) -> dict[str, Any]:
    names = ("schedule", "active", "max_scheduled_runs", "parameters", "slug")
    return {name: stored[name] for name in names}


def _block(client: Any, given: str) -> Any:
    """The id of a block TYPE/NAME; None, with a warning, if the server has none."""
    from prefect.exceptions import ObjectNotFound

    kind, _, name = given.partition("/")
    try:
        return client.read_block_document_by_name(name, kind).id
    except ObjectNotFound:
        sys.stderr.write(
            f"NIGHTSHIFT_NOTIFICATIONS: the Prefect server has no block {given}; nobody is told "
            "there. Make it in the UI under Blocks, then `nightshift up` again.\n"
        )
        return None


if __name__ == "__main__":
    try:
        main()
    except NightshiftError as error:
        sys.exit(str(error))
