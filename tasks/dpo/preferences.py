"""From feedback to a dataset of preferences: chosen once for a run, checked before any cost."""

import json
import re
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from prefect import task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE

from infra import objects
from infra.contract import Artifact, Resources, Stored
from infra.errors import InputError, ObjectNotFound
from infra.inert import code
from infra.records import feedback, runs
from infra.settings import settings
from jobs.dpo.config import BuildConfig
from jobs.dpo.data import check_file
from tasks.dpo.parameters import PreferenceParameters
from tasks.policy.inputs import function_spec, store_function
from tasks.runs.given import store, stored_once
from tasks.runs.notice import Notice, end_with_notice
from tasks.runs.plan import Step
from tasks.runs.run import Work

BUILD = Step[Any](
    "preferences",
    "dpo.build",
    "train",
    lambda p: p.data_hours,
    Resources(cpus=1, memory_gb=4),
    here=True,
)


HUB = re.compile(r"[\w.\-]+/[\w.\-]+(:[\w.\-]+)?")
FILES = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".gz", ".zst", ".txt")


@task(name="check dataset", cache_policy=NO_CACHE)
def given_dataset(parameters: PreferenceParameters) -> dict[str, Artifact]:
    """What the user gave, checked and stored: `dataset` (made before) or `pairs`, and `scrub`."""
    found = {"scrub": store_function("--scrub", _scrub(parameters))}
    if parameters.dataset is not None and hub_id(parameters) is None:
        stored = _stored(parameters.dataset, parameters.pairs.map)
        with TemporaryDirectory() as scratch:
            copy = objects.get(stored.uri, Path(scratch) / "dataset")
            if copy.is_dir():
                _check_made(copy, parameters.dataset)
                if parameters.pairs.map:
                    raise InputError(
                        "--map: the fields of a dataset that was made before are known",
                        "Leave --map out, or give --dataset the file that it was made from.",
                    )
                found["dataset"] = stored
            else:
                check_file(copy, "--dataset", parameters.pairs.map)
                found["pairs"] = stored
    return {name: artifact for name, artifact in found.items() if artifact is not None}


def hub_id(parameters: PreferenceParameters) -> str | None:
    """The dataset of the hub that `--dataset` names, where it is no file, folder or URI."""
    dataset = parameters.dataset
    if dataset is None or Path(dataset).expanduser().exists() or dataset.endswith(FILES):
        return None
    return dataset if HUB.fullmatch(dataset) else None


def choose_feedback(work: Work[Any]) -> dict[str, Artifact]:
    """The feedback that this run takes, fixed at its first start; empty where there is none."""
    parameters: PreferenceParameters = work.parameters
    if parameters.dataset is not None:
        return {}
    until = datetime.fromisoformat(
        runs.pin(work.pool, work.run, "now", datetime.now(UTC).isoformat())
    )
    window = (parameters.name, until - parameters.since, until)
    if not feedback.count(work.pool, *window):
        return {}

    def write() -> Path:
        path = work.folder / "feedback.jsonl.gz"
        feedback.export(work.pool, *window, path)
        return path

    return {"feedback": stored_once(work, "feedback", write)}


@task(name="build preferences", cache_policy=NO_CACHE)
def build_dataset(
    work: Work[Any], given: dict[str, Artifact], more: dict[str, Stored] | None = None
) -> Artifact | None:
    """The dataset of this run, None where there is nothing to learn; its card is an artifact.

    It is made on this machine, where the data lies. `more` are further inputs of the job.
    """
    parameters: PreferenceParameters = work.parameters
    dataset = given.get("dataset")
    if dataset is None:
        inputs = {**given, **choose_feedback(work), **(more or {})}
        hub = hub_id(parameters)
        if hub is None and not set(inputs) & {"pairs", "feedback", "trajectories"}:
            return None
        choice = parameters.pairs.model_copy(
            update={"scrub": function_spec(parameters.pairs.scrub, given.get("scrub"))}
        )
        result = work.job(BUILD, BuildConfig(**choice.model_dump(), hub=hub), inputs)
        dataset = result.artifacts["dataset"]
    create_markdown_artifact(
        key="data-card", markdown=read_card(dataset)[1], description="The pairs of this run"
    )
    return dataset


def read_card(dataset: Artifact) -> tuple[dict[str, Any], str]:
    """The data card of a dataset, as values and as Markdown."""
    with TemporaryDirectory() as scratch:
        folder = objects.get(dataset.uri, Path(scratch) / "dataset", dataset.sha256)
        return json.loads((folder / "card.json").read_text()), (folder / "card.md").read_text(
            "utf-8"
        )


def nothing_to_learn(work: Work[Any]) -> Notice:
    """End a run for which nobody left feedback: no error, no cost."""
    parameters: PreferenceParameters = work.parameters
    text = (
        f"# {parameters.name}: nothing to learn\n\n"
        f"Nobody left feedback on {parameters.name} in the last {parameters.feedback_since}. "
        "Nothing ran, nothing was spent.\n"
    )
    return end_with_notice(work, text, nothing=True)


def publish_dataset(work: Work[Any], dataset: Artifact) -> Notice:
    """End a run that made a dataset only."""
    card = read_card(dataset)[1]
    version = (
        f"\n## Version\n\n{code(dataset.uri)}, {dataset.bytes:,} bytes, "
        f"sha256 `{dataset.sha256}`\n\n"
        f"{code(f'nightshift run dpo-training --dataset {dataset.uri}')} trains on it.\n"
    )
    return end_with_notice(work, card + version, dataset=dataset)


def _scrub(parameters: PreferenceParameters) -> str | None:
    return None if parameters.pairs.scrub == "none" else parameters.pairs.scrub


def _stored(dataset: str, mapping: dict[str, str] | None) -> Artifact:
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
        check_file(path, "--dataset", mapping)
    return store(path, "preferences")


def _check_made(folder: Path, name: str) -> None:
    for part in ("card.json", "card.md", "train.parquet", "held_out.parquet", "prompts.jsonl"):
        if not (folder / part).is_file():
            raise InputError(
                f"--dataset: {name} is a folder without {part}",
                f"Give a dataset that build-preferences made (see {settings().objects_uri}), or a "
                "file of pairs or feedback.",
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
