"""Serve a policy on this machine: Ray, Ray Serve and the deployment, for as long as stdin is open.

    python -m jobs.serving.serve        (started by infra.serving.endpoint)

The first line of standard input is a ServingConfig, each later one an Order, all as JSON. Standard
output has a State for each order, once it is served or refused. Ray's processes die with this one,
however it ends.
"""

import os
import signal
import sys
import time
from typing import NoReturn, TextIO

import ray
from ray import serve
from ray.serve.context import _get_global_client
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import ServeDeploySchema

from jobs.serving.config import APPLICATION, DEPLOYMENT, Order, ServingConfig, State

LOGICAL_CPUS = 8
"""Serve's own actors and a second replica while one replaces the other; no limit of real ones."""
OBJECT_STORE_BYTES = 80_000_000
"""Ray's least; nothing goes through it."""
DEPLOY_SECONDS = 1800
LOOPBACK = "127.0.0.1"


class Deployer:
    """Carries out orders, and goes back to the last one that held.

    It deploys by a declarative config: `serve.run` would always replace the replica. The client is
    what Serve's REST API calls; that would need Ray's dashboard, ten more processes.
    """

    def __init__(self, config: ServingConfig) -> None:
        self.config, self.number = config, 0
        self.held: Order | None = None
        self.pattern: str | None = None
        self.handle: DeploymentHandle | None = None

    def carry_out(self, order: Order) -> State:
        """What is served afterwards."""
        before, self.pattern = self.pattern, self._pattern(order)
        state = self._deploy(order)
        if (state.live, state.canary) == (order.live, order.canary):
            self.held = order
            return State(live=order.live, canary=order.canary, share=order.share)
        self.pattern = before
        if self.held is not None:
            who = {"keys": order.keys, "limits": order.limits, "keys_required": order.keys_required}
            self.held = self.held.model_copy(update=who)
            self._deploy(self.held)
        elif state.live is not None:  # all but its canary
            self.held = order.model_copy(update={"canary": None, "share": 0})
            self._deploy(self.held)
        return state

    def _pattern(self, order: Order) -> str | None:
        """An adapter on the order's base, once there was any; see jobs.serving.replica."""
        same = self.held is not None and self.held.live.base == order.live.base
        kept = self.pattern if same else None
        return kept or order.live.adapter or (order.canary and order.canary.adapter)

    def _deploy(self, order: Order) -> State:
        """The state once the order is carried out, or cannot be."""
        self.number += 1
        order = order.model_copy(update={"number": self.number})
        config = self.config.model_dump(mode="json")
        deployment = {
            "name": DEPLOYMENT,
            "user_config": order.model_dump(),
            "max_surge_percent": 100,
            "max_ongoing_requests": 256,
            "health_check_timeout_s": 60,
            "graceful_shutdown_timeout_s": self.config.request_seconds,
        }
        application = {
            "name": APPLICATION,
            "route_prefix": "/",
            "import_path": "jobs.serving.replica:build",
            "args": {
                "config": config,
                "base": order.live.base,
                # vLLM on a CPU applies the last adapter to tokens without one in the same batch
                "pattern": self.pattern,
            },
            "deployments": [deployment],
        }
        wanted = ServeDeploySchema.model_validate({"applications": [application]})
        client = _get_global_client()
        assert client is not None
        client.deploy_apps(wanted)
        deadline = time.monotonic() + DEPLOY_SECONDS
        while True:
            time.sleep(0.1)
            state = self._state()
            if state.number == self.number:
                return state
            error = self._failure()
            if error is None and time.monotonic() > deadline:
                error = f"it was not ready within {DEPLOY_SECONDS} s"
            if error is not None:
                refused = order.live if state.live != order.live else order.canary or order.live
                return state.model_copy(update={"refused": refused, "error": error})

    def _state(self) -> State:
        """Of a replica that answers, if there is one."""
        try:
            self.handle = self.handle or serve.get_app_handle(APPLICATION)
            return State.model_validate(self.handle.state.remote().result(timeout_s=5))
        except Exception:
            return State()  # none is there yet

    def _failure(self) -> str | None:
        """Why Serve gave up on the deployment."""
        found = serve.status().applications.get(APPLICATION)
        if found is None or found.status != "DEPLOY_FAILED":
            return None
        told = [found.message, *(one.message for one in found.deployments.values())]
        return max(told, key=len)[-2000:]


def run(config: ServingConfig, orders: TextIO, told: TextIO) -> None:
    """Serve until there are no more orders."""
    ray.init(
        address="local",
        num_cpus=LOGICAL_CPUS,
        object_store_memory=OBJECT_STORE_BYTES,
        include_dashboard=False,
        _node_ip_address=LOOPBACK,
        _temp_dir=str(config.scratch),
    )
    try:
        serve.start(http_options={"host": LOOPBACK, "port": config.port})
        deployer = Deployer(config)
        for line in orders:
            state = deployer.carry_out(Order.model_validate_json(line))
            print(state.model_dump_json(), file=told, flush=True)
    finally:
        serve.shutdown()
        ray.shutdown()


def _leave(_signal: int, _frame: object) -> NoReturn:
    sys.exit(0)


def main() -> None:
    signal.signal(signal.SIGTERM, _leave)
    told = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever else is printed is a log
    run(ServingConfig.model_validate_json(sys.stdin.readline()), sys.stdin, told)


if __name__ == "__main__":
    main()
