"""Who sent a delivery and what it says: Standard Webhooks, GitHub, CloudEvents.

Every comparison takes the same time whatever is wrong, and every refusal looks the same outside:
`Refused` is for the log, the sender learns nothing from it.
"""

import hashlib
import hmac
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qsl, unquote

from standardwebhooks import Webhook, WebhookVerificationError

from infra.hooks import Form

LONGEST_KEY = 512
STRUCTURED = "application/cloudevents+json"
BATCH = "application/cloudevents-batch+json"
FORM = "application/x-www-form-urlencoded"


class Refused(Exception):
    """The sender did not prove to know the secret, or is too late. For the log only."""


class Malformed(Exception):
    """A known sender's delivery that cannot be read; `field` names what is wrong."""

    def __init__(self, message: str, field: str) -> None:
        super().__init__(message)
        self.field = field


@dataclass(frozen=True)
class Event:
    """What was delivered.

    `key` is the same for the same event however often it comes, `given` are the parameters that
    it brings, `context` is what the templates of a mapping see: `body`, `data`, `type`, `id`.
    """

    key: str
    given: dict[str, Any]
    context: dict[str, Any]


def verify(form: Form, secrets: list[str], headers: Mapping[str, str], body: bytes) -> None:
    """Raises Refused unless one of the `secrets` signed the `body`."""
    if form == "github":
        _verify_github(secrets, headers, body)
    elif form == "cloudevents" and "webhook-signature" not in headers:
        _verify_bearer(secrets, headers)
    else:
        _verify_standard(secrets, headers, body)


def _verify_standard(secrets: list[str], headers: Mapping[str, str], body: bytes) -> None:
    reason: Exception | None = None
    for secret in secrets:
        try:
            _webhook(secret).verify(body, dict(headers), json_parse=False)
            return
        except (WebhookVerificationError, ValueError) as error:
            reason = error
    raise Refused(str(reason))


@lru_cache(maxsize=4096)
def _webhook(secret: str) -> Webhook:
    return Webhook(secret)


def _verify_github(secrets: list[str], headers: Mapping[str, str], body: bytes) -> None:
    given = headers.get("x-hub-signature-256", "").encode()
    good = [
        hmac.compare_digest(
            b"sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest().encode(), given
        )
        for secret in secrets
    ]
    if not any(good):
        raise Refused("No matching signature found")


def _verify_bearer(secrets: list[str], headers: Mapping[str, str]) -> None:
    if not is_bearer(secrets, headers):
        raise Refused("No matching bearer token")


def is_bearer(secrets: list[str], headers: Mapping[str, str]) -> bool:
    """Whether `Authorization: Bearer` holds one of the secrets; the case of its name is the
    sender's (RFC 9110, 11.1)."""
    scheme, _, given = headers.get("authorization", "").partition(" ")
    good = [hmac.compare_digest(secret.encode(), given.strip().encode()) for secret in secrets]
    return any(good) and scheme.lower() == "bearer"


def read(form: Form, headers: Mapping[str, str], body: bytes) -> Event:
    """The event in a verified delivery. Raises Malformed."""
    if form == "github":
        # GitHub signs neither a time nor the id, so the signed bytes themselves are the identity.
        content = _payload(body) if _kind(headers) == FORM else body
        content = _object(parsed(content), "body")
        key = "sha256:" + hashlib.sha256(body).hexdigest()
        return Event(
            key,
            {},
            {
                "body": content,
                "data": content,
                "type": headers.get("x-github-event", ""),
                "id": headers.get("x-github-delivery", ""),
            },
        )
    try:
        return _cloud_event(headers, body) if form == "cloudevents" else _standard(headers, body)
    except Malformed:
        if _kind(headers) == FORM:  # clients say so of JSON, too
            raise Malformed(f"no {FORM}: send JSON", "content-type") from None
        raise


def _kind(headers: Mapping[str, str]) -> str:
    """The media type of a body."""
    return headers.get("content-type", "").partition(";")[0].strip().lower()


def _payload(body: bytes) -> bytes:
    """The JSON in a form of GitHub's. Raises Malformed."""
    try:
        [(name, payload)] = parse_qsl(body.decode(), strict_parsing=True)
    except ValueError:
        name = payload = ""
    if name != "payload":
        raise Malformed("a form must have one field `payload`", "body")
    return payload.encode()


def _standard(headers: Mapping[str, str], body: bytes) -> Event:
    """`{"type": ..., "timestamp": ..., "data": {...}}`, as the specification has it."""
    content = _object(parsed(body), "body")
    if "data" not in content:
        raise Malformed("the body has no `data`, which holds the parameters", "data")
    data = _object(content["data"], "data")
    key = _key(headers["webhook-id"], "webhook-id")
    return Event(
        key, data, {"body": content, "data": data, "type": content.get("type", ""), "id": key}
    )


def _cloud_event(headers: Mapping[str, str], body: bytes) -> Event:
    """CloudEvents 1.0 over HTTP, structured or binary; source and id make an event.

    Signed ones are structured: in binary mode they are headers, which nobody signs.
    """
    kind = _kind(headers)
    if kind == BATCH:
        raise Malformed(f"no batches: send each event by itself as {STRUCTURED}", "content-type")
    if kind == STRUCTURED:
        event = _object(parsed(body), "body")
    elif "webhook-signature" in headers:
        raise Malformed(f"a signed event must be structured: {STRUCTURED}", "content-type")
    else:
        event: dict[str, Any] = {
            name.removeprefix("ce-"): unquote(value)
            for name, value in headers.items()
            if name.startswith("ce-")
        }
        if body:
            event["data"] = parsed(body, "data")
    for name in ("specversion", "id", "source", "type"):
        if not isinstance(event.get(name), str) or not event[name]:
            raise Malformed(f"the event has no `{name}`", name)
    if event["specversion"] != "1.0":
        raise Malformed("only CloudEvents 1.0 are read", "specversion")
    if "data_base64" in event:
        raise Malformed("must be JSON in `data`", "data_base64")
    data = _object(event.get("data", {}), "data")
    key = _key(json.dumps([event["source"], event["id"]]), "id")
    return Event(key, data, {"body": event, "data": data, "type": event["type"], "id": event["id"]})


def _key(text: str, field: str) -> str:
    if len(text) > LONGEST_KEY or not text.isprintable():
        raise Malformed(f"must be printable and at most {LONGEST_KEY} characters", field)
    return text


def parsed(body: bytes, field: str = "body") -> Any:
    """The JSON of a body. Raises Malformed with the field, also for a name that is there twice:
    readers take the first or the last."""
    try:
        return json.loads(body, object_pairs_hook=_named_once)
    except (ValueError, RecursionError) as error:
        raise Malformed(f"no JSON: {error}", field) from None


def _named_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        [(name, _)] = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"{name!r} is there twice")
    return found


def _object(value: Any, field: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise Malformed("must be a JSON object", field)
    return value
