"""Secure aggregation against a server that lies: what nodes refuse, and what they cannot see."""

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord, RecordDict
from flwr.common.secure_aggregation.secaggplus_constants import Stage
from flwr.supercore.primitives.asymmetric import generate_key_pairs, public_key_to_bytes

from jobs.federated import client
from jobs.federated.model import initial
from jobs.federated.secagg_server import Attempt, Unsummed
from tests.jobs.federated.wire import Wire, become_a_node, vectors

Lie = Callable[[Any], dict[str, Any]]
ANT, BEE, ELK = 0, 1, 4
"""Places of tenants."""


@pytest.fixture(autouse=True)
def node(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process makes messages as a node of Flower does."""
    become_a_node(monkeypatch)


def reasons(wire: Wire) -> set[str]:
    """Why tenants are left out of an attempt."""
    attempt = Attempt(wire.ask, list(wire.vectors), 3, 9)
    with suppress(Unsummed):
        attempt.sum()
    return set(attempt.left_out.values())


def said_at(wire: Wire, stage: str) -> set[str]:
    """Who has answered in that stage."""
    return {name for name, at, _ in wire.said if at == stage}


def to_ant(at: str, lie: Lie) -> Wire:
    """A federation of five whose server lies to the first in one stage."""
    wire = Wire(vectors())
    wire.lie = lambda name, stage, told: (
        ConfigRecord(dict(told) | lie(told)) if (name, stage) == ("ant", at) else told
    )
    return wire


def stranger() -> bytes:
    """A public key whose private one the server has."""
    return public_key_to_bytes(generate_key_pairs()[1])


def replaced(key: str, place: int) -> Lie:
    """The server's own key in that place."""

    def lie(told: Any) -> dict[str, Any]:
        at = told["places"].index(place)
        return {key: [*told[key][:at], stranger(), *told[key][at + 1 :]]}

    return lie


@pytest.mark.parametrize(
    ("lie", "reason"),
    [
        (replaced("masks", ANT), "another key in its own place"),
        (replaced("shares", ANT), "another key in its own place"),
        (lambda _: {"place": BEE}, "another key in its own place"),
        (lambda _: {"place": 9}, "another key in its own place"),
        (lambda _: {"places": [ANT, BEE, 2, 2, 2]}, "keys that are not their own"),
    ],
)
def test_a_node_shares_no_secret_where_the_list_is_wrong(lie: Lie, reason: str) -> None:
    wire = to_ant(Stage.SHARE_KEYS, lie)
    assert any(reason in one for one in reasons(wire))
    assert "ant" not in said_at(wire, Stage.SHARE_KEYS)


@pytest.mark.parametrize("key", ["masks", "shares"])
def test_no_vector_is_sent_where_one_was_told_other_keys(key: str) -> None:
    """Of a third tenant: all that see each other's real keys compare what they were told."""
    wire = to_ant(Stage.SHARE_KEYS, replaced(key, ELK))
    assert any("another model, or other keys" in one for one in reasons(wire))
    assert said_at(wire, Stage.SHARE_KEYS) == set(wire.vectors)
    assert not said_at(wire, Stage.COLLECT_MASKED_VECTORS)


def test_no_vector_is_sent_where_one_was_asked_with_another_model() -> None:
    wire = Wire(vectors(), asked={"ant": b"another"})
    assert any("another model, or other keys" in one for one in reasons(wire))
    assert not said_at(wire, Stage.COLLECT_MASKED_VECTORS)


def asked_with(job: str = "{}", number: int = 1, seed: int = 0) -> bytes:
    """What a node makes of a message of that config and round, with weights drawn by `seed`."""
    config = ConfigRecord({"job": job, "round": number})
    return client.digest(
        RecordDict({"config": config, "arrays": client.record_of(initial(3, 2, seed))})
    )


def test_a_model_a_config_and_a_round_are_told_apart() -> None:
    assert asked_with() == asked_with()
    others = [asked_with(job='{"seed":1}'), asked_with(number=2), asked_with(seed=1)]
    assert len({asked_with(), *others}) == 4


@pytest.mark.parametrize(
    "lie",
    [
        lambda told: {key: told[key] * 4096 for key in ("places", "sealed")},
        lambda told: {key: [*told[key], told[key][0]] for key in ("places", "sealed")},
    ],
)
def test_no_mask_is_added_twice(lie: Lie) -> None:
    """Added 4,096 times the masks of pairs are multiples of it: the rest of each count would be
    hidden by the tenant's own mask only, whose seed the server is told."""
    wire = to_ant(Stage.COLLECT_MASKED_VECTORS, lie)
    assert "a mask would be added twice" in reasons(wire)
    assert "ant" not in said_at(wire, Stage.COLLECT_MASKED_VECTORS)


@pytest.mark.parametrize(
    "lie",
    [
        lambda _: {"summed": [ANT, BEE, 2]},
        lambda _: {"dropped": [ELK]},
        lambda _: {"summed": [BEE, 2, 3, ELK]},
    ],
)
def test_no_share_is_said_of_too_few_or_of_both_kinds(lie: Lie) -> None:
    wire = to_ant(Stage.UNMASK, lie)
    assert "it was asked for what would show one tenant's update" in reasons(wire)
    assert "ant" not in said_at(wire, Stage.UNMASK)


def test_shares_of_an_earlier_attempt_cannot_be_used_again() -> None:
    wire, earlier = Wire(vectors()), dict[str, Any]()

    def again(name: str, stage: str, told: Any) -> Any:
        if (name, stage) != ("ant", Stage.COLLECT_MASKED_VECTORS):
            return told
        earlier.setdefault("sealed", told["sealed"])
        return ConfigRecord(dict(told) | earlier)

    wire.lie = again
    assert not reasons(wire), "the first attempt is as it should be"
    assert "a share that was sent to it is of somebody else" in reasons(wire)


def test_a_second_attempt_has_other_masks() -> None:
    """The server may have two sums of a round, but no difference of two masked vectors."""
    wire = Wire(vectors())
    assert not reasons(wire) | reasons(wire)
    first, second = (
        np.frombuffer(said["masked"], "<u8")
        for name, _, said in wire.said
        if name == "ant" and "masked" in said
    )
    assert len({*(first - second).tolist()}) == 9


def test_what_no_node_can_see() -> None:
    """Tenants that the server has made up: it knows all vectors of the sum but one."""
    nothing = partial(np.zeros, 9, np.uint64)
    total, _, _ = Wire({"ant": vectors()["ant"], "made": nothing, "up": nothing}).sum(9)
    assert (total == vectors()["ant"]()).all()
