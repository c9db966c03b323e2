"""`nightshift models export`: a version as a folder that other programs take.

    nightshift models export mine@champion ./mine

A policy is merged with its base, by a program in the environment `train`; `--adapter` keeps the two
apart. Any other model is the artefact that was stored.
"""

import json
import os
import subprocess
import tempfile
from pathlib import Path

from deployments.commands.shared import say, tell
from infra import objects
from infra.compute import environments
from infra.errors import InputError, JobFailed, StorageFull
from infra.models import registry
from infra.settings import REPOSITORY


def export(reference: str, folder: Path, adapter: bool, as_json: bool) -> None:
    """Write a version into `folder`, which is there whole or not at all.

    Raises InputError for a folder that is not new, and for a version of which nothing is stored.
    """
    version = registry.named(reference)
    if folder.exists():
        raise InputError(f"FOLDER: {folder} is there already", "Name a new one.")
    is_adapter = version.kind == "policy" and version.uri != version.base
    if adapter and not is_adapter:
        raise InputError(f"--adapter: {reference} has none", "Leave it out.")
    if not version.sha256:
        raise InputError(
            f"MODEL: {reference} is {version.uri} of the Hugging Face hub, as it was",
            "Take it from there.",
        )
    with _beside(folder) as scratch:
        stored = objects.get(version.uri, Path(scratch) / "stored", version.sha256)
        if is_adapter and not adapter:
            stored = _merged(stored, Path(scratch))
        stored.rename(folder)
    what = "the adapter" if adapter else "the merged model" if is_adapter else "the model"
    if as_json:
        tell({"model": version.model, "version": version.version, "what": what} | _where(folder))
    else:
        say(f"{folder} holds {what} of {version.model}, version {version.version}.")


def _beside(folder: Path) -> "tempfile.TemporaryDirectory[str]":
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        return tempfile.TemporaryDirectory(dir=folder.parent, prefix=".export-")
    except OSError as error:
        said = f"FOLDER: {folder.parent}: {error.strerror}"
        raise StorageFull(said, "Name another place.") from None


def _where(folder: Path) -> dict[str, str]:
    return {"folder": str(folder.resolve())}


def _merged(candidate: Path, scratch: Path) -> Path:
    """The folder of the merged model; its base is the one that the adapter was trained on."""
    base = json.loads((candidate / "base.json").read_text())
    given = []
    if base["sha256"]:
        found = objects.get(base["uri"], scratch / "base", base["sha256"])
        given = ["--base", str(found)]
    say("merging the adapter into its base ...", err=True)
    python = environments.ensure("train")
    output = scratch / "merged"
    done = subprocess.run(
        [str(python), "-m", "jobs.policy.export", "--candidate", str(candidate)]
        + ["--output", str(output), *given],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no message"]
        why = next((line[2:] for line in lines if line.startswith("✗")), lines[-1])
        raise JobFailed(f"merging failed: {why}", "--adapter exports it unmerged.")
    return output
