"""The MQTT bridge: what sensors publish is stored once, and told to Prefect as events.

    nightshift mqtt run        (nightshift up runs it where NIGHTSHIFT_MQTT_BROKER is set)

At least once from the broker: it keeps each message (QoS 1, a session that outlives connections)
until this acknowledges it, which happens after the row is committed. Once in the database: a
message that comes again has the same key. What does not fit is kept as refused and acknowledged,
so that nothing stands behind it.
"""

import json
import logging
import os
import threading
import time
from typing import Any, NoReturn
from urllib.parse import urlsplit

import httpx
import psycopg
from paho.mqtt.client import (
    Client,
    ConnectFlags,
    DisconnectFlags,
    MQTTMessage,
    MQTTv311,
    topic_matches_sub,
)
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.events import Event, Resource
from prefect.exceptions import PrefectHTTPStatusError
from psycopg_pool import PoolTimeout

from deployments.mqtt.mapping import mapped
from deployments.webhooks.dispatch import TRANSIENT
from deployments.webhooks.mapping import storable
from deployments.webhooks.signatures import Malformed, parsed
from infra import database
from infra.database import Pool
from infra.errors import InputError
from infra.records import messages
from infra.settings import settings
from tasks.surrogate import observations, readings
from tasks.surrogate.parameters import ObservationParameters

log = logging.getLogger("nightshift")

EVENT = "mqtt.message"
PORTS = {"mqtt": 1883, "mqtts": 8883}
RECONNECT_SECONDS = 1, 30
PAUSE_SECONDS = 1.0
LOCK_SECONDS = 10
"""How often a bridge makes sure that it still is the only one."""
AT_ONCE = 100
UNANSWERED = (psycopg.OperationalError, psycopg.InterfaceError, PoolTimeout)
"""The database is away: the message waits, unacknowledged."""


def run(pool: Pool) -> NoReturn:
    """Take messages and tell Prefect of events, for ever. Raises AlreadyRunning."""
    with database.exclusive(_lock()):
        threading.Thread(target=_deliver_or_die, args=[pool], daemon=True).start()
        connect(pool).loop_forever(retry_first_connection=True)
    raise AssertionError("the loop of paho has no end")


def _lock() -> str:
    return f"the MQTT bridge {settings().mqtt_client}"


def connect(pool: Pool) -> Client:
    """A client that has yet to connect, which its loop does."""
    given = settings()
    broker = urlsplit(given.mqtt_broker or "")
    client = Client(
        CallbackAPIVersion.VERSION2,
        client_id=given.mqtt_client,
        clean_session=False,
        protocol=MQTTv311,
        manual_ack=True,
    )
    if given.mqtt_username is not None:
        password = given.mqtt_password.get_secret_value() if given.mqtt_password else None
        client.username_pw_set(given.mqtt_username, password)
    if broker.scheme == "mqtts":
        client.tls_set(str(given.mqtt_authority) if given.mqtt_authority else None)
    client.reconnect_delay_set(*RECONNECT_SECONDS)
    client.on_connect = _subscribe
    client.on_connect_fail = lambda *_: log.warning("%s does not answer", given.mqtt_broker)
    client.on_disconnect = _say_why
    client.on_message = lambda client, _, message: _on_message(client, pool, message)
    client.connect_async(broker.hostname or "", broker.port or PORTS[broker.scheme])
    return client


def _subscribe(
    client: Client, _data: Any, flags: ConnectFlags, code: ReasonCode, _: Properties | None
) -> None:
    if code.is_failure:
        log.error(
            "%s refuses: %s. Set NIGHTSHIFT_MQTT_USERNAME and _PASSWORD.",
            *(settings().mqtt_broker, code),
        )
        return
    given = settings()
    topics = given.mqtt_observations + given.mqtt_readings + given.mqtt_events
    client.subscribe([(topic, 1) for topic in topics])
    log.warning(
        "takes %s from %s%s",
        *(", ".join(topics), settings().mqtt_broker),
        " and what waited there" if flags.session_present else "",
    )


def _say_why(
    _client: Client, _data: Any, _flags: DisconnectFlags, code: ReasonCode, _: Properties | None
) -> None:
    log.warning("the connection to %s ended: %s", settings().mqtt_broker, code)


def _on_message(client: Client, pool: Pool, message: MQTTMessage) -> None:
    """Acknowledge a message once it is committed, whatever it is and however long that takes."""
    while True:
        try:
            receive(pool, message.topic, bytes(message.payload))
        except UNANSWERED as error:
            log.warning("the database does not answer, a message waits: %s", error)
            time.sleep(PAUSE_SECONDS)
        else:
            client.ack(message.mid, message.qos)
            return


def receive(pool: Pool, topic: str, payload: bytes) -> None:
    """Store one message as what its topic says, or as refused. Raises UNANSWERED."""
    given = settings()
    try:
        if len(payload) > messages.PAYLOAD_LIMIT:
            raise InputError(f"more than {messages.PAYLOAD_LIMIT} bytes")
        content = parsed(payload)
        for pattern in given.mqtt_observations:
            if topic_matches_sub(pattern, topic):
                [model] = _named(pattern, topic)
                checked = observations.checked(mapped(topic, content))
                observations.store(pool, model, [checked])
                return
        for pattern in given.mqtt_readings:
            if topic_matches_sub(pattern, topic):
                model, building = _named(pattern, topic)
                readings.store_reading(pool, model, building, mapped(topic, content))
                return
        if not any(topic_matches_sub(pattern, topic) for pattern in given.mqtt_events):
            raise InputError("no setting says what this topic is")
        storable(content)
        messages.store(pool, topic, payload, identity=_identity(content))
    except UNANSWERED:
        raise
    except (InputError, Malformed) as error:
        reason = error.message if isinstance(error, InputError) else str(error)
        if messages.store(pool, topic, payload, reason):
            log.warning("refused a message on %r: %s", topic, reason)
    except Exception as error:  # the broker would send it again, to a process that ends by it
        log.exception("a message on %r cannot be taken", topic)
        messages.store(pool, topic, payload, f"{type(error).__name__}: {error}")


def _identity(content: Any) -> str | None:
    given = content.get("id") if isinstance(content, dict) else None
    return given if isinstance(given, str) and given.strip() else None


def _named(pattern: str, topic: str) -> list[str]:
    """What stands for the + of a pattern: names of a surrogate and of a building."""
    levels = zip(pattern.split("/"), topic.split("/"), strict=True)
    names = [level for wanted, level in levels if wanted == "+"]
    for name, what in zip(names, ("a surrogate", "a building"), strict=False):
        try:
            ObservationParameters.model_validate({"name": name})
        except ValueError:
            raise InputError(f"{name!r} is no name of {what}") from None
    return names


def _deliver_or_die(pool: Pool) -> None:
    """A bridge that tells nobody is worse than none: the keeper starts another.

    So is one whose lock another bridge has by now.
    """
    try:
        with get_client(sync_client=True) as client:
            while True:
                try:
                    database.still_exclusive(_lock(), LOCK_SECONDS)
                    busy = deliver(pool, client)
                except (*UNANSWERED, httpx.HTTPError, OSError, ValueError) as error:
                    log.warning("events wait: %s %s", type(error).__name__, error)
                    busy = False
                time.sleep(0 if busy else PAUSE_SECONDS)
    except BaseException:
        log.critical("the bridge ends", exc_info=True)
        os._exit(1)


def deliver(pool: Pool, client: SyncPrefectClient) -> bool:
    """Give Prefect the events that wait; whether all of a full batch went.

    The id of the row is that of the event, so Prefect knows one that it is told of twice.
    """
    rows = messages.waiting(pool, AT_ONCE)
    done = 0
    for row in rows:
        try:
            event = _event(row)
        except (ValueError, RecursionError) as error:
            messages.failed(pool, row["id"], f"no event can be made of it: {error}", for_ever=True)
            continue
        try:
            answer = client.request("POST", "/events", json=[event])
        except PrefectHTTPStatusError as error:
            code = error.response.status_code
            said = f"Prefect answers {code}: {error.response.text[:500]}"
            messages.failed(pool, row["id"], said, code < 500 and code not in TRANSIENT)
        else:
            if answer.content:  # a proxy's page, e.g. for a login: Prefect answers 204
                said = f"what answers is not Prefect: {answer.status_code} {answer.text[:500]}"
                messages.failed(pool, row["id"], said, for_ever=False)
                continue
            messages.mark_delivered(pool, row["id"])
            done += 1
    return done == AT_ONCE


def _event(row: dict[str, Any]) -> dict[str, Any]:
    """What Prefect is told of a row. Raises ValueError, RecursionError."""
    event = Event(
        id=row["id"],
        occurred=row["received_at"],
        event=EVENT,
        resource=Resource({"prefect.resource.id": f"nightshift.mqtt.{row['topic']}"}),
        payload={"topic": row["topic"], "data": json.loads(row["payload"])},
    )
    return event.model_dump(mode="json")
