"""Deliveries as other systems were seen to send them: the cases of ../shared/data/public-cases."""

import asyncio
import base64
import gzip
import hashlib
import hmac
import json
import re
from ast import literal_eval
from typing import Any, cast
from urllib.parse import urlencode
from uuid import uuid4

import pytest
from pydantic import SecretStr

from deployments.webhooks.app import Gateway, take
from infra.hooks import Form, Hook, secrets
from infra.hooks.deliveries import Delivery
from infra.settings import REPOSITORY
from tests.helpers.doors import signed

CASES = REPOSITORY.parent / "shared" / "data" / "public-cases"
NAMES = sorted(path.name for path in CASES.glob("hook-*"))
SECRET = secrets.fresh()
CLOUD = {"specversion": "1.0", "id": "1", "source": "/plant", "type": "t"}
STRUCTURED = [("Content-Type", "application/cloudevents+json")]
BEARER = ("Authorization", f"Bearer {SECRET}")
FORM = ("Content-Type", "application/x-www-form-urlencoded")


def post(
    form: Form, body: bytes, headers: list[tuple[str, str]], mapping: dict[str, str] | None = None
) -> tuple[int, dict[str, Any], list[Delivery]]:
    """What the gateway answers: code and content, and what it stored."""
    hook = Hook(
        name="h", form=form, flows=["build-preferences"], secret=SecretStr(SECRET),
        mapping=mapping or {},
    )  # fmt: skip
    taken: list[Delivery] = []

    async def store(delivery: Delivery) -> object:
        taken.append(delivery)
        return uuid4()

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def ask() -> Any:
        gateway = Gateway(cast(Any, None))
        gateway.hooks = {"h": hook}
        gateway.writer.store = cast(Any, store)
        raw = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers]
        scope = {"scheme": "http", "server": ("x", 1), "client": ("y", 2), "headers": raw}
        return await take(gateway, scope, cast(Any, receive), "h", None)

    answer = asyncio.run(ask())
    return answer.status_code, json.loads(answer.body), taken


def github(body: bytes) -> tuple[str, str]:
    digest = hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()
    return "X-Hub-Signature-256", f"sha256={digest}"


def signing(name: str, form: str, body: bytes) -> list[tuple[str, str]]:
    """The headers that the README of a case leaves to the sender."""
    digest = hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()
    special = {
        "hook-cloudevents-lower-case-bearer": [("Authorization", f"bearer {SECRET}")],
        "hook-github-bogus-algorithm": [("X-Hub-Signature-256", f"bogus={digest}")],
        "hook-github-signature-without-equals": [("X-Hub-Signature-256", digest[:20])],
        "hook-gitlab-token": [("X-Gitlab-Token", SECRET)],
    }
    if name in special:
        return special[name]
    if form == "github":
        return [github(body)]
    if form == "cloudevents":
        return [BEARER]
    headers = signed(SECRET, body.decode())
    if name == "hook-several-signatures":
        old = base64.b64encode(b"x" * 32).decode()
        headers["webhook-signature"] = f"v1a,{old} v1,{old} {headers['webhook-signature']}"
    return list(headers.items())


@pytest.mark.skipif(not NAMES, reason="needs ../shared/data/public-cases")
@pytest.mark.parametrize("name", NAMES)
def test_a_public_case_has_its_right_outcome(name: str) -> None:
    told = dict(
        re.findall(r"^(form|headers beside the signature|RIGHT): (.*)$",
                   (CASES / name / "README").read_text(), re.MULTILINE)
    )  # fmt: skip
    form = re.match(r"\w+", told["form"])[0]  # pyright: ignore[reportOptionalSubscript]
    headers = literal_eval(told["headers beside the signature"].partition("; signing")[0])
    mapped = re.search(r"--map (\w+)=(\{\{.*?\}\})", told["form"])
    body = (CASES / name / "body.bin").read_bytes()
    code, answer, taken = post(
        cast(Form, form), body, headers + signing(name, form, body),
        {mapped[1]: mapped[2]} if mapped else None,
    )  # fmt: skip
    right = told["RIGHT"]
    assert str(code) in right or ("4xx" in right and 400 <= code < 500), (right, code, answer)
    assert bool(taken) == (code == 202)
    if code == 400:
        named = re.search(r"(?:field|naming|names the) (\w+)", right)
        assert named and answer["field"] == named[1], (right, answer)


@pytest.mark.parametrize(
    ("form", "body", "headers", "code", "field"),
    [
        ("cloudevents", CLOUD | {"data": None}, [BEARER, *STRUCTURED], 400, "data"),
        ("cloudevents", CLOUD | {"data": ""}, [BEARER, *STRUCTURED], 400, "data"),
        ("cloudevents", CLOUD | {"data": []}, [BEARER, *STRUCTURED], 400, "data"),
        ("cloudevents", CLOUD | {"data": 0}, [BEARER, *STRUCTURED], 400, "data"),
        ("cloudevents", CLOUD | {"data_base64": "e30="}, [BEARER, *STRUCTURED], 400, "data_base64"),
        ("cloudevents", CLOUD, [BEARER, *STRUCTURED], 202, None),
        ("cloudevents", [CLOUD], [BEARER, ("Content-Type", "application/cloudevents-batch+json")],
         400, "content-type"),
        ("standard", {"data": {"name": "x"}}, [("Content-Encoding", "gzip")], 415,
         "content-encoding"),
        ("standard", {"data": {"name": "x"}}, [FORM], 202, None),
        ("standard", "data=x&name=y", [FORM], 400, "content-type"),
        ("cloudevents", "data=x&name=y", [BEARER, FORM], 400, "content-type"),
        ("standard", [{"data": {"name": "x"}}], [], 400, "body"),
        ("standard", None, [], 400, "body"),
        ("standard", {"data": None}, [], 400, "data"),
        ("standard", '{"data": {"name": "a", "name": "b"}}', [], 400, "body"),
        ("standard", '{"data": {"name": "a"}, "data": {}}', [], 400, "body"),
        ("cloudevents", '{"name": "a", "name": "b"}',
         [BEARER, *((f"ce-{name}", value) for name, value in CLOUD.items())], 400, "data"),
    ],
)  # fmt: skip
def test_no_run_starts_with_defaults_where_values_were_meant(
    form: Form, body: Any, headers: list[tuple[str, str]], code: int, field: str | None
) -> None:
    sent = (body if isinstance(body, str) else json.dumps(body)).encode()
    if ("Content-Encoding", "gzip") in headers:
        sent = gzip.compress(sent)
    if form == "standard":
        headers = headers + list(signed(SECRET, sent.decode("latin-1")).items())
    told, answer, taken = post(form, sent, headers)
    assert (told, answer.get("field")) == (code, field), answer
    assert bool(taken) == (code == 202)


@pytest.mark.parametrize("number", ["NaN", "-Infinity", "1e400"])
def test_what_is_no_number_is_no_name(number: str) -> None:
    body = f'{{"number": {number}}}'.encode()
    code, answer, taken = post("github", body, [github(body)], {"name": "{{ body.number }}"})
    assert (code, answer["field"], taken) == (400, "name", [])


def test_what_github_sends_as_a_form_is_read() -> None:
    body = urlencode({"payload": json.dumps({"repository": {"name": "gears & más"}})}).encode()
    mapping = {"name": "{{ body.repository.name.split(' ')[0] }}"}
    code, answer, taken = post("github", body, [github(body), FORM], mapping)
    assert code == 202, answer
    assert json.loads(taken[0].parameters) == {"name": "gears"} and taken[0].body == body
    for wrong in (b"payload=1", b"other=%7B%7D", b"payload=%7B%7D&payload=%7B%7D"):
        assert post("github", wrong, [github(wrong), FORM], mapping)[:2] in (
            (400, {"error": "must be a JSON object", "field": "body"}),
            (400, {"error": "a form must have one field `payload`", "field": "body"}),
        )
