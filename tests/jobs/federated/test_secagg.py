"""Secure aggregation in one process: the sum is that of exactly who is in it, or there is none."""

from functools import partial

import numpy as np
import pytest
from flwr.common.secure_aggregation.secaggplus_constants import Stage
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.errors import InputError
from jobs.federated import secagg, secagg_server
from jobs.federated.config import QUANTISATION_LEVELS
from jobs.federated.model import Weights, initial
from jobs.federated.secagg_server import Unsummed
from tests.jobs.federated.wire import NAMES, Wire, become_a_node, config, vectors

SENT = initial(3, 2, 0)
COUNTS = {"num-examples": 20.0, "right": 7.0, "held-out": 10.0}
STAGES = Stage.all()


@pytest.fixture(autouse=True)
def node(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process makes messages as a node of Flower does."""
    become_a_node(monkeypatch)


@st.composite
def federations(draw: st.DrawFn) -> tuple[Weights, list[Weights], list[int], float]:
    """Weights, an update of each tenant within the norm bound, their rows, and that bound."""
    shapes = draw(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 3)), min_size=1, max_size=3))
    bound = draw(st.sampled_from([1e-3, 1.0, 10.0, 1e4]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    sent = {f"w{n}": rng.normal(size=shape) for n, shape in enumerate(shapes)}
    size = sum(value.size for value in sent.values())
    rows = draw(st.lists(st.integers(1, secagg.MOST_ROWS), min_size=3, max_size=6))
    fractions = draw(st.lists(st.floats(0, 0.999), min_size=len(rows), max_size=len(rows)))
    updates = []
    for fraction in fractions:
        way = rng.normal(size=size)
        flat = iter(way / np.linalg.norm(way) * fraction * bound)
        updates.append(
            {
                n: v + np.array([next(flat) for _ in range(v.size)]).reshape(v.shape)
                for n, v in sent.items()
            }
        )
    return sent, updates, rows, bound


@settings(max_examples=25, deadline=None)
@given(federations(), st.booleans())
def test_the_mean_is_the_plain_one_within_a_quantisation_step(
    drawn: tuple[Weights, list[Weights], list[int], float], weighted: bool
) -> None:
    sent, updates, rows, bound = drawn
    told = config(weighted, norm=bound)
    packed = {
        str(n): partial(secagg.pack, sent, update, COUNTS | {"num-examples": float(count)}, told)
        for n, (update, count) in enumerate(zip(updates, rows, strict=True))
    }
    with pytest.MonkeyPatch.context() as patch:
        become_a_node(patch)
        total, good, _ = Wire(packed).sum(secagg.size(sent))
    assert len(good) == len(rows)
    found = secagg.unpack(total, len(rows), sent, told)
    weights = rows if weighted else None
    for name in sent:
        plain = np.average([update[name] - sent[name] for update in updates], 0, weights)
        assert np.abs(found.update[name] - plain).max() <= told.quantisation_step + 1e-12
    assert (found.right, found.held_out) == (7 * len(rows), 10 * len(rows))


@pytest.mark.parametrize("stage", STAGES)
def test_a_tenant_that_drops_out_is_not_in_the_sum_or_wholly(stage: str) -> None:
    """Who falls silent after its vector has come is in; the sum is that of exactly who is."""
    wire = Wire(vectors(), cut={"cat": stage})
    total, good, attempt = wire.sum(9)
    in_it = set(NAMES) if stage == Stage.UNMASK else set(NAMES) - {"cat"}
    assert good == in_it and attempt.left_out == {"cat": "no answer in time"}
    assert (total == sum(n + 1 for n, name in enumerate(NAMES) if name in in_it)).all()


def test_one_may_drop_out_at_each_of_two_stages() -> None:
    """Of those that shared keys with who is gone, the masks are taken out, too."""
    wire = Wire(vectors(), cut={"ant": Stage.SHARE_KEYS, "dog": Stage.COLLECT_MASKED_VECTORS})
    with pytest.raises(Unsummed, match="left at unmask"):
        wire.sum(9)
    wire.cut = {"ant": Stage.SETUP, "dog": Stage.COLLECT_MASKED_VECTORS}
    total, good, _ = wire.sum(9)
    assert good == {"bee", "cat", "elk"} and (total == 2 + 3 + 5).all()


def test_too_many_that_drop_out_leave_no_sum() -> None:
    wire = Wire(vectors(4), cut={"ant": Stage.UNMASK, "bee": Stage.UNMASK})
    with pytest.raises(Unsummed, match="2 tenants were left at unmask, 3 are needed"):
        wire.sum(9)
    wire.cut = {}
    total, _, _ = wire.sum(9)
    assert (total == 1 + 2 + 3 + 4).all(), "the next attempt begins anew"


@pytest.mark.parametrize(
    ("update", "counts", "reason"),
    [
        (1000.0, {}, "a norm of .*, above the bound of 10"),
        (float("nan"), {}, "a norm of nan, above"),
        (0.01, {"num-examples": 2.0**24 + 1}, "weighs 16777217 rows"),
    ],
)
def test_an_update_that_would_overflow_is_refused_and_its_tenant_named(
    update: float, counts: dict[str, float], reason: str
) -> None:
    told = config()
    moved = {name: value + update for name, value in SENT.items()}
    fine = {name: value + 0.01 for name, value in SENT.items()}
    with pytest.raises(InputError, match=reason):
        secagg.pack(SENT, moved, COUNTS | counts, told)
    wire = Wire({name: partial(secagg.pack, SENT, fine, COUNTS, told) for name in NAMES})
    wire.vectors["bee"] = partial(secagg.pack, SENT, moved, COUNTS | counts, told)
    total, good, attempt = wire.sum(secagg.size(SENT))
    assert list(attempt.left_out) == ["bee"] and good == set(NAMES) - {"bee"}
    found = secagg.unpack(total, 4, SENT, told)
    assert found.update["w0"] == pytest.approx(0.01, abs=told.quantisation_step)


@pytest.mark.parametrize("lie", ["level", "weight", "counts", "noise"])
def test_a_sum_that_cannot_be_is_never_taken(lie: str) -> None:
    """A tenant that does not check itself is not named, but nothing of the sum is used."""
    told = config()
    fine = {name: value + 0.01 for name, value in SENT.items()}

    def lying() -> np.ndarray:
        vector = secagg.pack(SENT, fine, COUNTS, told)
        match lie:
            case "level":
                vector[0] = np.uint64(200 * QUANTISATION_LEVELS)
            case "weight":
                vector[-3] = 2**64 - 90
            case "counts":
                vector[-2] = np.uint64(1000)
            case "noise":
                vector = np.random.default_rng(0).integers(0, 2**64, len(vector), np.uint64)
        return vector

    wire = Wire({name: partial(secagg.pack, SENT, fine, COUNTS, told) for name in NAMES})
    wire.vectors["bee"] = lying
    total, good, _ = wire.sum(secagg.size(SENT))
    with pytest.raises(InputError, match="one has not kept to it"):
        secagg.unpack(total, len(good), SENT, told)


def test_with_noise_an_update_is_clipped_below_what_the_accountant_is_told() -> None:
    told = config(noise=2.0)
    for far in (0.0, 1e-3, *[1.0] * 20):  # values are rounded up or down by chance
        moved = {name: value + far for name, value in SENT.items()}
        vector = secagg.pack(SENT, moved, COUNTS | {"num-examples": 1e9}, told)
        assert vector[-3] == 1, "all weigh alike"
        found = secagg.unpack(3 * vector, 3, SENT, told).update
        norm = np.sqrt(sum((value**2).sum() for value in found.values()))
        assert norm <= told.privacy.clipping_norm
        assert norm == pytest.approx(min(far * np.sqrt(11), 0.05), abs=1e-8)


def test_many_tenants_have_some_of_them_as_neighbours() -> None:
    names = [str(number) for number in range(200)]
    circle = secagg_server.circles(names)
    assert {len(set(own)) for own in circle.values()} == {secagg_server.MOST_NEIGHBOURS + 1}
    assert all(name in circle[other] for name, own in circle.items() for other in own)
    few = secagg_server.circles(names[:61])
    assert all(set(own) == set(names[:61]) for own in few.values())


def test_a_sum_of_a_sparse_graph_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secagg_server, "MOST_NEIGHBOURS", 4)
    names = [str(number) for number in range(9)]
    wire = Wire({name: partial(np.full, 5, int(name), np.uint64) for name in names})
    wire.cut = {"3": Stage.COLLECT_MASKED_VECTORS}
    total, good, _ = wire.sum(5)
    assert good == set(names) - {"3"} and (total == sum(range(9)) - 3).all()
