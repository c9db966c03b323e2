"""The report of federated rounds: each tenant before and after, who took part, what it spent."""

from pathlib import Path
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from infra.contract import JobResult
from infra.inert import plain
from infra.models.registry import ModelVersion
from infra.models.verdicts import Verdict
from jobs.federated.config import Privacy
from tasks.champions.candidate import read_lines
from tasks.champions.gate import exact_share
from tasks.champions.publish import costs, finish
from tasks.champions.report import Report, Score
from tasks.federated.gate import (
    ACCURACY,
    LOCAL,
    RECALL,
    Measure,
    gain_of,
    judged_rows,
    measure_of,
    outcomes,
)
from tasks.federated.parameters import FederatedParameters
from tasks.runs.run import Work

LOCAL_ONLY = "local only"
"""The field's name of the models that tenants train alone."""
UNITS = {"tenant": "the tenant", "record": "each record"}
SIDES = {
    LOCAL: (LOCAL_ONLY, "#c9cfd6"),
    "champion": ("champion", "#7b8794"),
    "candidate": ("federated", "#1f5fa8"),
    "centralised": ("centralised", "#c2702c"),
}


@task(name="report", cache_policy=NO_CACHE)
def publish_rounds(
    work: Work[FederatedParameters],
    champion: ModelVersion | None,
    candidate: ModelVersion,
    trained: JobResult,
    verdict: Verdict,
    served: str | None,
) -> Report:
    """Write the report and its plots, show them in the Prefect UI, and close the run."""
    judged = judged_rows(trained)
    unheard = [row for row in read_lines(trained.artifacts["evaluation"]) if "refused" in row]
    log = read_lines(trained.artifacts["rounds"])
    spent = read_lines(trained.artifacts["privacy"])
    metrics, other = trained.metrics, "champion" if champion else LOCAL
    measure = measure_of(work.parameters)
    files = {
        "markdown": str(work.folder / "report.md"),
        "plot": str(work.folder / "federation.png"),
    }
    report = Report(
        run=work.run.id,
        model=candidate.model,
        resumed=work.run.resumed,
        collected={
            "tenants that trained": int(metrics["tenants"]),
            "tenants that judged": len(judged),
            "rounds": int(metrics["rounds"]),
            f"{measure.rows} judged": int(sum(row["held-out"] for row in judged)),
        },
        scores=[score(judged, other, measure)],
        verdict=verdict,
        base_name=LOCAL_ONLY,
        champion=champion.version if champion else LOCAL_ONLY,
        candidate=candidate.version,
        served_from=served,
        costs=costs(work),
        examples=[],
        sections={
            "By tenant": tenants_table(judged, unheard, measure),
            "Who took part": rounds_table(log, measure),
            "Privacy": "\n\n".join(
                [seen(metrics, work.parameters), privacy_told(spent, log, work.parameters)]
            ),
            "How it was trained": told(metrics, work.parameters),
        },
        look_next={
            "this report": files["markdown"],
            "the plots": files["plot"],
            "the same again": work.same_again,
            "all versions": f"nightshift models list {candidate.model}",
            "the training log": f"nightshift jobs logs {work.run.id}/train",
            "what may be spent today": "nightshift budget show",
        },
        files=files,
    )
    draw(log, judged, Path(files["plot"]), measure)
    return finish(work, report, "federated-report", "federated-plots")


def score(rows: list[dict[str, Any]], other: str, measure: Measure = ACCURACY) -> Score:
    """The share of all held-out rows that are right, the local-only models being the base."""
    ours, theirs = outcomes(rows, other)
    (gain, low, high), _ = gain_of(rows, other)
    alone = outcomes(rows, LOCAL)[1]
    ours_mean, theirs_mean, base = (sum(each) / len(each) for each in (ours, theirs, alone))
    return Score(
        name=measure.name,
        base=base,
        champion=theirs_mean,
        candidate=ours_mean,
        gain=gain,
        low=low,
        high=high,
    )


def sides_of(rows: list[dict[str, Any]]) -> list[str]:
    """The models that the tenants have judged, in the order of SIDES."""
    return [side for side in SIDES if f"{side}-right" in rows[0]]


def tenants_table(
    rows: list[dict[str, Any]], unheard: list[dict[str, Any]], measure: Measure = ACCURACY
) -> str:
    """The share that is right, and the second score, of each tenant by model."""
    sides, key = sides_of(rows), measure.key
    names = [SIDES[side][0] for side in sides]
    has_second = any(f"{side}-{key}" in row for row in rows for side in sides)
    columns = [*names, *(f"{measure.second} {name}" for name in names if has_second)]
    lines = [
        f"| tenant | {measure.rows} | {' | '.join(columns)} |",
        "|---|" + "---:|" * (1 + len(columns)),
    ]
    for row in rows:
        shares = [f"{row[f'{side}-right'] / row['held-out']:.3f}" for side in sides]
        second = [
            f"{row[f'{side}-{key}']:.3f}" if f"{side}-{key}" in row else "–" for side in sides
        ]
        cells = [row["tenant"], f"{row['held-out']:.0f}", *shares, *(second if has_second else [])]
        lines.append(f"| {' | '.join(cells)} |")
    means = [sum(row[f"{side}-right"] / row["held-out"] for row in rows) for side in sides]
    cells = [f"{value / len(rows):.3f}" for value in means] + [""] * (len(columns) - len(sides))
    lines.append(f"| **mean of tenants** | | {' | '.join(cells)} |")
    if measure is RECALL:
        lines.append(_of_all_queries(rows, sides))
    lines += [""] + [
        f"- {row['tenant']} has not judged: {plain(row['refused'])}" for row in unheard
    ]
    return "\n".join(lines).rstrip()


def _of_all_queries(rows: list[dict[str, Any]], sides: list[str]) -> str:
    """The last line: recall at 1 and at 5 by model over the queries of all tenants."""
    total = sum(row["held-out"] for row in rows)
    ones = [sum(row[f"{side}-right"] for row in rows) for side in sides]
    fives = [sum(row[f"{side}-{RECALL.key}"] * row["held-out"] for row in rows) for side in sides]
    cells = " | ".join(f"{value / total:.3f}" for value in (*ones, *fives))
    return f"| **all queries** | {total:.0f} | {cells} |"


def rounds_table(log: list[dict[str, Any]], measure: Measure = ACCURACY) -> str:
    """Each round: how good the model was that it began with, seconds, who was left out and why."""
    lines = [
        f"| round | {measure.name} before, 95 % | took part | seconds | left out |",
        "|---:|---|---:|---:|---|",
    ]
    for row in log:
        share, low, high = accuracy(row)
        why = "; ".join(f"{name}: {plain(reason)}" for name, reason in row["left_out"].items())
        lines.append(
            f"| {row['round']} | {share:.3f} ({low:.3f} to {high:.3f}) | {len(row['took_part'])} |"
            f" {row['seconds']:.1f} | {why or '–'} |"
        )
    return "\n".join(lines)


def accuracy(row: dict[str, Any]) -> tuple[float, float, float]:
    """The share of held-out rows that are right over those who took part, and its exact interval,
    as if each row stood by itself."""
    right = int(sum(counts["right"] for counts in row["counts"].values()))
    total = int(sum(counts["held-out"] for counts in row["counts"].values()))
    return right / total, *exact_share(right, total)


def by_name(rows: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """The candidate's counts by tenant."""
    return {
        row["tenant"]: {"right": row["candidate-right"], "held-out": row["held-out"]}
        for row in rows
    }


def seen(metrics: dict[str, float], parameters: FederatedParameters) -> str:
    """What left the tenants' nodes, and how exact a sum of masked updates is."""
    if not parameters.rounds.secure_aggregation:
        return (
            "Weights, and counts of held-out rows, left the tenants' nodes; rows and values of "
            "theirs did not. The server saw each tenant's own (`--secure-aggregation`)."
        )
    reach, step = metrics["clipping_range"], metrics["quantisation_step"]
    return (
        "By secure aggregation (SecAgg+) the server got masked updates and counts, and could read "
        f"their sum only, over {parameters.rounds.minimum_tenants} tenants or more. Updates were "
        f"quantised from −{reach:g} to {reach:g} in steps of {step:.2g}: their mean is off by less "
        "than one step. What does not fit is refused by its own node, or clipped where noise was "
        "asked for. The counts by tenant above are of the last judgement, which is not summed."
    )


def privacy_told(
    spent: list[dict[str, Any]], log: list[dict[str, Any]], parameters: FederatedParameters
) -> str:
    """What was spent by tenant, or that the updates have no noise."""
    asked = parameters.privacy
    if not asked.noise_multiplier:
        return "No differential privacy was asked for (`--noise-multiplier`)."
    lines = [
        f"| tenant | rounds | epsilon of {UNITS[asked.privacy_unit]} so far | of |",
        "|---|---:|---:|---:|",
    ]
    lines += [
        f"| {row['tenant']} | {row['rounds']} | {row['epsilon']:.2f} | {asked.max_epsilon:g} |"
        for row in spent
    ]
    if len(log) < parameters.rounds.rounds:
        lines += [
            "",
            f"It ended after {len(log)} of {parameters.rounds.rounds} rounds: too few tenants had "
            "privacy left for another.",
        ]
    lines += ["", _of_records(parameters) if asked.of_records else _of_tenants(log, asked)]
    return "\n".join(lines)


def _of_tenants(log: list[dict[str, Any]], asked: Privacy) -> str:
    norm = f"{asked.clipping_norm:g}"
    if asked.adaptive_clipping:
        norm += f" at first and {log[-1]['clipping_norm']:.3g} at last, which followed their median"
    return (
        f"Central differential privacy of whole tenants at δ = {asked.delta:g}, over all nights: "
        f"updates clipped to a norm of {norm}, noise of "
        f"{asked.noise_multiplier:g} times that on their sum. The counts of held-out rows have no "
        "noise and are not covered."
    )


def _of_records(parameters: FederatedParameters) -> str:
    asked, steps = parameters.privacy, parameters.rounds.local_steps
    rate = asked.sampling_rate
    drawn = "all rows" if rate == 1 else f"rows that are each drawn with probability {rate:g}"
    return (
        "Local differential privacy of single records, not of whole tenants, at δ = "
        f"{asked.delta:g}, over all nights, against whoever sees an update, the server too: in "
        f"each of {steps} steps a round, gradients of {drawn}, clipped to a norm of "
        f"{asked.clipping_norm:g}, and noise of {asked.noise_multiplier:g} times that on their "
        "sum. Not covered: how many rows a tenant has, that a node refuses its data, the counts of "
        "held-out rows, and own intercepts, which stay where they are."
    )


def told(metrics: dict[str, float], parameters: FederatedParameters) -> str:
    """Strategy, time and bytes."""
    rounds = parameters.rounds
    if parameters.model:
        model = f"a LoRA adapter of rank {parameters.adapters.lora_rank}"
    elif parameters.group:
        size = f"of {rounds.hidden} hidden units" if rounds.hidden else "without hidden units"
        model = f"an encoder {size} to {parameters.encoders.dimensions} dimensions"
    elif rounds.hidden:
        model = f"a network of {rounds.hidden} hidden units"
    else:
        model = "logistic regression"
    kilobytes = [metrics[f"bytes_{way}_tenants"] / 1024 for way in ("to", "from")]
    return (
        f"By {rounds.strategy}, {model}, {rounds.local_steps} local steps a round; a round took "
        f"{metrics['round_seconds']:.1f} s. Since its last start the SuperLink sent "
        f"{kilobytes[0]:.0f} kB to the tenants and got {kilobytes[1]:.0f} kB from them. An update "
        f"with a norm above {rounds.norm_bound:g} is refused."
    )


def draw(
    log: list[dict[str, Any]], rows: list[dict[str, Any]], path: Path, measure: Measure = ACCURACY
) -> None:
    """The share that is right by round with its interval, and each tenant by model, as a PNG of
    1,760 × 720."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(11, 4.5), dpi=160, layout="constrained")
    left, right = figure.subplots(1, 2)
    curve = [*(accuracy(row) for row in log), accuracy({"counts": by_name(rows)})]
    numbers = [*(row["round"] - 1 for row in log), log[-1]["round"]]
    left.fill_between(
        numbers, [c[1] for c in curve], [c[2] for c in curve], color="#1f5fa8", alpha=0.2, lw=0
    )
    left.plot(numbers, [c[0] for c in curve], "o-", color="#1f5fa8", ms=4)
    left.xaxis.set_major_locator(MaxNLocator(integer=True))
    left.set(
        xlabel="finished rounds",
        ylabel=f"held-out {measure.name} of all who took part",
        title="Global model, with 95 % interval",
    )
    sides = sides_of(rows)
    width = 0.8 / len(sides)
    for number, side in enumerate(sides):
        name, colour = SIDES[side]
        places = [place + (number - (len(sides) - 1) / 2) * width for place in range(len(rows))]
        shares = [row[f"{side}-right"] / row["held-out"] for row in rows]
        right.bar(places, shares, width, color=colour, label=name)
    right.set_xticks(range(len(rows)), [row["tenant"] for row in rows])
    right.set(ylabel=f"held-out {measure.name}", ylim=(0, 1.15), title="Each tenant")
    right.legend(frameon=False, ncols=len(sides), loc="upper center")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.2)
        axes.set_axisbelow(True)
    figure.savefig(path)
