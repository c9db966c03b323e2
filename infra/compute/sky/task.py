"""A job as SkyPilot's task: code, environment, secrets, and labels that say whose it is."""

import os
import shlex
from typing import Any

from infra.compute.launcher import Quote
from infra.compute.node import Order
from infra.compute.sky.api import sdk
from infra.compute.sky.gates import fuse_of_node
from infra.settings import REPOSITORY, settings

LABEL = "nightshift"
RESERVATION_LABEL = "nightshift-reservation"

PASSED_ON = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "HF_TOKEN")
"""Secrets that a node gets, where they are set; a machine with a role of its own needs none."""

SETUP = """\
set -e
unset {secrets}
cd ~/nightshift
export PATH="$HOME/.local/bin:$PATH"
wanted=$(grep -o '^uv==[0-9.]*' infra/environments/uv.txt | cut -c5-)
test "$(uv --version 2>/dev/null | cut -d' ' -f2)" = "$wanted" \
  || python3 -m pip install --quiet --user --require-hashes --requirement infra/environments/uv.txt
uv venv --quiet --allow-existing --python 3.11 ~/nightshift-env
uv pip install --quiet --python ~/nightshift-env/bin/python \
  $(python3 infra/compute/uv.py {environment}) --requirements infra/environments/{environment}.txt
"""
RUN = """\
cd ~/nightshift
exec ~/nightshift-env/bin/python -m infra.compute.node
"""


def make_task(order: Order, quote: Quote, code: tuple[str, ...], installation: str) -> Any:
    """`code` are the folders of the project that the node needs."""
    config = settings()
    environment = {
        "NIGHTSHIFT_FUSE": fuse_of_node(),
        "NIGHTSHIFT_STOP_GRACE_SECONDS": str(config.stop_grace_seconds),
    }
    if config.s3_endpoint_url:
        environment["NIGHTSHIFT_S3_ENDPOINT_URL"] = config.s3_endpoint_url
    secrets = {name: os.environ[name] for name in PASSED_ON if os.environ.get(name)}
    secrets["NIGHTSHIFT_ORDER"] = order.model_dump_json()  # there is a key in it
    sky = sdk()
    task = sky.Task(
        name="nightshift",
        setup=SETUP.format(
            environment=shlex.quote(order.spec.environment), secrets=" ".join(PASSED_ON)
        ),
        run=RUN,
        envs=environment,
        secrets=secrets,
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
