"""The steps of the benchmarks: find the revisions, measure the suites, judge, tell."""

import json
import zlib
from decimal import Decimal
from pathlib import Path
from uuid import NAMESPACE_URL, uuid5

import yaml
from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.events import emit_event

from infra import database, ledger, objects
from infra.contract import JobResult, Resources
from infra.errors import BudgetExceeded, InputError, Regressed
from infra.records import benchmarks as records
from infra.records.benchmarks import Sample
from infra.settings import REPOSITORY
from jobs.benchmarks.config import BenchmarkConfig
from tasks.benchmarks import quality, report, revisions
from tasks.benchmarks.parameters import MEASURED, BenchmarkParameters, Suite
from tasks.benchmarks.quality import Quality
from tasks.benchmarks.results import Row, Target, row
from tasks.benchmarks.revisions import Revisions
from tasks.runs.notice import Notice, end_with_notice
from tasks.runs.plan import Step, plan
from tasks.runs.run import Work

EVENT = "benchmark.regressed"
TARGETS = REPOSITORY / "benchmarks" / "targets.yaml"


def _step(suite: Suite, environment: str) -> Step[BenchmarkParameters]:
    return Step(
        suite,
        "benchmarks.run",
        environment,
        lambda p: p.hours,
        Resources(cpus=1, memory_gb=8 if suite == "serving" else 4),
        here=True,
        sandboxed=False,
        planned=lambda p: suite in p.suites,
    )


JOBS: dict[Suite, Step[BenchmarkParameters]] = {
    suite: _step(suite, environment) for suite, environment in MEASURED.items()
}
STEPS = tuple(JOBS.values())


@task(name="find revisions", cache_policy=NO_CACHE)
def find_revisions(parameters: BenchmarkParameters) -> Revisions:
    """What `--against` means; nothing is spent. Raises InputError, for a --max-cost too small for
    the suites too."""
    needed = sum((one.usd_a_window for one in plan(STEPS, parameters)), Decimal(0))
    if needed > parameters.max_cost:
        raise InputError(
            f"--max-cost: the suites may cost ${needed:f}, and ${parameters.max_cost:f} is given",
            "Give more, a smaller --suite or fewer --hours.",
        )
    last = records.last_revision(database.pool(), list(parameters.suites))
    return revisions.find(parameters.against, last)


@task(name="ask for room", cache_policy=NO_CACHE)
def require_room(work: Work[BenchmarkParameters]) -> None:
    """Raises BudgetExceeded before anything is measured where a budget has no room for all suites.

    A run that is taken up has reserved a part of it.
    """
    if work.run.resumed:
        return
    needed = sum((one.usd_a_window for one in plan(STEPS, work.parameters)), Decimal(0))
    for budget in ledger.budgets(work.pool):
        if budget.scope in work.purse.scopes and budget.remaining < needed:
            raise BudgetExceeded(
                f"the suites may cost ${needed:f}, and the budget {budget.scope} a {budget.period}"
                f" has ${budget.remaining:f} left; nothing was measured",
                "Raise it (`nightshift budget set`), or give fewer --hours or a smaller --suite.",
            )


@task(name="measure", cache_policy=NO_CACHE)
def measure_suites(work: Work[BenchmarkParameters], given: Revisions) -> list[Row]:
    """A row for each figure of the suites that a job measures."""
    rows: list[Row] = []
    with revisions.trees(given, work.folder / "then") as trees:
        for suite, step in JOBS.items():
            if not step.planned(work.parameters):
                continue
            session = f"{work.run.id}/{suite}"
            records.begin(work.pool, session, work.run.id, suite, given.now, given.then)
            config = BenchmarkConfig(
                suite=suite,
                trees=trees,
                rounds=work.parameters.rounds,
                least_effect=work.parameters.least_effect,
                seed=zlib.crc32(session.encode()),
            )
            result = work.job(step, config, {})
            rows += keep(work, suite, session, result)
    return rows


def keep(
    work: Work[BenchmarkParameters], suite: Suite, session: str, result: JobResult
) -> list[Row]:
    """Store the raw samples of a job that has ended, and say what they say."""
    artifact = result.artifacts["samples"]
    folder = objects.get(artifact.uri, work.folder / suite, artifact.sha256)
    told = json.loads((folder / "session.json").read_text())
    counted = {name: known["attempt"] for name, known in told["figures"].items()}
    lines = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    samples = [Sample.model_validate(line) for line in lines]
    records.complete(
        work.pool,
        session,
        told["key"],
        told["environment"],
        [(one, counted.get(one.figure) == one.attempt) for one in samples],
    )
    sessions = records.measured(work.pool, suite)
    return [
        row(
            suite,
            known,
            sessions,
            session,
            records.raw(work.pool, session, name),
            targets().get(name),
            work.parameters.least_effect,
        )
        for name, known in told["figures"].items()
    ]


def targets(path: Path = TARGETS) -> dict[str, Target]:
    """What every figure is to reach, by its name."""
    return {
        name: Target(capability=capability, **given)
        for capability, named in yaml.safe_load(path.read_text()).items()
        for name, given in named.items()
    }


@task(name="read champions", cache_policy=NO_CACHE)
def read_champions(work: Work[BenchmarkParameters]) -> list[Quality]:
    """How good every champion is, where that is asked for."""
    return quality.champions(work.pool) if "evaluation" in work.parameters.suites else []


@task(name="report", cache_policy=NO_CACHE)
def publish(
    work: Work[BenchmarkParameters],
    given: Revisions,
    rows: list[Row],
    champions: list[Quality],
) -> Notice:
    """The table and the plots, for people and in the Prefect UI; closes the run."""
    for one in rows:
        if one.regressed:
            _announce(work, one)
    plots = report.draw(rows, work.folder)
    machines = report.machines(work.folder, work.parameters.suites)
    text = report.markdown(work.parameters, given, rows, champions, machines)
    (work.folder / "report.json").write_text(
        json.dumps([one.model_dump(mode="json") for one in rows], indent=1), "utf-8"
    )
    return end_with_notice(work, text, plots=plots)


def end(parameters: BenchmarkParameters, rows: list[Row], notice: Notice) -> None:
    """Raises Regressed where that was asked for."""
    worse = [one for one in rows if one.regressed]
    if worse and parameters.fail_on_regression:
        raise Regressed(
            "; ".join(report.sentence(one) for one in worse),
            f"{notice.files['markdown']} has the whole table.",
        )


def _announce(work: Work[BenchmarkParameters], one: Row) -> None:
    """Emit the event, once for a run."""
    emit_event(
        EVENT,
        resource={"prefect.resource.id": f"nightshift.benchmark.{one.suite}.{one.figure}"},
        payload={
            "figure": one.figure,
            "suite": one.suite,
            "run": work.run.id,
            "told": report.sentence(one),
        },
        id=uuid5(NAMESPACE_URL, f"nightshift:{EVENT}:{work.run.id}:{one.figure}"),
    )
