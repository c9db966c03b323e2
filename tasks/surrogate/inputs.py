"""What a surrogate is given: the user's files, checked, and the observations stored so far."""

from pathlib import Path
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from pydantic import BaseModel

from infra import database
from infra.contract import Artifact, JobResult, Resources, Stored
from infra.errors import InputError
from infra.inert import plain
from infra.models import registry
from infra.records import observations, runs
from jobs.surrogate.config import CollectConfig
from jobs.thermal.weather import epw_files, read_epw
from tasks.champions.candidate import read_lines
from tasks.runs.given import store, stored_once
from tasks.runs.notice import Notice, end_with_notice
from tasks.runs.plan import Step
from tasks.runs.run import Work
from tasks.surrogate import KIND, readings
from tasks.surrogate import observations as buffer
from tasks.surrogate.parameters import ObservationParameters, SurrogateParameters

ENVIRONMENT = "surrogate"
CHECKING = Resources(cpus=1, memory_gb=2)
COLLECT = Step[Any](
    "collect", "surrogate.collect", ENVIRONMENT, lambda p: p.data_hours, CHECKING, here=True
)


class Given(BaseModel):
    """The stored files of a run."""

    weather: Artifact | None = None
    towns: Artifact | None = None
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
    require_town(parameters)
    weather = stored_weather(parameters.weather)
    towns = stored_towns(parameters.towns, parameters.weather)
    files = stored_observations(parameters.observations, parameters.minimum_observations)
    return Given(weather=weather, towns=towns, observations=files)


def require_town(parameters: SurrogateParameters) -> None:
    """Raises InputError where a town's model has no weather, or nothing that it is made of."""
    name = parameters.town_of
    if name is None:
        return
    if parameters.weather is None:
        raise InputError("--town-of needs a --weather", "Name the EPW file of the town.")
    if name == parameters.name:
        raise InputError(
            f"--town-of {name} is the --name too", "Take another --name for the town's model."
        )
    command = f"nightshift run surrogate-retraining --name {name}"
    registry.champion(name, KIND, command, "--town-of")


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


def stored_towns(given: str | None, weather: str | None) -> Artifact | None:
    """The user's folder of EPW files to judge in, checked and stored; None where none was given.

    Raises InputError that names the file and its line, and for one that is `weather`, too.
    """
    if given is None:
        return None
    folder = Path(given).expanduser()
    files = epw_files(folder) if folder.is_dir() else []
    if not files:
        raise InputError(
            f"--towns: {folder} is no folder with EPW files",
            "Give a folder of *.epw files, one town each.",
        )
    trained_on = Path(weather).expanduser().read_bytes() if weather else None
    for path in files:
        try:
            read_epw(path)
        except InputError as error:
            raise InputError(f"--towns: {error.message}", error.remedy) from error
        if path.read_bytes() == trained_on:
            raise InputError(
                f"--towns: {path.name} is the file of --weather, which is trained on",
                "Take it out of that folder: nothing is judged on what was trained on.",
            )
    return store(folder, "towns")


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


def _checked(work: Work[Any], files: Artifact) -> list[dict[str, float]]:
    """The rows of the user's files, which are checked where they lie, in seconds."""
    return read_lines(_collect(work, {"files": files}).artifacts["observations"])


def _collect(work: Work[Any], inputs: dict[str, Stored]) -> JobResult:
    return work.job(COLLECT, CollectConfig(), inputs)


@task(name="collect", cache_policy=NO_CACHE)
def collect_observations(work: Work[Any], given: Given) -> Observed:
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
def store_observations(work: Work[Any], given: Given) -> Notice:
    """Check files or readings and store what they hold for a later retraining."""
    name = work.parameters.name
    refused: list[str] = []
    if given.observations is not None:
        rows = _checked(work, given.observations)
        checked, new = len(rows), buffer.store(work.pool, name, rows)
    elif given.readings is not None:
        result = _collect(work, {"readings": given.readings})
        verdicts = read_lines(result.artifacts["verdicts"])
        checked = len(verdicts)
        new, refused = readings.store_verdicts(work.pool, name, verdicts)
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
        text += "\n## Refused\n\n" + "".join(f"- {plain(line)}\n" for line in refused)
    return end_with_notice(work, text)


def exported(
    work: Work[Any], name: str, after: int, until: int, most: int | None = None
) -> Artifact:
    """Stored observations as an artefact of this run."""

    def write() -> Path:
        path = work.folder / f"{name}.jsonl"
        observations.export(work.pool, work.parameters.name, path, after, until, most)
        return path

    return stored_once(work, name, write)
