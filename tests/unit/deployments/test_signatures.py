"""Signatures and events of the three forms."""

import hashlib
import hmac
import json
from datetime import timedelta

import pytest

from deployments.webhooks.signatures import Malformed, Refused, is_bearer, read, verify
from infra.hooks.secrets import fresh
from tests.helpers.doors import signed

SECRET, OLD = fresh(), fresh()
BODY = '{"data": {"name": "gears"}}'


def github(secret: str, body: str) -> dict[str, str]:
    digest = hmac.new(secret.encode(), body.encode(), hashlib.sha256).hexdigest()
    return {"x-hub-signature-256": f"sha256={digest}", "x-github-event": "push"}


def test_github_signs_as_its_documentation_shows() -> None:
    """docs.github.com, 'Validating webhook deliveries', testing the validation."""
    signature = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"
    secret = "It's a Secret to Everybody"
    verify("github", [secret], {"x-hub-signature-256": signature}, b"Hello, World!")
    with pytest.raises(Refused):
        verify("github", [secret], {"x-hub-signature-256": signature}, b"Hello, World?")


@pytest.mark.parametrize("secret", [SECRET, OLD], ids=["newest", "older"])
def test_any_valid_secret_signs(secret: str) -> None:
    verify("standard", [SECRET, OLD], signed(secret, BODY), BODY.encode())
    verify("github", [SECRET, OLD], github(secret, BODY), BODY.encode())
    verify("cloudevents", [SECRET, OLD], {"authorization": f"Bearer {secret}"}, b"")
    verify("cloudevents", [SECRET, OLD], signed(secret, BODY), BODY.encode())


@pytest.mark.parametrize("form", ["standard", "github", "cloudevents"])
def test_nothing_signed_is_refused(form) -> None:
    with pytest.raises(Refused):
        verify(form, [SECRET], {}, b"{}")


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("webhook-id", "another"),
        ("webhook-timestamp", "nan"),
        ("webhook-timestamp", "1e400"),
        ("webhook-signature", "v1"),
        ("webhook-signature", "v1,a,b"),
        ("webhook-signature", "v1,\xff"),
        ("webhook-signature", "v2,AAAA"),
        ("webhook-signature", ""),
    ],
)
def test_a_changed_header_is_refused(header: str, value: str) -> None:
    headers = signed(SECRET, BODY) | {header: value}
    with pytest.raises(Refused):
        verify("standard", [SECRET], headers, BODY.encode())


@pytest.mark.parametrize("minutes", [-6, 6])
def test_more_than_five_minutes_off_is_refused(minutes: int) -> None:
    headers = signed(SECRET, BODY, age=timedelta(minutes=minutes))
    with pytest.raises(Refused):
        verify("standard", [SECRET], headers, BODY.encode())
    near = signed(SECRET, BODY, age=timedelta(minutes=minutes / 6 * 4.9))
    verify("standard", [SECRET], near, BODY.encode())


def test_a_body_that_is_no_text_or_another_is_refused() -> None:
    for body in (b"\xff\xfe", BODY.encode() + b" ", b""):
        with pytest.raises(Refused):
            verify("standard", [SECRET], signed(SECRET, BODY), body)


def test_a_bearer_is_the_whole_secret() -> None:
    assert is_bearer([SECRET], {"authorization": f"Bearer {SECRET}"})
    for wrong in ("", SECRET, f"Bearer {SECRET[:-1]}", f"Basic {SECRET}", "Bearer \xff"):
        assert not is_bearer([SECRET], {"authorization": wrong})


def test_standard_brings_its_data_and_is_known_by_its_id() -> None:
    event = read("standard", {"webhook-id": "msg_1"}, b'{"type": "t", "data": {"name": "x"}}')
    assert (event.key, event.given, event.context["type"]) == ("msg_1", {"name": "x"}, "t")


def test_github_is_known_by_its_bytes_alone() -> None:
    one = read("github", {"x-github-delivery": "1", "x-github-event": "push"}, b'{"ref": "main"}')
    two = read("github", {"x-github-delivery": "2"}, b'{"ref": "main"}')
    other = read("github", {"x-github-delivery": "1"}, b'{"ref": "dev"}')
    assert one.key == two.key != other.key
    assert one.given == {} and one.context["body"] == {"ref": "main"}
    assert one.context["type"] == "push"


def test_cloud_events_are_the_same_structured_and_binary() -> None:
    fields = {"specversion": "1.0", "id": "7", "source": "/line 1", "type": "sensor.read"}
    structured = read(
        "cloudevents",
        {"content-type": "application/cloudevents+json; charset=utf-8"},
        json.dumps(fields | {"data": {"name": "x"}}).encode(),
    )
    headers = {f"ce-{name}": value for name, value in fields.items()} | {"ce-source": "/line%201"}
    binary = read("cloudevents", headers, b'{"name": "x"}')
    assert structured.key == binary.key and structured.given == binary.given == {"name": "x"}
    assert read("cloudevents", headers, b"").given == {}


@pytest.mark.parametrize(
    ("form", "headers", "body", "field"),
    [
        ("standard", {"webhook-id": "1"}, b"{", "body"),
        ("standard", {"webhook-id": "1"}, b"[" * 100_000, "body"),
        ("standard", {"webhook-id": "1"}, b"[]", "body"),
        ("standard", {"webhook-id": "1"}, b"{}", "data"),
        ("standard", {"webhook-id": "1"}, b'{"data": 1}', "data"),
        ("standard", {"webhook-id": "x" * 513}, b'{"data": {}}', "webhook-id"),
        ("standard", {"webhook-id": "a\x01"}, b'{"data": {}}', "webhook-id"),
        ("github", {}, b"payload=%7B%7D", "body"),
        ("cloudevents", {}, b"{}", "specversion"),
        ("cloudevents", {"webhook-signature": "v1,x", "ce-id": "1"}, b"{}", "content-type"),
        ("cloudevents", {"ce-specversion": "1.0"}, b"{}", "id"),
        (
            "cloudevents",
            {"ce-specversion": "0.3", "ce-id": "1", "ce-source": "s", "ce-type": "t"},
            b"{}",
            "specversion",
        ),
    ],
)
def test_what_cannot_be_read_names_its_field(form, headers, body, field) -> None:
    with pytest.raises(Malformed) as error:
        read(form, headers, body)
    assert error.value.field == field
