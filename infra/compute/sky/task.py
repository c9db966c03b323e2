"""A job as SkyPilot's task: code, environment, secrets, and labels that say whose it is."""

import os
import shlex
from typing import Any

from infra.compute.launcher import Quote
from infra.compute.node import Order
from infra.compute.sky.api import sdk
from infra.settings import REPOSITORY, settings

LABEL = "nightshift"
RESERVATION_LABEL = "nightshift-reservation"

PASSED_ON = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "HF_TOKEN")
"""Secrets that a node gets, where they are set; a machine with a role of its own needs none."""

SETUP = """\
set -e
cd ~/nightshift
export PATH="$HOME/.local/bin:$PATH"
command -v uv >/dev/null || python3 -m pip install --quiet --user uv
uv venv --quiet --allow-existing --python 3.11 ~/nightshift-env
uv pip install --quiet --python ~/nightshift-env/bin/python \
  $(python3 infra/compute/uv.py) --requirements infra/environments/{environment}.txt
"""
RUN = """\
cd ~/nightshift
exec ~/nightshift-env/bin/python -m infra.compute.node
"""


def make_task(order: Order, quote: Quote, code: tuple[str, ...], installation: str) -> Any:
    """`code` are the folders of the project that the node needs."""
    config = settings()
    environment = {
        "NIGHTSHIFT_ORDER": order.model_dump_json(),
        "NIGHTSHIFT_STOP_GRACE_SECONDS": str(config.stop_grace_seconds),
    }
    if config.s3_endpoint_url:
        environment["NIGHTSHIFT_S3_ENDPOINT_URL"] = config.s3_endpoint_url
    sky = sdk()
    task = sky.Task(
        name="nightshift",
        setup=SETUP.format(environment=shlex.quote(order.spec.environment)),
        run=RUN,
        envs=environment,
        secrets={name: os.environ[name] for name in PASSED_ON if os.environ.get(name)},
        file_mounts={f"~/nightshift/{name}": str(REPOSITORY / name) for name in code},
    )
    task.set_resources(
        sky.Resources(
            infra=quote.region,
            instance_type=quote.instance_type or None,
            accelerators=quote.accelerators or None,
            use_spot=quote.spot,
            disk_size=max(order.spec.resources.disk_gb, 50),
            labels={LABEL: installation, RESERVATION_LABEL: str(order.id)},
        )
    )
    return task
