"""The report of a retraining: how wrong, how sure, compared with the champion, and what it cost."""

from pathlib import Path
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from infra.contract import JobResult, Progress
from infra.models.registry import ModelVersion
from infra.models.verdicts import Verdict
from jobs.surrogate.config import LOADS, TARGETS
from jobs.surrogate.towns_table import towns_table
from tasks.champions.candidate import read_lines
from tasks.champions.gate import paired_interval
from tasks.champions.publish import costs, finish
from tasks.champions.report import Report, Score
from tasks.runs.curves import curve
from tasks.runs.run import Work
from tasks.surrogate.gate import HANDBOOK, accuracies
from tasks.surrogate.steps import Need

WORST = 5
SMALL = 10.0
"""kWh/m2 a year: an error's share of a smaller mean says nothing."""
COLOURS = ("#c0392b", "#e08283", "#1f5fa8", "#7fb0de")
"""Heating front and back, cooling front and back."""
CLIMATES = (("cold", -100, 8), ("temperate", 8, 16), ("hot", 16, 100))
"""By the mean temperature of the year, degC."""


@task(name="report", cache_policy=NO_CACHE)
def publish_retraining(
    work: Work[Any],
    champion: ModelVersion | None,
    candidate: ModelVersion,
    evaluation: JobResult,
    verdict: Verdict,
    served: str | None,
    need: Need,
) -> Report:
    """Write the report and its plots, show them in the Prefect UI, and close the run."""
    rows = read_lines(evaluation.artifacts["evaluation"])
    metrics, trained = evaluation.metrics, candidate.metrics
    files = {
        "markdown": str(work.folder / "report.md"),
        "plot": str(work.folder / "surrogate.png"),
    }
    report = Report(
        run=work.run.id,
        model=candidate.model,
        resumed=work.run.resumed,
        collected={
            "designs trained on": int(trained["designs"]),
            "of them replayed from earlier trainings": int(trained["replayed"]),
            "observed building-years": int(trained["observations"]),
            "held-out designs judged": len(rows),
        },
        scores=scores(rows, champion is not None),
        verdict=verdict,
        champion=champion.label(candidate.model) if champion else HANDBOOK,
        candidate=candidate.version,
        served_from=served,
        costs=costs(work),
        examples=[],
        sections={
            "How wrong, how sure": targets_table(metrics),
            **towns_section(evaluation),
            "By climate and room": climates_table(rows),
            "Where it errs most": worst_table(rows),
            "How it was trained": told(trained, metrics, need),
        },
        look_next={
            "this report": files["markdown"],
            "the plots": files["plot"],
            "the curves in TensorBoard": work.tensorboard,
            "predictions": f"nightshift predict surrogate --name {candidate.model} --input FILE",
            "the same again": work.same_again,
            "all versions": f"nightshift models list {candidate.model}",
            "the training log": f"nightshift jobs logs {work.run.id}/train",
            "what may be spent today": "nightshift budget show",
        },
        files=files,
    )
    if work.parameters.town_of is None:
        report.collected["held-out climates"] = len(accuracies(rows, "candidate"))
    promised, gap = work.parameters.training.confidence, work.parameters.gate.max_coverage_gap
    draw(rows, metrics, curve(work.pool, work.run.id), promised, gap, Path(files["plot"]))
    return finish(work, report, "surrogate-report", "surrogate-plots")


def scores(rows: list[dict[str, Any]], has_champion: bool) -> list[Score]:
    """Accuracy over climates; a first version is compared with the handbook."""
    sides = {"base": HANDBOOK, "candidate": "candidate"}
    sides["champion"] = "champion" if has_champion else HANDBOOK
    values = {side: accuracies(rows, name) for side, name in sides.items()}
    gain, low, high = paired_interval(values["candidate"], values["champion"])
    means = {side: sum(each) / len(each) for side, each in values.items()}
    return [Score(name="accuracy", gain=gain, low=low, high=high, **means)]


def targets_table(metrics: dict[str, float]) -> str:
    """Error and coverage of each target, and of the four loads together."""
    lines = [
        "| | unit | mean | error | champion's error | covered |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for number, target in enumerate(TARGETS):
        name, mean = target.name, metrics[f"mean_{target.name}"]
        shared = mean if target.unit != "degC" and mean >= SMALL else None
        cells = [name.replace("_", " "), target.unit, f"{mean:.1f}"]
        for side in ("candidate", "champion"):
            cells.append(_told(metrics.get(f"{side}_error_{name}"), shared))
        cells.append(f"{metrics[f'candidate_coverage_{name}']:.1%}")
        lines.append(f"| {' | '.join(cells)} |")
        if number == LOADS - 1:
            before = f"{metrics['champion_error']:.1%}" if "champion_error" in metrics else "–"
            lines.append(
                f"| **all loads** | | | **{metrics['candidate_error']:.1%}** | {before} | |"
            )
    lines += [
        "",
        "Errors are mean absolute ones in the unit of their row, and their shares of the mean.",
        "",
        f"All values together: {metrics['candidate_coverage']:.1%} are covered; in the median "
        f"climate {metrics['candidate_coverage_median_climate']:.1%}, in the worst tenth of them "
        f"at most {metrics['candidate_coverage_worst_tenth']:.1%}. The half-width of "
        f"the loads' intervals is {metrics['candidate_half_width']:.1%} of their mean. The "
        f"handbook alone errs by {metrics['handbook_error']:.1%}.",
    ]
    return "\n".join(lines)


def _told(error: float | None, mean: float | None) -> str:
    """An error, and its share of `mean` where there is one."""
    if error is None:
        return "–"
    return f"{error:.3g}" if mean is None else f"{error:.3g} ({error / mean:.1%})"


def towns_section(evaluation: JobResult) -> dict[str, str]:
    """How it does in the towns of --towns; nothing without them."""
    if "towns" not in evaluation.artifacts:
        return {}
    return {"In real towns": towns_table(read_lines(evaluation.artifacts["towns"]))}


def climates_table(rows: list[dict[str, Any]]) -> str:
    """Error of heating and cooling in each room, by climate."""
    lines = [
        "| climate | designs | heating front | back | cooling front | back |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, low, high in CLIMATES:
        inside = [r for r in rows if low <= r["design"]["mean_temperature"] < high]
        cells = " | ".join(_error(inside, number) for number in range(LOADS))
        lines.append(f"| {name} | {len(inside)} | {cells} |")
    lines += ["", "Mean absolute error, and the mean of that load there, in kWh/m2 a year."]
    return "\n".join(lines)


def _error(rows: list[dict[str, Any]], number: int) -> str:
    pairs = [(row["candidate"]["mean"][number], row["truth"][number]) for row in rows]
    known = [(mean, truth) for mean, truth in pairs if truth is not None]
    if not known:
        return "–"
    error = sum(abs(mean - truth) for mean, truth in known) / len(known)
    return f"{error:.1f} of {sum(truth for _, truth in known) / len(known):.1f}"


def worst_table(rows: list[dict[str, Any]]) -> str:
    """The held-out designs with the largest error, and whether their intervals told of it."""

    def error(row: dict[str, Any]) -> float:
        pairs = zip(row["candidate"]["mean"][:LOADS], row["truth"][:LOADS], strict=True)
        return sum(abs(mean - truth) for mean, truth in pairs if truth is not None)

    lines = ["| load | true | predicted | ± | the design |", "|---|---:|---:|---:|---|"]
    for row in sorted(rows, key=error, reverse=True)[:WORST]:
        mean, half_width = row["candidate"]["mean"], row["candidate"]["half_width"]
        known = [n for n in range(LOADS) if row["truth"][n] is not None]
        number = max(known, key=lambda n: abs(mean[n] - row["truth"][n]))
        design = ", ".join(
            f"{name.replace('_', ' ')} {row['design'][name]:.3g}"
            for name in ("mean_temperature", "wall_u", "window_front", "infiltration", "gains")
        )
        lines.append(
            f"| {TARGETS[number].name.replace('_', ' ')} | {row['truth'][number]:.1f} |"
            f" {mean[number]:.1f} | {half_width[number]:.1f} | {design} |"
        )
    return "\n".join(lines)


def told(trained: dict[str, float], metrics: dict[str, float], need: Need) -> str:
    """Why it was trained, from what it went on, and what was exported."""
    begun = f"{trained['warm']:.0f} members went on from the champion" if trained["warm"] else ""
    widths = ", ".join(
        f"{kind.replace('_', ' ')} {trained[f'width_{kind}']:.4f}"
        for kind in ("constant", "ensemble", "mc_dropout")
    )
    fastest = max(trained[f"{kind}_designs_per_second"] for kind in ("fp32", "fp16", "int8"))
    text = (
        f"Retrained because {need.reason}. {begun or 'All members began anew'}; error of the "
        f"members on their left-out folds {trained['fold_error']:.1%}. Where the intervals were "
        f"calibrated, the ensemble errs by {trained['teacher_error']:.1%}, and the network of "
        f"{trained['parameters']:,.0f} parameters that learnt from it, and is exported, by "
        f"{trained['student_error']:.1%}. Half-widths by kind of spread, in deviations of the "
        f"targets, the narrowest being kept: {widths}.\n\n"
        f"ONNX: fp32 {trained['fp32_kb']:.0f} kB, fp16 {trained['fp16_kb']:.0f} kB, int8 "
        f"{trained['int8_kb']:.0f} kB; fp32 differs from torch by "
        f"{trained['fp32_difference']:.1e} deviations at most. The fastest answered "
        f"{fastest / 1e6:.2f} million designs a second where it was trained."
    )
    if "champion_old_error" in metrics:
        text += (
            f"\n\nOn {metrics['old']:.0f} held-out designs of earlier climates the champion errs "
            f"by {metrics['champion_old_error']:.1%}, the candidate by "
            f"{metrics['candidate_old_error']:.1%}."
        )
    if "candidate_real_error" in metrics:
        text += f"\n\nOn observed buildings it errs by {metrics['candidate_real_error']:.1%}."
    if need.drift:
        text += (
            f"\n\nDrift: on the {need.drift['window']:.0f} newest observations the champion erred "
            f"by {need.drift['error_lately']:.3f} deviations, when it was validated by "
            f"{need.drift['error_validated']:.3f} (p = {need.drift['p_value']:.2g})."
        )
    return text


def draw(
    rows: list[dict[str, Any]],
    metrics: dict[str, float],
    progress: list[Progress],
    confidence: float,
    coverage_gap: float,
    path: Path,
) -> None:
    """Parity, coverage, errors and learning curves as a PNG of 1,760 × 1,440 pixels.

    The gate wants the coverage of all values within `coverage_gap` of `confidence`.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(11, 9), dpi=160, layout="constrained")
    ((parity, coverage), (error, learning)) = figure.subplots(2, 2)
    _draw_parity(parity, rows)
    _draw_coverage(coverage, metrics, 100 * confidence, 100 * coverage_gap)
    sides = [("handbook", "#c9cfd6"), ("champion", "#7b8794"), ("candidate", "#1f5fa8")]
    shown = [(side, colour) for side, colour in sides if f"{side}_error" in metrics]
    for offset, (side, colour) in enumerate(shown):
        value = 100 * metrics[f"{side}_error"]
        error.bar(offset, value, 0.6, color=colour)
        error.text(offset, value, f"{value:.1f} %", ha="center", va="bottom")
    error.set_xticks(range(len(shown)), [side for side, _ in shown])
    error.set(ylabel="mean absolute error of the loads, % of mean", title="Held-out error")
    for member in dict.fromkeys(point.message for point in progress):
        points = [p for p in progress if p.message == member and "loss" in p.metrics]
        first = points[0].step if points else 0
        steps = [p.step - first for p in points]
        learning.plot(steps, [p.metrics["loss"] for p in points], lw=1.4, label=member)
    learning.xaxis.set_major_locator(MaxNLocator(integer=True))
    learning.set(
        xlabel="epoch", ylabel="training loss, logarithmic", title="Learning curves", yscale="log"
    )
    learning.legend(frameon=False)
    for axes in (parity, coverage, error, learning):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.2)
        axes.set_axisbelow(True)
    figure.savefig(path)


def _draw_coverage(axes: Any, metrics: dict[str, float], promised: float, allowed: float) -> None:
    """Per cent of each target, and of all values, that lie inside their intervals."""
    shares = {t.name.replace("_", " "): f"candidate_coverage_{t.name}" for t in TARGETS}
    shares["all values"] = "candidate_coverage"
    covered = [100 * metrics[key] for key in shares.values()]
    axes.axvspan(promised - allowed, promised + allowed, color="#2e8b57", alpha=0.2, lw=0)
    axes.axvline(promised, color="#2e8b57", lw=1)
    axes.plot(covered, list(shares), "o", color="#1f5fa8", ms=7)
    axes.invert_yaxis()
    left = max(0.0, min(70, *covered) - 2)
    axes.set(
        xlabel=f"% of held-out values inside the {promised:g} % interval\n"
        f"(band: what the gate wants of all values; the axis begins at {left:.0f} %)",
        title="Do the intervals keep their promise?",
        xlim=(left, 101),
    )


def _draw_parity(axes: Any, rows: list[dict[str, Any]]) -> None:
    """Predicted against true loads, with their intervals."""
    top = 1.0
    for number in range(LOADS):
        known = [row for row in rows if row["truth"][number] is not None]
        truth = [row["truth"][number] for row in known]
        mean = [row["candidate"]["mean"][number] for row in known]
        axes.errorbar(
            truth,
            mean,
            yerr=[row["candidate"]["half_width"][number] for row in known],
            fmt="o",
            ms=2.5,
            lw=0.5,
            alpha=0.45,
            color=COLOURS[number],
            label=TARGETS[number].name.replace("_", " "),
        )
        top = max([top, *truth, *mean])
    axes.plot([0, top], [0, top], color="#222222", lw=0.8)
    axes.set(
        xlabel="true, kWh/m2 a year",
        ylabel="predicted, kWh/m2 a year",
        title="Held-out designs, with intervals",
    )
    axes.legend(frameon=False, markerscale=2)
