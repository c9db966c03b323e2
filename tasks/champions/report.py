"""The morning's report: Markdown for people, a plot, and the same numbers for scripts."""

from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel

from infra.contract import Progress, Usage
from infra.inert import LOOK_NEXT, code, plain
from infra.models.verdicts import Verdict

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class Cost(BaseModel):
    """What one job cost: wall-clock seconds that were paid, and dollars; and what it used."""

    job: str
    launcher: str
    seconds: float
    usd: Decimal
    usage: Usage | None = None


class Score(BaseModel):
    """Held-out mean of one measure for base, champion and candidate; its paired gain."""

    name: str
    champion: float
    candidate: float
    gain: float
    low: float
    high: float
    base: float | None = None


class Report(BaseModel):
    """All that a person wants to know in the morning."""

    run: str
    model: str
    resumed: bool
    collected: dict[str, int]
    scores: list[Score]
    gained_by_stored: float | None = None
    gained_by_rerolls: float | None = None
    verdict: Verdict
    champion: str
    candidate: str
    served_from: str | None
    not_promoted: str | None = None
    """Why what the gate lets through is not champion: how its rollout ended."""
    files: dict[str, str] = {}
    costs: list[Cost]
    examples: list[tuple[str, str, str]]
    base_name: str = "base"
    """What the scores' base is: the model before all training, or what its field calls another."""
    sections: dict[str, str] = {}
    look_next: dict[str, str]

    @property
    def promoted(self) -> bool:
        """Whether the candidate is the new champion."""
        return self.verdict.promote and self.not_promoted is None

    @property
    def reason(self) -> str:
        """One sentence: what decided."""
        return self.not_promoted or self.verdict.reason

    @property
    def total(self) -> Decimal:
        return sum((cost.usd for cost in self.costs), Decimal(0))

    @property
    def usd_per_point(self) -> Decimal | None:
        """Dollars for 0.01 of held-out reward, None without a sure gain."""
        if self.scores[0].low <= 0:
            return None
        return self.total / (Decimal(str(self.scores[0].gain)) * 100)


def markdown(report: Report) -> str:
    """The report as Markdown."""
    verdict = report.verdict
    head = "**There is no champion yet.**"
    if report.promoted:
        head = f"**Version {report.candidate} is the new champion.**"
    elif report.champion.isdecimal():
        head = f"**Version {report.champion} stays champion.**"
    lines = [
        f"# {report.model}: the night {report.run}",
        "",
        f"{head} {_headline(report)}",
        "",
        "## Held-out results",
        "",
        f"| measure | {report.base_name} | champion "
        f"({_version(report.champion)}) | candidate (v{report.candidate}) | gain | 95 % interval |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for score in report.scores:
        base = "–" if score.base is None else f"{score.base:.3f}"
        lines.append(
            f"| {score.name} | {base} | {score.champion:.3f} | {score.candidate:.3f} |"
            f" {score.gain:+.3f} | {score.low:+.3f} to {score.high:+.3f} |"
        )
    lines += ["", "## The verdict", "", "| | check |", "|---|---|"]
    lines += [
        f"| {'✓' if check.passed else '✗'} | {check.explanation} |" for check in verdict.checks
    ]
    lines += ["", "## What was collected", ""]
    lines += [f"- {count:,} {what}" for what, count in report.collected.items()]
    if report.gained_by_stored is not None and report.gained_by_rerolls is not None:
        lines.append(
            f"- training reward gained on the stored night alone {report.gained_by_stored:+.3f}, "
            f"by fresh rollouts after it {report.gained_by_rerolls:+.3f}"
        )
    lines += [
        "",
        "## What it cost",
        "",
        "| job | where | time | dollars | it used |",
        "|---|---|---:|---:|---|",
    ]
    lines += [
        f"| {cost.job} | {cost.launcher} | {cost.seconds:.0f} s | {cost.usd:.4f} |"
        f" {_used(cost.usage)} |"
        for cost in report.costs
    ]
    lines.append(f"| **all** | | | **{report.total:.4f}** | |")
    per_point, score = report.usd_per_point, report.scores[0]
    if per_point is not None:
        lines += ["", f"One point (0.01) of held-out {score.name} cost **${per_point:.4f}**."]
    elif score.gain > 0:
        lines += ["", "The gain is not sure (its interval contains 0): a point of it has no price."]
    if report.examples:
        lines += ["", "## Answers before and after", ""]
        for prompt, before, after in report.examples:
            lines += [f"- {code(prompt)}", f"  - before: {code(before)}"]
            lines += [f"  - after: {code(after)}"]
    for title, text in report.sections.items():
        lines += ["", f"## {title}", "", text]
    lines += ["", LOOK_NEXT, ""]
    lines += [f"- {what}: {code(where)}" for what, where in report.look_next.items()]
    return "\n".join(lines) + "\n"


def _used(usage: Usage | None) -> str:
    """Of a job's last attempt."""
    if usage is None:
        return ""
    text = f"{usage.cores:.1f} cores, {usage.memory_gb:.1f} GB at its peak"
    if usage.gpu_memory_gb:
        text += f"; GPUs {usage.gpu_busy:.0%} busy, {usage.gpu_memory_gb:.1f} GB at their peak"
    return text


def _version(champion: str) -> str:
    """What stands in for the champion of a first version has a name, no number."""
    return f"v{champion}" if champion.isdecimal() else champion


def _headline(report: Report) -> str:
    score = report.scores[0]
    text = (
        f"Held-out {score.name} went from {score.champion:.3f} to {score.candidate:.3f} "
        f"({score.gain:+.3f}, 95 % interval {score.low:+.3f} to {score.high:+.3f}) "
        f"for ${report.total:.4f}."
    )
    if not report.verdict.promote:
        reasons = [check.explanation for check in report.verdict.checks if not check.passed]
        text += f" Why not: {'; '.join(reasons)}."
    elif report.not_promoted:
        text += f" The gate lets it through, but it is {plain(report.not_promoted)}."
    return text


Drawn = tuple[str, str]
"""A metric of the learning curve, and what its axis says."""
REWARD: Drawn = ("reward", "mean training reward")
KL: Drawn = ("kl", "KL to the base, nats a completion")


def draw(
    report: Report, curve: Sequence[Progress], path: Path, main: Drawn = REWARD, second: Drawn = KL
) -> None:
    """Draw the learning curve and the held-out comparison as a PNG of 1,600 × 720 pixels."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(10, 4.5), dpi=160, layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[2, 1])
    points = [p for p in curve if main[0] in p.metrics]
    steps = [p.step for p in points]
    left.plot(steps, [p.metrics[main[0]] for p in points], color="#1f5fa8", lw=2, label=main[0])
    left.set(xlabel="iteration", title="Learning curve")
    left.xaxis.set_major_locator(MaxNLocator(integer=True))
    left.grid(alpha=0.25)
    if any(second[0] in p.metrics for p in points):
        beside = left.twinx()
        beside.plot(
            steps,
            [p.metrics.get(second[0], float("nan")) for p in points],
            color="#c2702c",
            lw=1.2,
            ls="--",
        )
        if second is KL:
            beside.set_ylim(bottom=0)
        beside.set_ylabel(_axis(beside, second[1]), color="#c2702c")
    left.set_ylabel(_axis(left, main[1]))
    positions = range(len(report.scores))
    for offset, side, colour in ((-0.2, "champion", "#7b8794"), (0.2, "candidate", "#1f5fa8")):
        values = [getattr(score, side) for score in report.scores]
        bars = right.bar([p + offset for p in positions], values, 0.38, color=colour, label=side)
        right.bar_label(bars, fmt="%.2f", label_type="center", color="white", size=8)
    right.errorbar(
        [p + 0.2 for p in positions],
        [score.candidate for score in report.scores],
        yerr=[
            [score.gain - score.low for score in report.scores],
            [score.high - score.gain for score in report.scores],
        ],
        fmt="none",
        ecolor="#222222",
        capsize=4,
        label="95 % of the gain",
    )
    bases = [(p, score.base) for p, score in enumerate(report.scores) if score.base is not None]
    if bases:
        ends = [p for p, _ in bases]
        right.hlines(
            [base for _, base in bases],
            [p - 0.42 for p in ends],
            [p + 0.42 for p in ends],
            color="#c2702c",
            ls=":",
            label="base model",
        )
    right.axhline(0, color="#222222", lw=0.8)
    right.set_xticks(
        list(positions), [score.name.replace(" by ", "\nby ") for score in report.scores], size=8
    )
    right.set(title="Held-out, before and after")
    right.margins(y=0.1)
    right.legend(frameon=False, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.1), fontsize=8)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)


def _axis(axes: "Axes", label: str) -> str:
    """The label of the y axis, which says so where the axis is cut."""
    low, high = axes.get_ylim()
    return label if low <= 0 <= high else f"{label}\n(the axis does not begin at 0)"
