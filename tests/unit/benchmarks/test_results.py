"""What is said of a figure, and what is compared with what."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from infra.models.verdicts import Check
from infra.records.benchmarks import Measured
from tasks.benchmarks import report
from tasks.benchmarks.parameters import BenchmarkParameters
from tasks.benchmarks.quality import Quality
from tasks.benchmarks.results import Target, row
from tasks.benchmarks.revisions import Revisions

KNOWN = {"name": "pairs", "better": "more", "beside": "pgbench", "missing": [], "steady": True}
NEWEST = 20


def measured(session, side, value, key="here"):
    wobble = [1, 0.99, 1.01, 1.002, 0.998, 1.005, 0.995, 1, 1.001, 0.999, 1.003, 0.997]
    return Measured(
        session=str(session),
        revision=f"{session:040x}",
        environment_key=key,
        completed_at=datetime(2026, 1, 1, tzinfo=UTC) + timedelta(days=session),
        figure="pairs",
        unit="pairs/s",
        side=side,
        rounds=list(range(len(wobble))),
        values=[value * each for each in wobble],
    )


def newest(sides, before=(), known=KNOWN, target=None, raw=()):
    own = [measured(NEWEST, side, value) for side, value in sides.items()]
    return row("control-plane", known, [*before, *own], str(NEWEST), raw, target, 0.05)


def test_a_slowdown_against_another_revision_is_a_regression():
    slow = newest({"now": 80, "then": 100, "beside": 200})
    assert slow.kind == "slower" and slow.regressed
    assert slow.change.estimate == pytest.approx(0.8, rel=0.01)
    assert "pairs is slower: -20.0% pairs/s" in report.sentence(slow)
    assert not newest({"now": 98, "then": 100, "beside": 200}).regressed
    times = KNOWN | {"better": "less"}
    assert newest({"now": 80, "then": 100, "beside": 200}, known=times).kind == "faster"


def test_without_another_revision_nothing_is_said_of_a_change():
    alone = newest(
        {"now": 80, "beside": 200}, [measured(1, "now", 100), measured(1, "beside", 200)]
    )
    assert alone.kind is None and alone.told == "" and not alone.regressed
    assert alone.last == 100


def test_absolute_values_of_another_machine_are_no_history_of_this_one():
    before = [
        *(measured(day, "now", 300, key="there") for day in range(8)),
        *(measured(day, "now", 100) for day in range(8, 16)),
    ]
    alone = newest({"now": 100}, before, KNOWN | {"beside": None})
    assert [point.value for point in alone.history] == [100] * 9
    assert alone.changes == [] and alone.last == 100


def test_ratios_of_another_machine_are():
    before = []
    for day in range(16):
        scale = 3 if day < 8 else 1  # another machine, three times as fast
        key = "there" if day < 8 else "here"
        before += [
            measured(day, "now", 100 * scale, key),
            measured(day, "beside", 200 * scale, key),
        ]
    held = newest({"now": 100, "beside": 200}, before)
    assert len(held.history) == 17 and held.changes == []
    worse = newest(
        {"now": 80, "beside": 200},
        [
            *before,
            *(measured(day, "now", 80) for day in range(16, 20)),
            *(measured(day, "beside", 200) for day in range(16, 20)),
        ],
    )
    assert [(at, round(ratio, 2)) for at, ratio in worse.changes] == [(16, 0.8)]


@pytest.mark.parametrize(
    ("better", "target", "reached"),
    [
        ("more", {"of_beside": 0.5}, True),
        ("more", {"of_beside": 0.6}, False),
        ("less", {"of_beside": 0.6}, True),
        ("more", {"value": 99}, True),
        ("less", {"value": 99}, False),
        ("more", {"value": 102.1}, None),
    ],
)
def test_targets(better, target, reached):
    found = newest(
        {"now": 102, "beside": 200},
        known=KNOWN | {"better": better},
        target=Target(capability="x", **target, source="x"),
    )
    assert found.reached is reached


def test_the_table_says_what_is_there_and_what_is_not():
    rows = [
        newest({"now": 80, "then": 100, "beside": 200}, raw=[1.0, 2.0] * 40),
        newest({"now": 80}, known=KNOWN | {"missing": ["then"], "steady": False}),
    ]
    given = Revisions(now="a" * 40, then="b" * 40)
    machine = {"key": "k", "cpu": "EPYC|9", "cores": 2.0, "memory_gib": 23, "gpus": []}
    machine |= {"loads": [3.0, 9.0, 4.0], "day": "2026-01-02"}
    machine |= {"no_gpu": [{"name": "on_gpu", "unit": "s"}]}
    machine |= {"python": "3.11", "blas": "OpenBLAS", "libraries": "abc"}
    text = report.markdown(BenchmarkParameters(), given, rows, [], {"control-plane": machine})
    first, second = [line for line in text.splitlines() if line.startswith("| pairs")]
    assert " 1.5 / 2 / – " in first and "| slower |" in first
    assert second.count(" – ") == 4
    assert "did not settle" in text and "2 cores, 23 GiB; no GPU |" in text
    assert "on_gpu is not measured: no GPU" in text
    assert "cannot be measured on the side `then`" in text
    assert "| 2026-01-02 | 4.0 (3.0 to 9.0) | k |" in text


def test_champions_are_told_with_their_intervals_and_dollars():
    check = Check(name="gain", passed=True, value=0.1, limit=0.05, explanation="it gained")
    fields = {"model": "a|b", "kind": "policy", "version": "3", "baseline": "1", "checks": [check]}
    fields |= {"gain": 0.1, "low": 0.05, "high": 0.15, "improvement": 0.3, "usd": Decimal("0.6")}
    sure = Quality(**fields, improvement_low=0.1, improvement_high=0.5)
    unsure = Quality(**fields, improvement_low=-0.1, improvement_high=0.7)
    given = Revisions(now="a" * 40, then=None)
    parameters = BenchmarkParameters(suite="evaluation")
    text = report.markdown(parameters, given, [], [sure, unsure], {})
    assert "+0.300 (+0.100 to +0.500) | 0.6000 | 0.0200 |" in text
    assert "+0.300 (-0.100 to +0.700) | 0.6000 | – |" in text
    assert "no champion" in report.markdown(parameters, given, [], [], {})


def test_plots_are_drawn(tmp_path):
    before = [measured(day, "now", 100 if day < 8 else 80) for day in range(16)]
    before += [measured(day, "beside", 200) for day in range(16)]
    rows = [
        newest(
            {"now": 80, "beside": 200},
            before,
            target=Target(capability="x", of_beside=0.5, source="x"),
        )
    ]
    plots = report.draw(rows, tmp_path)
    assert plots["control-plane"].read_bytes().startswith(b"\x89PNG")


def test_figures_of_several_sizes_have_a_plot_of_their_growth(tmp_path):
    known = KNOWN | {"counted": "tenants"}
    rows = [newest({"now": 10.0 * size}, known=known | {"size": size}) for size in (50, 4)]
    assert [(one.size, one.counted) for one in rows] == [(50, "tenants"), (4, "tenants")]
    plots = report.draw([*rows, newest({"now": 100})], tmp_path)
    assert set(plots) == {"control-plane", "control-plane-growth"}
    assert all(path.stat().st_size > 5_000 for path in plots.values())
    assert set(report.draw(rows[:1], tmp_path)) == {"control-plane"}, "one size is no growth"


def test_columns_that_say_nothing_are_left_out_of_the_table():
    told = {}
    for name, sides in (("alone", {"now": 80}), ("compared", {"now": 80, "then": 100})):
        rows = [newest(sides)]
        told[name] = report.tables(BenchmarkParameters(), rows, {})[0]
    assert told["alone"] == "| figure | value | interval | rounds |"
    assert told["compared"].endswith("| rounds | change | verdict |")
