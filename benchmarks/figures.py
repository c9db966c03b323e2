"""What is measured: a figure is a function, its unit and its target.

    @figure("control-plane", "pairs/s", beside="pgbench")
    def ledger_pairs():
        with server() as url:
            yield lambda: pairs_a_second(url)

The generator makes what a sample needs and yields a function that takes one: a number, or a list of
single measurements, in the unit. `beside` names what it is measured beside in the same rounds; its
target is the line of that name in targets.yaml. Each figure has a process of its own
(`benchmarks.sampler`), in the tree that it measures.
"""

import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

SUITES = {
    "control-plane": ("benchmarks.ledger", "benchmarks.commands", "benchmarks.objects"),
    "training": ("benchmarks.dpo_speed",),
    "surrogate": ("benchmarks.surrogate",),
    "search": ("benchmarks.search",),
    "serving": ("benchmarks.serving",),
    "federated": ("benchmarks.federated",),
}
"""Which modules hold the figures of each suite. None is imported before it is measured."""

Take = Callable[[], float | list[float]]


@dataclass(frozen=True)
class Figure:
    """One figure. `better`: whether more of it is, or less; `gpu`: whether it is one of a GPU,
    which is not measured where there is none; `size`: of how many of what `counted` says, such as
    tenants, where figures of one suite differ in that: they have a plot of its growth; `rounds`: it
    is measured in no more, since each takes long."""

    name: str
    unit: str
    better: Literal["more", "less"]
    beside: str | None
    prepare: Callable[[], Iterator[Take]]
    gpu: bool = False
    size: int | None = None
    counted: str = "size"
    rounds: int | None = None


_known: dict[str, dict[str, Figure]] = {}
_yardsticks: dict[str, Figure] = {}


def figure(
    suite: str,
    unit: str,
    better: Literal["more", "less"] = "more",
    beside: str | None = None,
    gpu: bool = False,
    size: int | None = None,
    counted: str = "size",
    rounds: int | None = None,
) -> Callable[[Callable[[], Iterator[Take]]], Callable[[], Iterator[Take]]]:
    """Make a figure of `suite` of the function, under the function's name."""

    def keep(prepare: Callable[[], Iterator[Take]]) -> Callable[[], Iterator[Take]]:
        name = prepare.__name__
        one = Figure(name, unit, better, beside, prepare, gpu, size, counted, rounds)
        _known.setdefault(suite, {})[one.name] = one
        return prepare

    return keep


def yardstick(unit: str) -> Callable[[Callable[[], Iterator[Take]]], Callable[[], Iterator[Take]]]:
    """Make of the function what figures are measured beside, under the function's name."""

    def keep(prepare: Callable[[], Iterator[Take]]) -> Callable[[], Iterator[Take]]:
        _yardsticks[prepare.__name__] = Figure(prepare.__name__, unit, "more", None, prepare)
        return prepare

    return keep


def of_suite(suite: str) -> list[Figure]:
    """The figures of a suite, in the order in which they are measured."""
    for module in SUITES[suite]:
        importlib.import_module(module)
    return list(_known[suite].values())


def find(suite: str, name: str) -> Figure:
    """The figure or the yardstick of that name."""
    figures = {one.name: one for one in of_suite(suite)}
    return figures.get(name) or _yardsticks[name]
