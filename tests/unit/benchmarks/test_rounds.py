"""Rounds take every side once, in random order, after a warm-up."""

from random import Random

import pytest

from jobs.benchmarks.rounds import MOST_WARM_UP, interleaved, is_warm


def side(values):
    told = iter(values)
    return lambda: (value := next(told), [value])


def never(_values):
    return False


def test_every_round_has_each_side_once_and_the_order_varies():
    takes = {name: side([1.0] * 100) for name in ("now", "then", "beside")}
    taken = [one for one in interleaved(takes, [20], never, Random(0)) if not one.warm_up]
    assert len(taken) == 60
    orders = []
    for number in range(20):
        own = [one for one in taken if one.round == number]
        assert {one.side for one in own} == set(takes)
        assert [one.position for one in own] == [0, 1, 2]
        orders.append(tuple(one.side for one in own))
    assert len(set(orders)) == 6
    first = [order[0] for order in orders]
    assert all(first.count(name) >= 3 for name in takes)
    again = {name: side([1.0] * 100) for name in takes}
    same = [one for one in interleaved(again, [20], never, Random(0)) if not one.warm_up]
    assert [one.side for one in same] == [one.side for one in taken]


def test_a_side_that_gets_faster_is_warmed_up_for_longer():
    def warm_ups(values):
        takes = {"now": side([1.0] * 50), "then": side(values)}
        taken = list(interleaved(takes, [2], never, Random(0)))
        return sum(one.warm_up for one in taken) / 2

    assert warm_ups([1.0] * 50) == 5
    assert warm_ups([10, 5, 3, 2, 1.5, 1.2, *[1.0] * 50]) > 5
    assert warm_ups([2.0**n for n in range(50)]) == MOST_WARM_UP


@pytest.mark.parametrize(("sure_at", "rounds"), [(5, 5), (7, 10), (99, 20)])
def test_rounds_end_at_the_first_look_that_is_sure(sure_at, rounds):
    looked = []

    def is_sure(values):
        looked.append(len(values["now"]))
        assert values["now"] == list(range(5, 5 + len(values["now"]))), "warm-up does not count"
        return looked[-1] >= sure_at

    warm_up = [1.0] * 5
    takes = {"now": side([*warm_up, *range(5, 50)]), "then": side([1.0] * 50)}
    taken = list(interleaved(takes, [5, 10, 20], is_sure, Random(0)))
    assert sum(not one.warm_up for one in taken) == 2 * rounds
    assert looked == [count for count in (5, 10) if count <= rounds]


@pytest.mark.parametrize(
    ("values", "warm"),
    [
        ([1, 1, 1, 1], False),
        ([1, 1, 1, 1, 1], True),
        ([9, 1, 1, 1, 1], True),
        ([3, 3, 2, 1, 1], False),
    ],
)
def test_warm(values, warm):
    assert is_warm(values) is warm
