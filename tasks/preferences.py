"""From feedback to a dataset of preferences: chosen once for a run, checked before any cost."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from prefect import task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE

from infra import feedback, objects, runs
from infra.errors import InputError, ObjectNotFound
from infra.settings import settings
from jobs.contract import Artifact, Resources
from jobs.dpo.config import BuildConfig
from jobs.dpo.data import check_file
from tasks import plan
from tasks.artifacts import show
from tasks.dpo_parameters import PreferenceParameters
from tasks.inputs import function_spec, store, store_function
from tasks.report import Notice
from tasks.run import Work

BUILDING = Resources(cpus=1, memory_gb=4)


@task(name="check dataset", cache_policy=NO_CACHE)
def given_dataset(parameters: PreferenceParameters) -> dict[str, Artifact]:
    """What the user gave, checked and stored: `dataset` (made before) or `pairs`, and `scrub`."""
    found = {"scrub": store_function("--scrub", _scrub(parameters))}
    if parameters.dataset is not None:
        stored = _stored(parameters.dataset)
        with TemporaryDirectory() as scratch:
            copy = objects.get(stored.uri, Path(scratch) / "dataset")
            if copy.is_dir():
                _check_made(copy, parameters.dataset)
                found["dataset"] = stored
            else:
                check_file(copy, "--dataset")
                found["pairs"] = stored
    return {name: artifact for name, artifact in found.items() if artifact is not None}


def choose_feedback(work: Work, given: dict[str, Artifact]) -> dict[str, Artifact]:
    """The feedback that this run takes, fixed at its first start; empty where there is none."""
    parameters: PreferenceParameters = work.parameters
    if "dataset" in given or "pairs" in given:
        return {}
    until = datetime.fromisoformat(
        runs.pin(work.pool, work.run, "now", datetime.now(UTC).isoformat())
    )
    window = (parameters.name, until - parameters.since, until)
    if not feedback.count(work.pool, *window):
        return {}
    uri = f"{work.uri}/feedback"
    if not objects.exists(uri):
        path = work.folder / "feedback.jsonl.gz"
        feedback.export(work.pool, *window, path)
        objects.put(path, uri)
    return {"feedback": objects.describe(uri)}


@task(name="build preferences", cache_policy=NO_CACHE)
def build_dataset(
    work: Work, given: dict[str, Artifact], more: dict[str, str] | None = None
) -> Artifact | None:
    """The dataset of this run, None where there is nothing to learn; its card is an artifact.

    It is made on this machine, where the data lies. `more` are further inputs of the job.
    """
    parameters: PreferenceParameters = work.parameters
    dataset = given.get("dataset")
    if dataset is None:
        sources = {**given, **choose_feedback(work, given)}
        inputs = {name: artifact.uri for name, artifact in sources.items()} | (more or {})
        if not set(inputs) & {"pairs", "feedback", "trajectories"}:
            return None
        choice = parameters.pairs.model_copy(
            update={"scrub": function_spec(parameters.pairs.scrub, given.get("scrub"))}
        )
        result = local(work).job(
            "preferences",
            "dpo.build",
            BuildConfig(**choice.model_dump()),
            inputs,
            parameters.data_hours,
            BUILDING,
        )
        dataset = result.artifacts["dataset"]
    create_markdown_artifact(
        key="data-card", markdown=read_card(dataset)[1], description="The pairs of this run"
    )
    return dataset


def local(work: Work) -> Work:
    """The same work, on this machine: nothing is rented for what takes seconds."""
    return replace(work, purse=replace(work.purse, target="local"))


def read_card(dataset: Artifact) -> tuple[dict[str, Any], str]:
    """The data card of a dataset, as values and as Markdown."""
    with TemporaryDirectory() as scratch:
        folder = objects.get(dataset.uri, Path(scratch) / "dataset", dataset.sha256)
        return json.loads((folder / "card.json").read_text()), (folder / "card.md").read_text()


def nothing_to_learn(work: Work) -> Notice:
    """End a run for which nobody left feedback: no error, no cost."""
    parameters: PreferenceParameters = work.parameters
    text = (
        f"# {parameters.name}: nothing to learn\n\n"
        f"Nobody left feedback on {parameters.name} in the last {parameters.feedback_since}. "
        "Nothing ran, nothing was spent.\n"
    )
    return end_with_notice(work, text, nothing=True)


def publish_dataset(work: Work, dataset: Artifact) -> Notice:
    """End a run that made a dataset only."""
    card = read_card(dataset)[1]
    version = (
        f"\n## Version\n\n`{dataset.uri}`, {dataset.bytes:,} bytes, sha256 `{dataset.sha256}`\n\n"
        f"`nightshift run dpo-training --dataset {dataset.uri}` trains on it.\n"
    )
    return end_with_notice(work, card + version, dataset=dataset)


def end_with_notice(
    work: Work,
    text: str,
    dataset: Artifact | None = None,
    plots: dict[str, Path] | None = None,
    nothing: bool = False,
) -> Notice:
    """End a run that trained no model, with a Markdown text and PNG `plots` for people."""
    path = work.folder / "report.md"
    path.write_text(text)
    notice = Notice(
        run=work.run.id,
        model=work.parameters.name,
        resumed=work.run.resumed,
        nothing_to_learn=nothing,
        dataset=dataset,
        files={"markdown": str(path)} | {name: str(file) for name, file in (plots or {}).items()},
    )
    show(work.run.flow, text, plots or {})
    runs.end(work.pool, work.run, "finished", notice.model_dump(mode="json"))
    return notice


def plan_dataset(parameters: PreferenceParameters) -> list[plan.Step]:
    """The one job of making a dataset, with its price at most."""
    return [plan.step("preferences", "train", BUILDING, parameters.data_hours, "local")]


def _scrub(parameters: PreferenceParameters) -> str | None:
    return None if parameters.pairs.scrub == "none" else parameters.pairs.scrub


def _stored(dataset: str) -> Artifact:
    if "://" in dataset:
        try:
            return objects.describe(dataset)
        except (InputError, ObjectNotFound) as error:
            raise InputError(
                f"--dataset: {error.message}",
                "Give an existing file or folder, or a URI that build-preferences ended with.",
            ) from None
    path = Path(dataset).expanduser()
    if not path.exists():
        raise InputError(
            f"--dataset: there is no {dataset}", "Give an existing file, folder or artefact URI."
        )
    if path.is_dir():
        _check_made(path, dataset)
    else:
        check_file(path, "--dataset")
    return store(path, "preferences")


def _check_made(folder: Path, name: str) -> None:
    for part in ("card.json", "card.md", "train.parquet", "held_out.parquet", "prompts.jsonl"):
        if not (folder / part).is_file():
            raise InputError(
                f"--dataset: {name} is a folder without {part}",
                f"Give a dataset that build-preferences made (see {settings().objects_uri}), or a "
                "file of JSON lines.",
            )
    try:
        whole = "simulated" in json.loads((folder / "card.json").read_text())
    except (ValueError, TypeError):
        whole = False
    if not whole:
        raise InputError(
            f"--dataset: card.json of {name} is not what build-preferences wrote",
            "Make the dataset anew with build-preferences.",
        )
