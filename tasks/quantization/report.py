"""What a quantisation tells: a table, a plot, and which version was registered."""

from collections.abc import Sequence
from pathlib import Path

from prefect import task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE
from pydantic import BaseModel

from infra.inert import LOOK_NEXT, code, plain
from infra.models.registry import ModelVersion
from infra.records import runs
from jobs.serving.config import CHAMPION
from tasks.quantization.figures import Figures, best
from tasks.quantization.parameters import QuantizationParameters
from tasks.runs.artifacts import show
from tasks.runs.run import Work

QUALITY = ("variant", "quality", "against the champion", "objective")
LOAD = ("variant", "first token, ms", "answer, ms", "tokens/s", "memory, MB", "disk, MB")
SHOWS = {"markdown": "this report", "plot": "the plot"}


class QuantizationReport(BaseModel):
    """`registered` is the new version; None where no variant holds the objective."""

    run: str
    model: str
    resumed: bool
    champion: str
    registered: str | None
    figures: list[Figures]
    files: dict[str, str]


@task(name="report", cache_policy=NO_CACHE)
def publish_figures(
    work: Work[QuantizationParameters],
    champion: ModelVersion,
    found: list[Figures],
    registered: ModelVersion | None,
) -> QuantizationReport:
    """Write and show the table and the plot, and close the run."""
    path, plot = work.folder / "report.md", work.folder / "variants.png"
    report = QuantizationReport(
        run=work.run.id,
        model=champion.model,
        resumed=work.run.resumed,
        champion=champion.version,
        registered=registered and registered.version,
        figures=found,
        files={"markdown": str(path), "plot": str(plot)},
    )
    text = markdown(report, work.parameters)
    path.write_text(text, "utf-8")
    draw(found, plot)
    create_table_artifact(
        key="quantization-variants",
        table=[quality(one) | load(one) for one in found],
    )
    show("quantization", text, {"variants": plot})
    runs.end(work.pool, work.run, "finished", report.model_dump(mode="json"))
    return report


def markdown(report: QuantizationReport, parameters: QuantizationParameters) -> str:
    """The report as Markdown."""
    lines = [f"# Quantised variants of {plain(report.model)}, version {report.champion}", ""]
    chosen = best(report.figures)
    if report.registered and chosen:
        reference = f"{report.model}@{report.registered}"
        lines.append(
            f"Version {report.registered}, {chosen.name}, is the fastest variant that holds the "
            f"objective. `nightshift serve policy --name {reference}` serves it. The champion "
            "stays."
        )
    else:
        lines.append("No variant holds the objective; nothing was registered.")
    served = [one for one in report.figures if one.error is None]
    lines += _table(QUALITY, [quality(one) for one in report.figures])
    lines += _table(LOAD, [load(one) for one in served])
    objective = parameters.objective
    limit = objective.max_latency_ms
    latency = f"within {limit:g} ms" if limit else "in whatever time"
    lines += [
        "",
        f"Objective: {objective.min_quality:.0%} of the champion's quality kept, an answer "
        f"{latency}. Each was asked by {parameters.clients} clients at once, one after another on "
        "this machine; times are medians, with 90th percentiles in brackets.",
    ]
    lines += ["", LOOK_NEXT, ""]
    lines += [f"- {SHOWS[what]}: {code(where)}" for what, where in report.files.items()]
    return "\n".join(lines) + "\n"


def _table(head: Sequence[str], rows: Sequence[dict[str, str]]) -> list[str]:
    """Of two, each fits in a terminal of 80 columns."""
    ruler = "|".join("---:" if name not in ("variant", "objective") else "---" for name in head)
    return ["", f"| {' | '.join(head)} |", f"|{ruler}|"] + [
        f"| {' | '.join(row.values())} |" for row in rows
    ]


def quality(one: Figures) -> dict[str, str]:
    """A row of `QUALITY`."""
    told = ["–", "–", plain(one.error or "")]
    if one.quality is not None and one.gain is not None:
        gain, low, high = one.gain
        against, objective = f"{gain:+.3f} ({low:+.3f} to {high:+.3f})", "; ".join(one.missed)
        told = [f"{one.quality:.3f}", against, plain(objective or "held")]
        if one.variant == CHAMPION:
            told[1:] = ["–", "–"]
    return dict(zip(QUALITY, [one.name, *told], strict=True))


def load(one: Figures) -> dict[str, str]:
    """A row of `LOAD`."""
    told = ["–"] * (len(LOAD) - 1)
    if one.throughput is not None and one.memory is not None and one.bytes is not None:
        told = [
            _ms(one.first, one.first_p90),
            _ms(one.answer, one.answer_p90),
            f"{one.throughput:,.0f}",
            f"{one.memory / 1e6:,.0f}",
            f"{one.bytes / 1e6:,.1f}",
        ]
    return dict(zip(LOAD, [one.name, *told], strict=True))


def _ms(typical: float | None, p90: float | None) -> str:
    assert typical is not None
    return f"{1000 * typical:,.0f}" + (f" ({1000 * p90:,.0f})" if p90 is not None else "")


def draw(found: Sequence[Figures], path: Path) -> None:
    """Quality with its interval, latency, throughput and size of what could be measured: a PNG."""
    from matplotlib.figure import Figure

    able = [one for one in found if one.gain is not None]
    names = [one.name for one in able]
    figure = Figure(figsize=(12, 1.6 + 0.5 * len(able)), dpi=160, layout="constrained")
    axes = figure.subplots(1, 4, sharey=True)
    lows = [(one.gain or (0, 0, 0)) for one in able]
    errors = [[g - low for g, low, _ in lows], [high - g for g, _, high in lows]]
    axes[0].errorbar([g for g, _, _ in lows], names, xerr=errors, fmt="o", color="#1f5fa8")
    axes[0].axvline(0, color="#222222", lw=0.8)
    axes[1].barh(names, [1000 * (one.answer or 0) for one in able], color="#1f5fa8")
    axes[2].barh(names, [one.throughput or 0 for one in able], color="#1f5fa8")
    axes[3].barh(names, [(one.bytes or 0) / 1e6 for one in able], color="#1f5fa8")
    titles = ("reward − champion's", "answer, ms", "tokens a second", "on disk, MB")
    for axis, title in zip(axes, titles, strict=True):
        axis.set_title(title, fontsize=10)
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(axis="x", alpha=0.2)
        axis.locator_params(axis="x", nbins=4)
        axis.set_axisbelow(True)
    axes[0].invert_yaxis()
    figure.savefig(path)
