"""The gateway's OpenAPI document is kept whatever comes in: schemathesis, half of it signed.

NIGHTSHIFT_SCHEMA_CASES is how many cases (default 100).
"""

import json
import os
from collections.abc import Iterator

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings

from infra import database as db
from infra.hooks import secrets
from infra.settings import settings as ours
from tests.doors import Door, make_hook, open_door, signed
from tests.users import reachable_folder

CASES = int(os.environ.get("NIGHTSHIFT_SCHEMA_CASES", "100"))


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


@pytest.mark.timeout(1800)
def test_no_request_makes_it_fail(door: tuple[Door, str, str]) -> None:
    opened, name, secret = door
    schema = schemathesis.openapi.from_url(f"{opened.url}/openapi.json")
    codes: dict[int, int] = {}
    operations = [one.ok() for one in schema.get_all_operations()]
    for operation in operations:
        for signing in (False, True):

            @settings(
                max_examples=CASES // (2 * len(operations)) + 1,
                deadline=None,
                database=None,
                suppress_health_check=list(HealthCheck),
            )
            @given(case=operation.as_strategy())
            def check(case, signing=signing) -> None:
                if signing and case.method.upper() == "POST":
                    case.path_parameters = dict(case.path_parameters) | {"hook": name}
                    if "flow" in case.path_parameters:
                        case.path_parameters["flow"] = "build-preferences"
                    body = json.dumps({"data": None if unset(case.body) else case.body})
                    case.body = json.loads(body)
                    answer = case.call(data=body.encode(), headers=signed(secret, body))
                else:
                    answer = case.call()
                codes[answer.status_code] = codes.get(answer.status_code, 0) + 1
                assert answer.status_code < 500, answer.text
                case.validate_response(
                    answer,
                    excluded_checks=[
                        schemathesis.checks.CHECKS.get_one(check)
                        for check in ("positive_data_acceptance", "negative_data_rejection")
                        if check in schemathesis.checks.CHECKS.get_all_names()
                    ],
                )

            check()
    print(codes)
    assert {202, 400, 401, 404} <= set(codes), codes


def unset(body: object) -> bool:
    return type(body).__name__ == "NotSet"
