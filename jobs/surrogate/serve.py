"""An exported surrogate over HTTP, on this machine only.

    python -m jobs.surrogate.serve --model FOLDER --port 8700

POST /v1/surrogate/evaluate takes a population of designs and answers with mean and standard
deviation of every target, the risk-adjusted fitness of each design and the index of the best one.
`--weather town.epw` is for those that tell nothing of the weather. GET /v1/surrogate says which
version answers, and its inputs with their ranges. Wrong bodies get a 4xx with `error` and `remedy`;
no body beyond MOST_BYTES is read. A `Host` that is not ours is refused (DNS rebinding).
"""

import argparse
import json
import socket
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import uvicorn
from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.middleware.trustedhost import TrustedHostMiddleware

from infra.errors import InputError, NightshiftError, ServiceUnavailable, first_fault
from jobs.surrogate.climate import describe_weather
from jobs.surrogate.config import OUTPUTS, WEATHER
from jobs.surrogate.designs import check_designs
from jobs.surrogate.predict import Surrogate, deviation, energy, violations
from jobs.thermal.weather import read_epw

HOSTS = ("127.0.0.1", "localhost")
MOST_BYTES = 16_000_000
MOST_DESIGNS = 20_000
WEATHER_COLUMNS = [quantity.name for quantity in WEATHER]


class Population(BaseModel):
    """What is asked: designs by config.INPUTS; `weather` gives all of them its columns.

    A field's description is the remedy for what is wrong with it.
    """

    model_config = ConfigDict(extra="forbid")

    designs: list[dict[str, float]] = Field(
        min_length=1,
        max_length=MOST_DESIGNS,
        description=f"Give 1 to {MOST_DESIGNS:,} designs, each an object of numbers by the names "
        "that GET /v1/surrogate tells.",
    )
    weather: dict[str, float] = Field(
        default_factory=dict,
        description=f"Give an object of numbers, by the names {', '.join(WEATHER_COLUMNS)}.",
    )
    risk_aversion: float = Field(
        default=1.0, ge=0, le=100, allow_inf_nan=False, description="Give a number from 0 to 100."
    )


class TooLarge(Exception):
    """A body beyond MOST_BYTES."""


def evaluate(surrogate: Surrogate, asked: Population, weather: dict[str, float]) -> dict[str, Any]:
    """The answer for a population; `weather` is for one that tells nothing of it.

    Raises InputError naming the design (from 1) and the column.
    """
    strange = sorted(set(asked.weather).difference(WEATHER_COLUMNS))
    if strange:
        raise InputError(
            f"weather: {', '.join(strange)} is none of its columns",
            f"They are {', '.join(WEATHER_COLUMNS)}.",
        )
    table = pd.DataFrame(asked.designs).assign(**asked.weather)
    if not set(table) & set(WEATHER_COLUMNS):
        table = table.assign(**weather)
    numbers = check_designs(table, "designs")
    mean, half_width, outside = surrogate.flagged(numbers)
    use, doubt = energy(mean, half_width, surrogate.confidence)
    fitness = -(use + asked.risk_aversion * doubt)
    return {
        "targets": OUTPUTS,
        "mean": mean.tolist(),
        "standard_deviation": deviation(half_width, surrogate.confidence).tolist(),
        "fitness": fitness.tolist(),
        "best": int(fitness.argmax()),
        "outside": outside,
        "broken": violations(numbers, mean),
    }


def make_app(folder: Path, version: str, weather: dict[str, float]) -> FastAPI:
    """The application around the surrogate in `folder`; `weather` as in `evaluate`."""
    surrogate = Surrogate(folder)
    facts = json.loads((folder / "surrogate.json").read_text())
    app = FastAPI(title="Nightshift surrogate", docs_url=None, redoc_url=None)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=HOSTS, www_redirect=False)
    about = {key: facts[key] for key in ("inputs", "ranges")}

    @app.get("/v1/surrogate")
    def describe() -> dict[str, Any]:
        return {"version": version, **about, "weather": weather}

    @app.post("/v1/surrogate/evaluate")
    async def answer(request: Request) -> JSONResponse:
        try:
            asked = Population.model_validate_json(await _body(request))
            return JSONResponse(
                {"version": version} | await run_in_threadpool(evaluate, surrogate, asked, weather)
            )
        except TooLarge:
            return _refusal(
                413, f"the body has more than {MOST_BYTES} bytes", "Send fewer designs."
            )
        except ValidationError as error:
            where, message = first_fault(error)
            fault = f"{'.'.join(where)}: {message}".lstrip(": ")
            return _refusal(422, fault, _remedy(where))
        except InputError as error:
            return _refusal(422, error.message, error.remedy)

    return app


async def _body(request: Request) -> bytes:
    """The body, read no further than MOST_BYTES, whatever its header says."""
    read = bytearray()
    async for chunk in request.stream():
        read += chunk
        if len(read) > MOST_BYTES:
            raise TooLarge
    return bytes(read)


def _remedy(where: tuple[str, ...]) -> str:
    field = Population.model_fields.get(where[0]) if where else None
    known = ", ".join(Population.model_fields)
    return str(field.description) if field else f"Send a JSON object; it may have {known}."


def _refusal(status: int, error: str, remedy: str) -> JSONResponse:
    return JSONResponse({"error": error, "remedy": remedy}, status)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--version", default="", help="What the answers call it.")
    parser.add_argument("--port", type=int, default=8700)
    parser.add_argument("--weather", type=Path, help="EPW file for who tells nothing of it.")
    arguments = parser.parse_args()
    try:
        with socket.create_server((HOSTS[0], arguments.port)):
            pass
    except OSError as error:
        sys.stderr.write(f"✗ port {arguments.port}: {error.strerror}\n  → Give another --port.\n")
        sys.exit(ServiceUnavailable.exit_code)
    try:
        given = arguments.weather
        weather = describe_weather(read_epw(given)) if given else {}
        app = make_app(arguments.model, arguments.version, weather)
    except NightshiftError as error:
        sys.stderr.write(f"✗ {error}\n")
        sys.exit(error.exit_code)
    uvicorn.run(app, host=HOSTS[0], port=arguments.port, log_level="info")


if __name__ == "__main__":
    main()
