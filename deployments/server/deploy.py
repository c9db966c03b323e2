"""Put the deployments of prefect.yaml and the automations on the Prefect server; safe to repeat.

    python -m deployments.server.deploy

Schedules are the server's once a deployment is there: `prefect deploy` alone would turn off what
somebody turned on in the UI, and remove what they added. They lie in
HOME/prefect/schedules.json meanwhile, so that one that ends in the middle loses none: the next one
puts them back.
"""

import fcntl
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from deployments.catalogue import flow_names
from infra import keeper
from infra.compute.watchdog import write_whole
from infra.errors import NightshiftError
from infra.services import prefect_server
from infra.settings import REPOSITORY, settings

SECONDS = 180


def main() -> None:
    prefect_server.find()
    _alone()
    before = _remember()
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

    from deployments.server import automations

    with get_client(sync_client=True) as client:
        try:
            out, _ = deploying.communicate(timeout=SECONDS)
        finally:
            deploying.kill()
            deploying.wait()
            _restore(client, before)
        if deploying.returncode:
            sys.exit(out.strip()[-800:])
        flows = {name: client.read_deployment_by_name(f"{name}/{name}").id for name in flow_names()}
        blocks = [_block(client, given) for given in settings().notifications]
        found = [block for block in blocks if block is not None]
        automations.apply(client, automations.automations(flows, found))


def _alone() -> None:
    """Wait for another one of this home folder, and hold the lock until this process ends."""
    lock = os.open(_file().with_name("deploy.lock"), os.O_CREAT | os.O_RDWR, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)


def _file() -> Path:
    return settings().home / "prefect" / "schedules.json"


def _remember() -> dict[str, list[Any]]:
    """Schedules by id of deployment, kept until `_restore`: as they are now, or as they were before
    a deploying that did not come to its end."""
    try:
        there = prefect_server.deployments(flow_names())
    except OSError as error:
        raise prefect_server.unanswered(error) from None
    before = {one["id"]: [_schedule(each) for each in one["schedules"]] for one in there}
    if _file().is_file():
        before |= json.loads(_file().read_text())
    _file().parent.mkdir(parents=True, exist_ok=True)  # the server may be elsewhere
    write_whole(_file(), before)
    return before


def _restore(client: Any, before: dict[str, list[Any]]) -> None:
    from prefect.exceptions import PrefectHTTPStatusError

    for id_, schedules in before.items():
        try:
            client.request(
                "PATCH", "/deployments/{id}", path_params={"id": id_}, json={"schedules": schedules}
            )
        except PrefectHTTPStatusError as error:
            if error.response.status_code != 404:  # somebody has deleted it, or of another server
                raise
    _file().unlink(missing_ok=True)


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
