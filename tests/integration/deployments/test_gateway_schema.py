"""The gateway's OpenAPI document is kept whatever comes in: schemathesis, half of it signed.

A hundred requests here; ten thousand in tests/storm.
"""

import json
from collections.abc import Iterator

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.specs.openapi.checks import response_schema_conformance

from infra import database as db
from infra.hooks import secrets
from infra.settings import settings as ours
from tests.helpers.doors import Door, make_hook, open_door, signed
from tests.helpers.users import reachable_folder


@pytest.fixture(scope="module")
def door(postgres: str) -> Iterator[tuple[Door, str, str]]:
    """A gateway with a hook: (door, name, secret)."""
    with reachable_folder() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("NIGHTSHIFT_HOME", str(folder))
        patch.setenv("NIGHTSHIFT_DATABASE_URL", postgres.format("test_gateway_schema"))
        ours.cache_clear()
        secrets.decrypt.cache_clear()
        hook = make_hook(db.pool(), per_minute=10**6)
        db.close()
        with open_door(folder) as opened:
            yield opened, hook.name, hook.secret.get_secret_value()
    ours.cache_clear()


def test_no_request_makes_it_fail(door: tuple[Door, str, str]) -> None:
    ask(*door, cases=100)


def ask(opened: Door, name: str, secret: str, cases: int) -> None:
    """Make that many requests at least, the half of them signed for the hook `name`."""
    schema = schemathesis.openapi.from_url(f"{opened.url}/openapi.json")
    codes: dict[int, int] = {}
    operations = [one.ok() for one in schema.get_all_operations()]
    operations.sort(key=lambda one: "{" in one.path)  # what has one case only comes first
    attempts = [(one, ()) for one in operations]
    attempts += [(one, (name, secret)) for one in operations if one.method.upper() == "POST"]
    for number, (operation, signer) in enumerate(attempts):
        left = max(0, cases - sum(codes.values()))
        attempt(operation, left // (len(attempts) - number) + 1, codes, *signer)
    assert sum(codes.values()) >= cases, codes
    print(codes)
    assert {202, 400, 401, 404} <= set(codes), codes


def attempt(operation, cases: int, codes: dict[int, int], name: str = "", secret: str = "") -> None:
    """Send generated requests, signed for the hook `name` if there is one; count the answers."""

    @settings(
        max_examples=cases,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy())
    def check(case) -> None:
        if name:
            parameters = {"hook": name, "flow": "build-preferences"}
            case.path_parameters = {one: parameters[one] for one in case.path_parameters}
            body = json.dumps({"data": case.body if isinstance(case.body, dict) else {}})
            answer = case.call(data=body.encode(), headers=signed(secret, body))
        else:
            answer = case.call()
        codes[answer.status_code] = codes.get(answer.status_code, 0) + 1
        assert answer.status_code < 500, answer.text
        case.validate_response(answer, checks=[response_schema_conformance])

    check()
