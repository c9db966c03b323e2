"""The steps of a search for designs: look for the weather, search and simulate, draw the fronts."""

from pathlib import Path
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from infra.contract import JobResult, Resources
from infra.models import registry
from infra.models.registry import ModelVersion
from jobs.surrogate.config import OptimiseConfig
from tasks.champions.candidate import read_lines
from tasks.runs.notice import Notice, end_with_notice
from tasks.runs.plan import Step
from tasks.runs.run import Work
from tasks.surrogate.inputs import ENVIRONMENT, Given, stored_weather
from tasks.surrogate.parameters import OptimisationParameters

SEARCH = Step[OptimisationParameters](
    "search",
    "surrogate.optimise",
    ENVIRONMENT,
    lambda p: p.hours,
    Resources(cpus=1, memory_gb=2),
)
COLOURS = {"neutral": "#c0392b", "averse": "#1f5fa8"}
NAMES = {"neutral": "trusting", "averse": "risk-averse"}
NOTABLE = 2.0
"""kWh/m2 a year."""
SHOWN = ("wall_u", "roof_u", "floor_u", "mass", "orientation", "overhang", "infiltration")


@task(name="prepare weather", cache_policy=NO_CACHE)
def prepare_weather(parameters: OptimisationParameters) -> Given:
    """Check that the weather is there and store it; nothing is spent."""
    return Given(weather=stored_weather(parameters.weather))


@task(name="search", cache_policy=NO_CACHE)
def search_designs(
    work: Work[OptimisationParameters], given: Given, champion: ModelVersion | None
) -> JobResult:
    """Both fronts, and what simulations of their points say. Raises InputError: no champion."""
    parameters = work.parameters
    if champion is None:
        command = f"nightshift run surrogate-retraining --name {parameters.name}"
        raise registry.no_champion(parameters.name, command)
    weather = {"weather": given.weather} if given.weather else {}
    return work.job(
        SEARCH,
        OptimiseConfig(seed=parameters.seed, **parameters.optimisation.model_dump()),
        {"champion": champion} | weather,
    )


@task(name="report", cache_policy=NO_CACHE)
def publish_fronts(work: Work[OptimisationParameters], result: JobResult) -> Notice:
    """The fronts as a table and a plot, for people and in the Prefect UI; closes the run."""
    rows = read_lines(result.artifacts["fronts"])
    aversion = work.parameters.optimisation.risk_aversion
    plot = work.folder / "fronts.png"
    draw(rows, aversion, plot)
    text = told(work.parameters.name, rows, result.metrics, aversion)
    return end_with_notice(work, text, result.artifacts["fronts"], {"fronts": plot})


def told(
    name: str, rows: list[dict[str, Any]], metrics: dict[str, float], risk_aversion: float
) -> str:
    """What was found, and whether fear of risk paid, as Markdown."""
    lines = [
        f"# {name}: designs for little energy and money",
        "",
        f"{metrics['evaluated']:,.0f} designs were judged by the champion. `risk-averse` adds "
        f"{risk_aversion:g} standard deviations to the energy that it predicts.",
        "",
        "| front | designs | simulated | mean deviation | mean surprise | worst | above the 90 % "
        "interval |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for front, called in NAMES.items():
        m = {key.removeprefix(front + "_"): v for key, v in metrics.items() if front in key}
        lines.append(
            f"| {called} | {m['designs']:.0f} | {m['checked']:.0f} | {m['deviation']:.2f} |"
            f" {m['surprise']:+.2f} | {m['worst_surprise']:+.2f} | {m['above_interval']:.0%} |"
        )
    lines += [
        "",
        "kWh/m2 a year; a surprise is what the simulation needs beyond the prediction.",
        "",
        _verdict(metrics["neutral_worst_surprise"], metrics["averse_worst_surprise"]),
    ]
    strange = sorted({each for row in rows for each in row["outside"]})
    if strange:
        lines += ["", f"**Outside the training ranges: {', '.join(strange)}.** Trust no figure."]
    lines += ["", "## The simulated designs of the risk-averse front", ""]
    lines.append("| cost, €/m2 | predicted | simulated | " + " | ".join(SHOWN) + " |")
    lines.append("|" + "---:|" * (3 + len(SHOWN)))
    for row in rows:
        if row["front"] == "averse" and row["simulated"] is not None:
            values = " | ".join(f"{row['design'][each]:.2f}" for each in SHOWN)
            lines.append(
                f"| {row['cost']:.0f} | {row['predicted']:.1f} ± {row['deviation']:.1f} |"
                f" {row['simulated']:.1f} | {values} |"
            )
    return "\n".join(lines) + "\n"


def _verdict(trusting: float, averse: float) -> str:
    """Whether the worst surprise, in kWh/m2, was avoided."""
    avoided = max(trusting, 0.0) - max(averse, 0.0)
    if abs(avoided) < NOTABLE:
        return "Fear of risk made no notable difference to the worst surprise."
    done = "avoided" if avoided > 0 else "did not avoid bad surprises: the worst is larger by"
    return f"Fear of risk {done} {abs(avoided):.1f} kWh/m2" + (
        " of the worst surprise." if avoided > 0 else "."
    )


def draw(rows: list[dict[str, Any]], risk_aversion: float, path: Path) -> None:
    """Both fronts, predicted and simulated, and how far off the promises were, as a PNG of 1,920 ×
    800 pixels."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 5), dpi=160, layout="constrained")
    fronts, surprises = figure.subplots(1, 2, width_ratios=(1.25, 1))
    for front, colour in COLOURS.items():
        own = [row for row in rows if row["front"] == front]
        checked = [row for row in own if row["simulated"] is not None]
        called = NAMES[front] + (f" (+ {risk_aversion:g} deviations)" if front == "averse" else "")
        costs = [row["cost"] for row in own]
        fronts.plot(
            costs,
            [row["predicted"] for row in own],
            color=colour,
            lw=1.5,
            label=f"{called}: predicted",
        )
        fronts.plot(
            [row["cost"] for row in checked],
            [row["simulated"] for row in checked],
            "o",
            color=colour,
            ms=5,
            mec="white",
            label="its points, simulated",
        )
        surprises.errorbar(
            [row["cost"] for row in checked],
            [row["simulated"] - row["predicted"] for row in checked],
            yerr=[1.645 * row["deviation"] for row in checked],
            fmt="o",
            ms=5,
            lw=1,
            color=colour,
            alpha=0.6,
            label=f"{NAMES[front]}, ± its 90 % interval",
        )
    low, high = surprises.get_ylim()
    surprises.set_ylim(low, high + 0.25 * (high - low))  # room for the legend
    surprises.axhline(0, color="#222222", lw=0.8)
    fronts.set(
        xlabel="cost of the envelope, € per m2 of floor",
        ylabel="heating and cooling, kWh/m2 a year\n(neither axis begins at 0)",
        title="What each front promises, and what it gets",
    )
    surprises.set(
        xlabel="cost of the envelope, € per m2 of floor",
        ylabel="simulated − predicted, kWh/m2 a year",
        title="Surprises: above zero needs more than promised",
    )
    for axes in (fronts, surprises):
        axes.legend(frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.2)
        axes.set_axisbelow(True)
    figure.savefig(path)
