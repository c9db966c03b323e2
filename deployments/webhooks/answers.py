"""What the gateway answers, and how its OpenAPI document tells it."""

import math
from typing import Any

from fastapi.responses import JSONResponse

_problem = {
    "type": "object",
    "properties": {"error": {"type": "string"}, "field": {"type": "string"}},
    "required": ["error"],
}


def _described(description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


REJECTED = _described("Rejected", _problem)
ANSWERS: dict[int | str, dict[str, Any]] = {
    200: _described("GitHub's ping", {"type": "object"}),
    202: _described(
        "Stored; a duplicate gets the same answer",
        {
            "type": "object",
            "properties": {
                "delivery": {"type": "string", "format": "uuid"},
                "status": {"type": "string", "format": "uri"},
            },
            "required": ["delivery", "status"],
        },
    ),
    400: _described("A field is wrong, or the body is no JSON", _problem),
    401: _described("Not authorised, or no such hook", _problem),
    408: _described("The body took too long", _problem),
    413: _described("The body is too large", _problem),
    415: _described("The body is encoded, e.g. by gzip", _problem),
    429: _described("Too many deliveries", _problem),
    503: _described("Nothing was stored; try again", _problem),
}
BODY = {
    "requestBody": {"required": True, "content": {"application/json": {"schema": {}}}},
    "parameters": [
        {"name": name, "in": "header", "required": False, "schema": {"type": "string"}}
        for name in (
            *("webhook-id", "webhook-timestamp", "webhook-signature"),
            *("x-hub-signature-256", "x-github-event"),
            *("ce-id", "ce-source", "ce-type", "ce-specversion"),
        )
    ],
}


def problem(
    code: int,
    error: str,
    field: str | None = None,
    retry_after: float | None = None,
    close: bool = False,
) -> JSONResponse:
    """An answer other than 202; `close` ends the connection, whose rest is not read."""
    headers = {"Connection": "close"} if close else {}
    if retry_after is not None:
        headers["Retry-After"] = str(math.ceil(retry_after))
    content = {"error": error} | ({"field": field} if field is not None else {})
    return JSONResponse(content, code, headers)
