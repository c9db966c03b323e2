"""From a stored delivery to a flow run, through the Prefect API, however often that fails.

The id of a `hook_runs` row is Prefect's idempotency key: an attempt whose answer was lost is
answered with the same flow run, so trying again never doubles one.
"""

import asyncio
import logging
from typing import Any
from uuid import UUID

import httpx
import psycopg
from prefect.client.orchestration import PrefectClient, get_client
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from psycopg_pool import PoolTimeout

from infra.hooks import deliveries
from infra.hooks.deliveries import AsyncPool

log = logging.getLogger("nightshift")

AT_ONCE = 16
IDLE_SECONDS = 0.1
PAUSE_SECONDS = 1.0
REQUEST_SECONDS = 10.0
"""Under the lease of a claim, so that two attempts do not overlap."""
TRANSIENT = (401, 403, 404, 408, 409, 425, 429)
"""Answers that may change when somebody mends or deploys something."""


async def dispatch(pool: AsyncPool) -> None:
    """Start what is due, for ever."""
    while True:
        try:
            async with get_client(httpx_settings={"timeout": REQUEST_SECONDS}) as client:
                while True:
                    runs = await deliveries.claim(pool, AT_ONCE)
                    done = await asyncio.gather(*(_start(pool, client, run) for run in runs))
                    if not any(done):
                        await asyncio.sleep(PAUSE_SECONDS if runs else IDLE_SECONDS)
        except (psycopg.Error, PoolTimeout, httpx.HTTPError, RuntimeError) as error:
            log.warning("dispatching waits: %s", error)
            await asyncio.sleep(PAUSE_SECONDS)


async def _start(pool: AsyncPool, client: PrefectClient, run: dict[str, Any]) -> bool:
    """Whether the run needs no further attempt."""
    try:
        flow_run = await _create(client, run)
    except PrefectHTTPStatusError as error:
        code = error.response.status_code
        message = f"Prefect answers {code}: {error.response.text[:500]}"
        if code < 500 and code not in TRANSIENT:
            await deliveries.refused(pool, run["id"], message)
            return True
        await deliveries.again(pool, run["id"], run["attempts"], message)
    except ObjectNotFound:
        message = f"no deployment {run['flow']}/{run['flow']}: `nightshift up` makes it"
        await deliveries.again(pool, run["id"], run["attempts"], message)
    except (httpx.HTTPError, OSError, RuntimeError, ValueError) as error:  # no JSON: a proxy's page
        message = f"Prefect does not answer: {type(error).__name__} {error}"
        await deliveries.again(pool, run["id"], run["attempts"], message)
    else:
        await deliveries.started(pool, run["id"], flow_run)
        return True
    return False


async def _create(client: PrefectClient, run: dict[str, Any]) -> UUID:
    deployment = await client.read_deployment_by_name(f"{run['flow']}/{run['flow']}")
    flow_run = await client.create_flow_run_from_deployment(
        deployment.id,
        parameters={"parameters": run["parameters"]},
        idempotency_key=str(run["id"]),
        tags=["webhook", f"hook:{run['hook']}"],
        labels={"nightshift.hook": run["hook"], "nightshift.deliveries": run["deliveries"]},
    )
    return flow_run.id
