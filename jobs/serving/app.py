"""The HTTP side of serving: OpenAI's endpoints as vLLM has them, feedback, health and metrics.

    POST /v1/chat/completions, POST /v1/completions, GET /v1/models      as OpenAI's
    POST /v1/feedback     {"id": "chatcmpl-...", "choice": 0, "thumb": "up"}
    GET  /healthz, GET /readyz, GET /metrics

Errors have OpenAI's form, {"error": {"message", "type", "param", "code"}}.
"""

import json
from collections.abc import AsyncGenerator
from datetime import UTC, datetime
from typing import Any, Literal

from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel, ConfigDict, Field, model_validator
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.openai.completion.protocol import CompletionRequest
from vllm.entrypoints.serve.engine.protocol import ErrorResponse
from vllm.entrypoints.serve.exception_handling.handlers.http import http_exception_handler
from vllm.entrypoints.serve.exception_handling.register import init_exception_handler
from vllm.entrypoints.serve.utils.api_utils import validate_json_request
from vllm.exceptions import VLLMValidationError

from jobs.serving import ids
from jobs.serving.door import HOSTS, Door
from jobs.serving.engine import ASKED
from jobs.serving.live import Serving

JSON = [Depends(validate_json_request)]
"""A web page cannot send this type to another origin without asking first."""
MOST_CHOICES = 16
REMEMBERED = 100_000
"""Pieces of feedback that are known to have come before."""


class Feedback(BaseModel):
    """What a user thinks of choice number `choice` of an answer: exactly one of the last three."""

    model_config = ConfigDict(extra="forbid")

    id: str
    choice: int = Field(default=0, ge=0)
    thumb: Literal["up", "down"] | None = None
    stars: int | None = Field(default=None, ge=1, le=5)
    correction: str | None = Field(default=None, min_length=1)

    @model_validator(mode="after")
    def _one(self) -> "Feedback":
        if sum(given is not None for given in (self.thumb, self.stars, self.correction)) != 1:
            raise ValueError("give exactly one of thumb, stars and correction")
        return self

    def columns(self) -> dict[str, Any]:
        """Kind, value and correction as the table has them."""
        if self.thumb is not None:
            return {"feedback": "thumb", "value": 1 if self.thumb == "up" else -1}
        if self.stars is not None:
            return {"feedback": "rating", "value": self.stars}
        return {"feedback": "correction", "correction": self.correction}


def make_app(serving: Serving) -> FastAPI:
    """The application; `init_app_state` of vLLM completes its state."""
    app = FastAPI(title="Nightshift policy", docs_url=None, redoc_url=None)
    app.add_middleware(Door, serving=serving)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(HOSTS), www_redirect=False)
    init_exception_handler(app)
    app.exception_handler(StarletteHTTPException)(http_exception_handler)  # of unknown paths
    given: dict[str, None] = {}

    @app.post("/v1/chat/completions", dependencies=JSON)
    async def chat(request: ChatCompletionRequest, raw_request: Request) -> Response:
        _require(serving, request)
        asked = ASKED.get()
        assert asked is not None
        asked.prompt = json.dumps(request.messages, ensure_ascii=False, default=list)
        handler = raw_request.app.state.openai_serving_chat
        return _response(await handler.create_chat_completion(request, raw_request))

    @app.post("/v1/completions", dependencies=JSON)
    async def completion(request: CompletionRequest, raw_request: Request) -> Response:
        _require(serving, request)
        handler = raw_request.app.state.openai_serving_completion
        return _response(await handler.create_completion(request, raw_request))

    @app.get("/v1/models")
    async def models(raw_request: Request) -> JSONResponse:
        shown = await raw_request.app.state.openai_serving_models.show_available_models()
        live = serving.state.live
        cards = [card.model_dump() | {"root": serving.config.name} for card in shown.data]
        for card in cards:
            card["nightshift"] = live and {"version": live.version, "sha256": live.sha256}
        return JSONResponse({"object": "list", "data": cards})

    @app.post("/v1/feedback", status_code=202, dependencies=JSON)
    async def feedback(left: Feedback) -> dict[str, str]:
        asked = ASKED.get()
        assert asked is not None
        if not ids.is_ours(left.id, asked.tenant, serving.signing_key):
            raise HTTPException(404, f"there is no answer {left.id} of yours")
        columns = left.columns()
        row = {
            "kind": "feedback",
            "key": f"{left.id}/{left.choice}/{columns['feedback']}",
            "interaction": f"{left.id}/{left.choice}",
            "author": asked.tenant,
            "created_at": datetime.now(UTC).isoformat(),
        }
        if row["key"] in given:
            raise HTTPException(409, f"this answer has got its {columns['feedback']} before")
        _require_room(serving)
        await serving.spool.write(row | {"value": None, "correction": None} | columns)
        given[row["key"]] = None
        if len(given) > REMEMBERED:
            del given[next(iter(given))]
        return {"id": left.id, "status": "accepted"}

    @app.get("/healthz")
    async def healthy() -> Response:
        await serving.engine.check_health()
        return PlainTextResponse("ok\n")

    @app.get("/readyz")
    async def ready() -> JSONResponse:
        await serving.engine.check_health()
        has_room = serving.spool.has_room() and serving.spool.error is None
        told = {"ready": has_room, "model": serving.config.name}
        places = {"base", "adapter"}
        hidden = {"live": places, "canary": places, "refused": places}
        state = serving.told().model_dump(exclude=hidden)
        return JSONResponse(told | state, 200 if has_room else 503)

    @app.get("/metrics")
    def metrics() -> Response:
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    return app


def _require(serving: Serving, request: ChatCompletionRequest | CompletionRequest) -> None:
    """Refuse what cannot be recorded, or takes more than its share."""
    if request.use_beam_search:
        raise VLLMValidationError("beam search is not served", parameter="use_beam_search")
    if (request.n or 1) > MOST_CHOICES:
        raise VLLMValidationError(f"n is at most {MOST_CHOICES}", parameter="n", value=request.n)
    _require_room(serving)


def _require_room(serving: Serving) -> None:
    if not serving.spool.has_room():
        raise HTTPException(
            503, "interactions cannot be stored now, and nothing is answered unrecorded"
        )


def _response(made: ErrorResponse | BaseModel | AsyncGenerator[str, None]) -> Response:
    """What vLLM's handlers make, as their own routes would send it. Those go on generating when
    they are cancelled, which is how Serve tells that a client has gone."""
    if isinstance(made, ErrorResponse):
        return JSONResponse(made.model_dump(), made.error.code)
    if isinstance(made, BaseModel):
        return JSONResponse(made.model_dump())
    return StreamingResponse(made, media_type="text/event-stream")
