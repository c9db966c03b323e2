"""Secure aggregation: what either side sees of a tenant, and what it does not say or believe."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord
from flwr.common.secure_aggregation.secaggplus_constants import Stage
from flwr.common.secure_aggregation.secaggplus_utils import pseudo_rand_gen
from scipy.stats import chisquare, kstest

from infra.errors import InputError
from jobs.federated import secagg, secagg_client
from jobs.federated.secagg_server import Unsummed
from tests.jobs.federated.wire import (
    NAMES,
    Wire,
    become_a_node,
    secret_of,
    vector_of,
    vectors,
)


@pytest.fixture(autouse=True)
def node(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process makes messages as a node of Flower does."""
    become_a_node(monkeypatch)


def test_what_the_server_sees_of_one_tenant_is_uniform() -> None:
    """Of a vector of nothing but ones: its bytes and its values have the uniform distribution."""
    length = 30_000
    ones = {name: partial(np.ones, length, np.uint64) for name in NAMES[:3]}
    wire = Wire(ones)
    wire.sum(length)
    seen = [said["masked"] for _, stage, said in wire.said if stage == Stage.COLLECT_MASKED_VECTORS]
    assert len(seen) == 3
    for masked in seen:
        counted = np.bincount(np.frombuffer(masked, np.uint8), minlength=256)
        assert chisquare(counted).pvalue > 1e-6
        values = np.frombuffer(masked, "<u8") / 2.0**64
        assert kstest(values, "uniform").pvalue > 1e-6
        assert len(np.unique(values)) == length
    two = np.frombuffer(seen[0], "<u8") - np.frombuffer(seen[1], "<u8")
    assert kstest(two / 2.0**64, "uniform").pvalue > 1e-6, "the difference of two, too"


def test_with_all_shares_the_server_still_sees_nothing_of_one_tenant() -> None:
    """It knows the seeds of all when it has the sum; masks that two tenants share are left."""
    length = 30_000
    wire = Wire({name: partial(np.ones, length, np.uint64) for name in NAMES[:3]})
    total, _, _ = wire.sum(length)
    assert (total == 3).all()
    for place, name in enumerate(NAMES[:3]):
        left = vector_of(wire, name) - secagg.keystream(secret_of(wire, place), length)
        assert kstest(left / 2.0**64, "uniform").pvalue > 1e-6


def test_a_vector_that_comes_too_late_stays_hidden() -> None:
    """The server knows the key of its tenant by then, and takes it for one that dropped out."""
    length = 30_000
    wire = Wire({name: partial(np.ones, length, np.uint64) for name in NAMES[:4]})
    wire.cut, wire.late = {"cat": Stage.COLLECT_MASKED_VECTORS}, True
    total, good, _ = wire.sum(length)
    assert (total == 3).all() and "cat" not in good
    left, key = vector_of(wire, "cat"), secret_of(wire, 2)
    for place, name in enumerate(NAMES[:4]):
        (public,) = [s["mask"] for n, stage, s in wire.said if (n, stage) == (name, Stage.SETUP)]
        if name != "cat":
            mask = secagg.pairwise_mask(key, public, length)
            left = left - mask if place < 2 else left + mask
    assert kstest(left / 2.0**64, "uniform").pvalue > 1e-6


def test_masks_need_the_whole_key() -> None:
    """Keys whose 32-bit words have the same exclusive or: one mask in Flower's generator."""
    one, other = bytes(28) + b"\1\0\0\0", b"\1\0\0\0" + bytes(28)
    of_flower = [pseudo_rand_gen(key, 2**32, [(8,)])[0] for key in (one, other)]
    assert np.array_equal(*of_flower)
    assert not np.array_equal(secagg.keystream(one, 8), secagg.keystream(other, 8))


def test_no_secret_is_said_and_none_is_kept() -> None:
    wire = Wire(vectors())
    kept: dict[str, bytes] = {}

    def remember(name: str, stage: str, said: Any) -> Any:
        for key in ("mask_key", "share_key", "seed", "vector"):
            if key in wire.states[name]:
                kept[f"{name} {key}"] = wire.states[name][key]  # type: ignore[assignment]
        return said

    wire.change = remember
    wire.sum(9)
    everything = b"".join(
        each
        for _, _, said in wire.said
        for v in said.values()
        for each in (v if isinstance(v, list) else [v])
        if isinstance(each, bytes)
    )
    assert len(kept) == 4 * len(NAMES) and len(everything) > 10_000
    assert not [key for key, secret in kept.items() if secret in everything]
    assert not any(wire.states.values()), "nothing is left at the nodes"


CHANGES: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "no key": (Stage.SETUP, lambda said: ConfigRecord({"mask": b"x", "share": said["share"]})),
    "fewer shares": (
        Stage.SHARE_KEYS,
        lambda said: ConfigRecord({"places": said["places"][1:], "shares": said["shares"][1:]}),
    ),
    "text": (
        Stage.SHARE_KEYS,
        lambda said: ConfigRecord({"places": said["places"], "shares": ["x"] * 4}),
    ),
    "a short vector": (
        Stage.COLLECT_MASKED_VECTORS,
        lambda said: ConfigRecord({"masked": said["masked"][8:]}),
    ),
    "odd bytes": (Stage.COLLECT_MASKED_VECTORS, lambda _: ConfigRecord({"masked": b"odd"})),
    "nothing": (Stage.COLLECT_MASKED_VECTORS, lambda _: ConfigRecord()),
    "no shares": (Stage.UNMASK, lambda _: ConfigRecord({"places": [], "shares": []})),
}


@pytest.mark.parametrize("lie", CHANGES)
def test_a_tenant_that_answers_otherwise_is_named_and_the_sum_is_right(lie: str) -> None:
    where, change = CHANGES[lie]
    wire = Wire(vectors())
    wire.change = lambda name, stage, said: (
        change(said) if (name, stage) == ("elk", where) else said
    )
    total, good, attempt = wire.sum(9)
    assert "cannot be read" in attempt.left_out["elk"]
    assert (total == sum(n + 1 for n, name in enumerate(NAMES) if name in good)).all()


def test_wrong_shares_are_no_sum() -> None:
    def wrong(name: str, stage: str, said: Any) -> Any:
        if (name, stage) != ("ant", Stage.UNMASK):
            return said
        shares = [share[:4] + bytes(len(share) - 4) for share in said["shares"]]
        return ConfigRecord({"places": said["places"], "shares": shares})

    wire = Wire(vectors(4), cut={"dog": Stage.COLLECT_MASKED_VECTORS}, change=wrong)
    with pytest.raises(Unsummed, match="do not fit"):
        wire.sum(9)


def asked(**told: Any) -> ConfigRecord:
    return ConfigRecord({"attempt": "1"} | told)


def at_unmasking() -> ConfigRecord:
    """The state of a node of four that is asked for shares next."""
    places = [0, 1, 2, 3]
    return ConfigRecord(
        {"stage": Stage.COLLECT_MASKED_VECTORS, "attempt": "1", "place": 0, "places": places}
        | {"held": places, "held_seeds": [b"s"] * 4, "held_keys": [b"k"] * 4}
    )


@pytest.mark.parametrize(
    ("summed", "dropped"),
    [
        ([0, 1, 2, 3], [3]),  # both secrets of one
        ([0, 1], [2, 3]),  # a sum of too few
        ([1, 2, 3], [0]),  # its own
        ([0, 1, 2, 9], []),  # a stranger's
    ],
)
def test_a_node_does_not_say_what_would_show_one_tenant(
    summed: list[int], dropped: list[int]
) -> None:
    state = at_unmasking()
    with pytest.raises(InputError, match="would show one tenant"):
        told = asked(stage=Stage.UNMASK, summed=summed, dropped=dropped)
        secagg_client.answer(state, told, vectors()["ant"], b"")
    assert not state, "nor when it is asked again"


def test_shares_are_said_once() -> None:
    state = at_unmasking()
    told = asked(stage=Stage.UNMASK, summed=[0, 1, 2], dropped=[3])
    said: Any = secagg_client.answer(state, told, vectors()["ant"], b"")
    assert said == {"places": [0, 1, 2, 3], "shares": [b"s", b"s", b"s", b"k"]}
    with pytest.raises(InputError, match="no part in this attempt"):
        secagg_client.answer(state, told, vectors()["ant"], b"")


@pytest.mark.parametrize(
    "told",
    [
        asked(stage=Stage.UNMASK, summed=[0, 1, 2, 3], dropped=[], attempt="2"),
        asked(stage=Stage.COLLECT_MASKED_VECTORS, places=[], sealed=[]),
        asked(stage=Stage.SHARE_KEYS, place=0, places=[0, 1], masks=[], shares=[]),
    ],
)
def test_stages_have_one_order(told: ConfigRecord) -> None:
    with pytest.raises(InputError, match="no part in this attempt"):
        secagg_client.answer(at_unmasking(), told, vectors()["ant"], b"")


def test_a_node_shares_its_secrets_with_three_or_more() -> None:
    state = ConfigRecord({"stage": Stage.SETUP, "attempt": "1", "mask_key": b"", "share_key": b""})
    told = asked(
        stage=Stage.SHARE_KEYS, place=0, places=[0, 1], masks=[b"a", b"b"], shares=[b"c", b"d"]
    )
    with pytest.raises(InputError, match="too few tenants"):
        secagg_client.answer(state, told, vectors()["ant"], b"")
