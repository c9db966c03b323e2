"""`nightshift models compare`: two versions side by side, as the runs that judged them stored it.

    nightshift models compare mine@champion mine@previous

What both were asked is paired: the difference has an interval. Without that each stands beside its
own gain over the champion of its time, which was told from prompts of its own.
"""

from dataclasses import dataclass
from typing import Any

from deployments.commands.shared import say, tell
from deployments.commands.tables import make_table, show_table
from infra import database
from infra.compute import jobs
from infra.database import Pool
from infra.errors import InputError
from infra.models import registry
from infra.models.registry import ModelVersion
from infra.records import runs
from tasks.champions.candidate import read_lines
from tasks.champions.gate import paired_interval

ANSWERS = 3
MEASURES = ("reward", "success", "length")
Row = dict[str, Any]


@dataclass(frozen=True)
class Side:
    """One of the two: its version, the held-out scores of the run that made it, and its answers by
    their prompts."""

    version: ModelVersion
    scores: list[Row]
    answers: dict[str, Row]

    @property
    def name(self) -> str:
        return f"{self.version.model}@{self.version.version}"


def show(first: str, second: str, as_json: bool) -> None:
    """Compare two versions. Raises InputError where they are of two kinds, or the same."""
    versions = registry.named(first), registry.named(second)
    a, b = (_side(database.pool(), one, versions) for one in versions)
    if a.name == b.name:
        raise InputError(f"SECOND: {first} and {second} are the same version", "Name two.")
    if a.version.kind != b.version.kind:
        kinds = f"{a.name} is a {a.version.kind}, {b.name} a {b.version.kind}"
        raise InputError(f"SECOND: {kinds}", "Name two of a kind.")
    common = [prompt for prompt in a.answers if prompt in b.answers]
    paired = _paired(a, b, common)
    differing = sorted(common, key=lambda one: -abs(_reward(b, one) - _reward(a, one)))[:ANSWERS]
    if as_json:
        answers = [{"prompt": p, "first": a.answers[p], "second": b.answers[p]} for p in differing]
        sides = {
            place: {"version": side.name, "held_out": side.scores}
            for place, side in (("first", a), ("second", b))
        }
        tell(sides | {"prompts": len(common), "paired": paired, "answers": answers})
        return
    _show_scores(a, b)
    _show_paired(a, b, paired, len(common))
    for prompt in differing:
        table = make_table(f"Asked: {prompt}", "", a.name, b.name)
        table.add_row("", _answer(a, prompt), _answer(b, prompt))
        show_table(table)


def _side(pool: Pool, version: ModelVersion, both: tuple[ModelVersion, ...]) -> Side:
    """What is stored of a version: by the run that made it, else by the one that made the other,
    which was judged against it, or stands on it."""
    made = [one for one in (version, *both) if one.flow_run and one.model == version.model]
    known = runs.reports(pool, [str(one.flow_run) for one in made])
    for one in made:
        run = str(one.flow_run)
        report = known.get(run, {})
        if report.get("candidate") == version.version:
            return Side(version, report["scores"], _answers(pool, run, "candidate"))
        if report.get("champion") == version.version:
            return Side(version, [], _answers(pool, run, "champion"))
        if report and version.uri == version.base == one.base:
            return Side(version, [], _answers(pool, run, "base"))
    return Side(version, [], {})


def _answers(pool: Pool, run: str, place: str) -> dict[str, Row]:
    job = jobs.find(pool, f"{run}/validate")
    artifact = job.result.artifacts.get("evaluation") if job and job.result else None
    rows = read_lines(artifact) if artifact else []
    return {row["prompt"]: row[place] for row in rows if "prompt" in row and place in row}


def _paired(a: Side, b: Side, common: list[str]) -> list[Row]:
    """Means of both over the prompts that both were asked, and the interval of the difference."""
    found = []
    for name in MEASURES:
        values = [[side.answers[prompt].get(name) for prompt in common] for side in (a, b)]
        ours, theirs = ([float(one) for one in side if one is not None] for side in values)
        if not len(ours) == len(theirs) == len(common) > 0:
            continue
        gain, low, high = paired_interval(theirs, ours)
        means = {"first": sum(ours) / len(common), "second": sum(theirs) / len(common)}
        found.append({"name": name, **means, "gain": gain, "low": low, "high": high})
    return found


def _show_scores(a: Side, b: Side) -> None:
    if not a.scores and not b.scores:
        return
    title = "Held out, each by its own run: the score, its gain over that run's champion (95 %)"
    table = make_table(title, "measure", a.name, b.name)
    scores = [{one["name"]: one for one in side.scores} for side in (a, b)]
    for name in dict.fromkeys([*scores[0], *scores[1]]):
        table.add_row(name, *(_told(side.get(name)) for side in scores))
    show_table(table)


def _told(score: Row | None) -> str:
    if score is None:
        return "not judged"
    interval = f"{score['low']:+.3g} to {score['high']:+.3g}"
    return f"{score['candidate']:.3g}, {score['gain']:+.3g} ({interval})"


def _show_paired(a: Side, b: Side, paired: list[Row], prompts: int) -> None:
    if not paired:
        say(f"No prompt is stored that both {a.name} and {b.name} have answered.")
        return
    title = f"On the {prompts} prompts that both have answered"
    table = make_table(title, "measure", f">{a.name}", f">{b.name}", ">difference", "95 % interval")
    for one in paired:
        values = (f"{one[key]:.3g}" for key in ("first", "second"))
        interval = f"{one['low']:+.3g} to {one['high']:+.3g}"
        table.add_row(one["name"], *values, f"{one['gain']:+.3g}", interval)
    show_table(table)


def _reward(side: Side, prompt: str) -> float:
    return float(side.answers[prompt]["reward"])


def _answer(side: Side, prompt: str) -> str:
    return f"{side.answers[prompt]['completion']}\n(reward {_reward(side, prompt):.3g})"
