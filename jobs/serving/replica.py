"""The Serve deployment: an engine's front and its ingress in one process. vLLM starts the engine's
core as a process below it.

Another adapter, a canary beside it, or other keys come by `reconfigure`, in the same process.
Another base, or the first adapter on it, is another `args` of the application: a new replica is
started beside the old one, which ends once it has answered what it began. From then on the base
alone is served as an adapter that changes nothing, made after the `pattern` of one that does. vLLM
is imported in the replica only, and not where Serve reads this file.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from ray import serve
from ray.serve import Application

from jobs.serving.config import DEPLOYMENT, SIGNING_KEY, Order, ServingConfig

if TYPE_CHECKING:
    from fastapi import FastAPI


@serve.deployment(name=DEPLOYMENT)
@serve.ingress()
class Policy:
    """Answers for the live version of one model, and records what it answers."""

    async def __init__(self, config: dict[str, Any], base: str, pattern: str | None) -> None:
        from jobs.serving.engine import RecordingEngine, engine_arguments, make_neutral
        from jobs.serving.live import Serving
        from jobs.serving.spool import Spool

        self.base = base
        told = ServingConfig.model_validate(config)
        spool = Spool(told.spool, told.spool_bytes)
        neutral = None
        if pattern is not None:
            neutral = make_neutral(Path(pattern), told.scratch / "neutral" / uuid4().hex)
        adapted = neutral is not None
        how = engine_arguments(told.name, told.kv_cache_bytes, base, adapted)
        engine = RecordingEngine.from_engine_args(how)
        assert isinstance(engine, RecordingEngine)
        engine.record_to(spool, told.name, neutral)
        self.serving = Serving(told, engine, spool, os.environ[SIGNING_KEY])

    async def __serve_build_asgi_app__(self) -> "FastAPI":
        from vllm.entrypoints.launchers.api_server.app_state import init_app_state
        from vllm.entrypoints.launchers.cli_args import make_arg_parser
        from vllm.utils.argparse_utils import FlexibleArgumentParser

        from jobs.serving.app import make_app

        arguments = make_arg_parser(FlexibleArgumentParser()).parse_args([])
        assert arguments is not None
        arguments.model, arguments.served_model_name = self.base, [self.serving.config.name]
        app = make_app(self.serving)
        await init_app_state(self.serving.engine, app.state, arguments, ("generate",))
        return app

    async def reconfigure(self, config: dict[str, Any]) -> None:
        """Take an order. What is wrong with it is told by `state`: an error here would end the
        replica. Raises RuntimeError where there is nothing else to serve."""
        await self.serving.take(Order.model_validate(config))
        if self.serving.state.live is None:
            raise RuntimeError(self.serving.state.error)

    def state(self) -> dict[str, Any]:
        return self.serving.told().model_dump()

    async def check_health(self) -> None:
        await self.serving.engine.check_health()

    def __del__(self) -> None:
        if hasattr(self, "serving"):  # the engine may have failed to start
            self.serving.engine.shutdown()
            self.serving.spool.close()


def build(arguments: dict[str, Any]) -> Application:
    """The application, for Serve's `import_path`."""
    return Policy.bind(**arguments)
