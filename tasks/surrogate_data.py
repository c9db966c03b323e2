"""What a surrogate is given: the user's files, checked, and the observations stored so far."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from pydantic import BaseModel

from infra import database, objects, observations, runs
from infra.errors import InputError
from jobs.contract import Artifact, JobResult, Resources
from jobs.surrogate.config import CollectConfig
from jobs.surrogate.weather import read_epw
from tasks import observations as buffer
from tasks import plan, readings
from tasks.inputs import store
from tasks.preferences import end_with_notice, local
from tasks.report import Notice
from tasks.run import Work
from tasks.surrogate_parameters import ObservationParameters, SurrogateParameters

ENVIRONMENT = "surrogate"
CHECKING = Resources(cpus=1, memory_gb=2)


class Given(BaseModel):
    """The stored files of a run."""

    weather: Artifact | None = None
    observations: Artifact | None = None
    readings: Artifact | None = None

    @property
    def checksums(self) -> dict[str, str]:
        """Name → sha256: what makes two starts the same run."""
        return {n: v.sha256 for n, v in dict(self).items() if v is not None}


class Observed(BaseModel):
    """The buffer as this run sees it: `artifact` is None where there are too few to learn from."""

    until: int
    count: int
    artifact: Artifact | None


@task(name="prepare inputs", cache_policy=NO_CACHE)
def prepare_inputs(parameters: SurrogateParameters) -> Given:
    """Check that what the user named is there and store it; nothing is spent."""
    weather = stored_weather(parameters.weather)
    files = stored_observations(parameters.observations, parameters.minimum_observations)
    return Given(weather=weather, observations=files)


@task(name="prepare observations", cache_policy=NO_CACHE)
def prepare_observations(parameters: ObservationParameters) -> Given:
    """The files that the user named, or without any the years that sensors have completed."""
    if parameters.observations is None:
        return Given(readings=readings.store_years(database.pool(), parameters.name))
    return Given(observations=stored_observations(parameters.observations, 1))


def stored_weather(given: str | None) -> Artifact | None:
    """The user's EPW file, checked and stored; None where none was given.

    Raises InputError that names the file and its line.
    """
    if given is None:
        return None
    path = Path(given).expanduser()
    try:
        read_epw(path)
    except InputError as error:
        raise InputError(f"--weather: {error.message}", error.remedy) from error
    return store(path, "weather")


def stored_observations(given: str | None, fewest: int) -> Artifact | None:
    """The user's folder of building-years, stored; None where none was given.

    Raises InputError where it holds fewer than `fewest`.
    """
    if given is None:
        return None
    folder = Path(given).expanduser()
    files = [*folder.glob("*.csv"), *folder.glob("*.parquet")] if folder.is_dir() else []
    if not files:
        raise InputError(
            f"--observations: {folder} is no folder with CSV or Parquet files",
            "Give a folder of them, one measured building-year each.",
        )
    if len(files) < fewest:
        raise InputError(
            f"--observations: {folder} holds {len(files)} observations, too few to learn from",
            f"Give at least {fewest}, none, or a smaller --minimum-observations.",
        )
    return store(folder, "observations")


def _checked(work: Work, files: Artifact) -> list[dict[str, float]]:
    """The rows of the user's files, which are checked where they lie, in seconds."""
    return read_lines(_collect(work, {"files": files.uri}).artifacts["observations"])


def _collect(work: Work, inputs: dict[str, str]) -> JobResult:
    return local(work).job(
        "collect",
        "surrogate.collect",
        CollectConfig(),
        inputs,
        work.parameters.data_hours,
        CHECKING,
        ENVIRONMENT,
    )


@task(name="collect", cache_policy=NO_CACHE)
def collect_observations(work: Work, given: Given) -> Observed:
    """Check the files, store what they hold, and fix which observations this run learns from."""
    parameters: SurrogateParameters = work.parameters
    if given.observations is not None:  # no event: this run learns from them
        rows = _checked(work, given.observations)
        observations.add(work.pool, parameters.name, rows)
    until = observations.newest(work.pool, parameters.name)
    until = runs.pin(work.pool, work.run, "observations_until", until)
    count = observations.count(work.pool, parameters.name, 0, until)
    enough = count >= parameters.minimum_observations
    artifact = exported(work, "observations", 0, until) if enough else None
    return Observed(until=until, count=count, artifact=artifact)


@task(name="store observations", cache_policy=NO_CACHE)
def store_observations(work: Work, given: Given) -> Notice:
    """Check files or readings and store what they hold for a later retraining."""
    name = work.parameters.name
    refused: list[str] = []
    if given.observations is not None:
        rows = _checked(work, given.observations)
        checked, new = len(rows), buffer.take(work.pool, name, rows)
    elif given.readings is not None:
        result = _collect(work, {"readings": given.readings.uri})
        verdicts = read_lines(result.artifacts["verdicts"])
        checked = len(verdicts)
        new, refused = readings.keep(work.pool, name, verdicts)
    else:
        text = f"# {name}: observations\n\nNo building has a complete year of readings.\n"
        return end_with_notice(work, text, nothing=True)
    total = observations.count(work.pool, name, 0, observations.newest(work.pool, name))
    text = (
        f"# {name}: observations\n\n{checked} building-years were checked, {new} of them are "
        f"new. {total} are stored.\n\n`nightshift run surrogate-retraining --name {name}` learns "
        "from them.\n"
    )
    if refused:
        text += "\n## Refused\n\n" + "".join(f"- {line}\n" for line in refused)
    return end_with_notice(work, text)


def exported(work: Work, name: str, after: int, until: int, most: int | None = None) -> Artifact:
    """Stored observations as an artefact of this run."""
    uri = f"{work.uri}/{name}"
    if not objects.exists(uri):
        path = work.folder / f"{name}.jsonl"
        observations.export(work.pool, work.parameters.name, path, after, until, most)
        objects.put(path, uri)
    return objects.describe(uri)


def read_lines(artifact: Artifact) -> list[dict[str, Any]]:
    """The rows of an artefact of JSON lines, verified."""
    with TemporaryDirectory() as scratch:
        path = objects.get(artifact.uri, Path(scratch) / "lines", artifact.sha256)
        return [json.loads(line) for line in path.read_text().splitlines()]


def plan_collecting(parameters: ObservationParameters) -> list[plan.Step]:
    """The one job of collecting."""
    return [plan.step("collect", ENVIRONMENT, CHECKING, parameters.data_hours, "local")]
