"""What the benchmarks tell people: a table, sentences, and a plot for each suite."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from infra.inert import code, plain
from jobs.benchmarks.statistics import CONFIDENCE
from tasks.benchmarks.parameters import BenchmarkParameters
from tasks.benchmarks.quality import Quality
from tasks.benchmarks.results import Interval, Row
from tasks.benchmarks.revisions import Revisions

NOW, BESIDE, CHANGE = "#1f5fa8", "#7f8c8d", "#c0392b"
MARKS = {True: "✓", False: "✗", None: "?"}
"""Of targets: reached, missed, and one that the interval holds."""
SHOWN = 8
"""Sessions that a plot has room for at least."""


def markdown(
    parameters: BenchmarkParameters,
    revisions: Revisions,
    rows: Sequence[Row],
    champions: Sequence[Quality],
    environment: dict[str, Any],
) -> str:
    """The whole report."""
    against = f", against {code(revisions.then[:12])}" if revisions.then else ""
    lines = [f"# Benchmarks of {code(revisions.now[:21])}{against}", ""]
    worse = [sentence(one) for one in rows if one.regressed]
    if revisions.then:
        lines += [" ".join(worse) or "No figure surely got worse.", ""]
    if rows:
        lines += tables(parameters, rows, environment)
    if "evaluation" in parameters.suites:
        lines += _quality(champions)
    return "\n".join(lines) + "\n"


def machines(folder: Path, suites: Sequence[str]) -> dict[str, Any]:
    """Of each suite that a run with this folder has measured: the facts of the machine, their key,
    the load averages at the samples, the day of the first one (UTC), and the figures for which a
    GPU is missing."""
    found = {}
    for suite in suites:
        path = folder / suite / "session.json"
        if not path.is_file():
            continue
        told = json.loads(path.read_text())
        lines = (folder / suite / "samples.jsonl").read_text().splitlines()
        samples = [json.loads(line) for line in lines]
        begun = datetime.fromtimestamp(samples[0]["time"], UTC)
        found[suite] = told["environment"] | {
            "key": told["key"],
            "no_gpu": told["no_gpu"],
            "loads": [one["load"] for one in samples],
            "day": f"{begun:%Y-%m-%d}",
        }
    return found


def sentence(one: Row) -> str:
    """How a figure changed, with its interval."""
    assert one.change is not None
    low, high = one.change.low or 0, one.change.high or 0
    return (
        f"{one.figure} is {one.told}: {one.change.estimate - 1:+.1%} {one.unit} "
        f"({low - 1:+.1%} to {high - 1:+.1%})."
    )


def tables(
    parameters: BenchmarkParameters, rows: Sequence[Row], environment: dict[str, Any]
) -> list[str]:
    """The figures, what is to be said of them, and the machines."""
    missing = [one for known in environment.values() for one in known["no_gpu"]]
    return [
        *_table(rows),
        *_notes(parameters, rows),
        *(f"\n{one['name']} is not measured: no GPU." for one in missing),
        *_machines(environment),
    ]


def _table(rows: Sequence[Row]) -> list[str]:
    """Columns of which no row has anything are left out."""
    columns = ["figure", "value", "interval", "rounds", "p50 / p90 / p99"]
    columns += ["of what it is beside", "target", "last", "change", "verdict"]
    cells = [
        [
            f"{one.figure}, {one.unit}",
            number(one.value.estimate),
            _range(one.value),
            str(one.rounds),
            " / ".join("–" if p is None else number(p) for p in one.percentiles) or "–",
            f"{number(one.of_beside.estimate)} ({_range(one.of_beside)}) of {one.beside}"
            if one.of_beside
            else "–",
            target(one),
            "–" if one.last is None else number(one.last),
            f"{one.change.estimate - 1:+.1%} ({_percent(one.change)})" if one.change else "–",
            one.told or "–",
        ]
        for one in rows
    ]
    told = [place for place in range(len(columns)) if any(row[place] != "–" for row in cells)]
    numbers = range(1, len(columns) - 1)
    lines = [columns, ["---:" if place in numbers else "---" for place in range(len(columns))]]
    return ["| " + " | ".join(line[place] for place in told) + " |" for line in [*lines, *cells]]


def _notes(parameters: BenchmarkParameters, rows: Sequence[Row]) -> list[str]:
    lines = [
        "",
        "Medians of the rounds, sides in random order, after warm-up; intervals of values 95 %, of "
        f"ratios {CONFIDENCE * 100:.1f} %, by order statistics. A target that lies within one has "
        "a ?. Percentiles are of single measurements, – where they are too few. Changes below "
        f"{parameters.least_effect * 100:g} % are never told.",
    ]
    for one in rows:
        if not one.steady:
            lines += ["", f"**{one.figure} did not settle in its warm-up**: the machine is busy."]
        for side in one.missing:
            lines += ["", f"{one.figure} cannot be measured on the side {code(side)}."]
        for at, ratio in one.changes:
            where = one.history[at].revision[:12]
            lines += ["", f"{one.figure} has changed to × {ratio:.2f} at {code(where)}."]
    return lines


def _machines(environment: dict[str, Any]) -> list[str]:
    lines = ["", "| suite | day | load | key | machine | libraries |", "|---|---|---|---|---|---|"]
    for suite, known in environment.items():
        gpus = ", ".join(known["gpus"]) or "no GPU"
        machine = f"{known['cpu']}, {known['cores']:g} cores, {known['memory_gib']} GiB; {gpus}"
        libraries = f"Python {known['python']}, {known['blas']}, {known['libraries']}"
        loads = known["loads"]
        load = f"{median(loads):.1f} ({min(loads):.1f} to {max(loads):.1f})"
        lines.append(
            f"| {suite} | {known['day']} | {load} | {known['key']} | {plain(machine)} | "
            f"{plain(libraries)} |"
        )
    return lines


def _quality(champions: Sequence[Quality]) -> list[str]:
    if not champions:
        return ["", "There is no champion that a verdict has made."]
    lines = [
        "",
        "## Champions",
        "",
        "| model | kind | version | gain over the one before | since version | improvement | "
        "dollars | dollars for 0.01 |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for one in champions:
        per_point = "–" if one.usd_per_point is None else f"{one.usd_per_point:.4f}"
        lines.append(
            f"| {plain(one.model)} | {one.kind} | {one.version} | {one.gain:+.3f} "
            f"({one.low:+.3f} to {one.high:+.3f}) | {one.baseline} | {one.improvement:+.3f} "
            f"({one.improvement_low:+.3f} to {one.improvement_high:+.3f}) | {one.usd:.4f} | "
            f"{per_point} |"
        )
    lines += ["", "| model | | check | value | limit |", "|---|---|---|---:|---:|"]
    for one in champions:
        lines += [
            f"| {plain(one.model)} | {'✓' if check.passed else '✗'} | {plain(check.name)} | "
            f"{check.value:.4g} | {check.limit:.4g} |"
            for check in one.checks
        ]
    return lines


def number(value: float) -> str:
    """Three digits that count, thousands apart."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _range(one: Interval) -> str:
    if one.low is None or one.high is None:
        return "–"
    return f"{number(one.low)} to {number(one.high)}"


def _percent(one: Interval) -> str:
    assert one.low is not None and one.high is not None
    return f"{one.low - 1:+.1%} to {one.high - 1:+.1%}"


def target(one: Row) -> str:
    """The target with its sign, and whether it is reached."""
    if one.target is None:
        return "–"
    sign = "≥" if one.better == "more" else "≤"
    if one.target.value is not None:
        wanted = f"{sign} {number(one.target.value)} {one.unit}"
    else:
        wanted = f"{sign} {one.target.of_beside:g}"
    return f"{MARKS[one.reached]} {wanted}"


def draw(rows: Sequence[Row], folder: Path) -> dict[str, Path]:
    """The history of each suite's figures with their changes, and the growth of those that have a
    size, as PNG files by name."""
    plots = {}
    for suite in dict.fromkeys(one.suite for one in rows):
        path = folder / f"{suite}.png"
        _draw_suite([one for one in rows if one.suite == suite], path)
        plots[suite] = path
        sized = [one for one in rows if one.suite == suite and one.size is not None]
        if len(sized) > 1:
            plots[f"{suite}-growth"] = folder / f"{suite}-growth.png"
            _draw_growth(sized, plots[f"{suite}-growth"])
    return plots


def _draw_growth(rows: Sequence[Row], path: Path) -> None:
    """Values with their intervals by size, and a line of as much for each more."""
    from matplotlib.figure import Figure

    ordered = sorted(rows, key=lambda one: one.size or 0)
    sizes, values = [one.size or 0 for one in ordered], [one.value for one in ordered]
    figure = Figure(figsize=(6, 4), dpi=120, layout="constrained")
    panel = figure.subplots()
    middles = [one.estimate for one in values]
    below = [one.estimate - (one.estimate if one.low is None else one.low) for one in values]
    above = [(one.estimate if one.high is None else one.high) - one.estimate for one in values]
    panel.errorbar(sizes, middles, [below, above], fmt="o-", color=NOW, ms=4, lw=1, capsize=3)
    same = [middles[0] * size / sizes[0] for size in sizes]
    panel.plot(sizes, same, color=BESIDE, lw=1, ls="--", label="as much for each more")
    panel.legend(frameon=False, loc="best")
    panel.set(ylabel=ordered[0].unit, xlabel=ordered[0].counted, xticks=sizes)
    panel.set_ylim(bottom=0)
    panel.spines[["top", "right"]].set_visible(False)
    panel.grid(alpha=0.2)
    figure.savefig(path)


def _draw_suite(rows: Sequence[Row], path: Path) -> None:
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(12, 2.6 * ((len(rows) + 1) // 2)), dpi=120, layout="constrained")
    panels = figure.subplots((len(rows) + 1) // 2, 2, squeeze=False).flatten()
    for panel in panels[len(rows) :]:
        panel.set_visible(False)
    for one, panel in zip(rows, panels, strict=False):
        values = [point.value for point in one.history]
        panel.plot(range(1, len(values) + 1), values, "o-", color=NOW, ms=4, lw=1)
        newest = one.of_beside or one.value
        if newest.low is not None and newest.high is not None:
            below, above = newest.estimate - newest.low, newest.high - newest.estimate
            panel.errorbar(
                [len(values)], [newest.estimate], [[below], [above]], color=NOW, capsize=3
            )
        if one.target:
            wanted = one.target.of_beside if one.of_beside else one.target.value
            if wanted is not None:
                panel.axhline(wanted, color=BESIDE, lw=1, ls="--", label="target")
                panel.legend(frameon=False, loc="best")
        for at, ratio in one.changes:
            panel.axvline(at + 0.5, color=CHANGE, lw=1)
            panel.annotate(f"× {ratio:.2f}", (at + 0.55, max(values)), color=CHANGE, va="top")
        unit = f"× {one.beside}" if one.of_beside else one.unit
        panel.set(title=one.figure, ylabel=unit, xlabel="session, oldest first")
        panel.set_ylim(0, 1.1 * panel.dataLim.ymax)
        panel.set_xlim(0.5, max(len(values), SHOWN) + 0.5)
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(alpha=0.2)
    figure.savefig(path)
