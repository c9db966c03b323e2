"""Model versions and their aliases, in MLflow's registry on our PostgreSQL; no MLflow server.

Aliases: `champion` serves, `previous` is what it replaced, `challenger` waits for its verdict.
"""

import json
import os
from functools import cache
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from infra import database, verdicts
from infra.errors import GateError, InputError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion as Stored


class ModelVersion(BaseModel):
    """One registered version. `uri` and `sha256` name its artefact, `base` the artefact that an
    adapter stands on (the version's own for a base model), `parent` the version it grew from."""

    model_config = ConfigDict(frozen=True, protected_namespaces=())

    model: str
    version: str
    uri: str
    sha256: str
    base: str
    metrics: dict[str, float] = {}
    parent: str | None = None
    flow_run: str | None = None
    data: str | None = None
    aliases: list[str] = []


@cache
def _client() -> "MlflowClient":
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    database.ensure_database("mlflow")
    from mlflow import MlflowClient

    address = database.url("mlflow", "psycopg")
    return MlflowClient(tracking_uri=address, registry_uri=address)


def register(run_id: str, version: ModelVersion) -> ModelVersion:
    """Register `version` (its number is given here); once for a run, however often called."""
    from mlflow.exceptions import MlflowException

    client = _client()
    try:
        client.create_registered_model(version.model)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    same = (run_id, version.sha256, version.base)  # a hub id has no sha256
    for known in versions(version.model):
        if (known.flow_run, known.sha256, known.base) == same:
            return known
    fields = version.model_dump(exclude={"model", "version", "aliases"}) | {"flow_run": run_id}
    stored = client.create_model_version(
        version.model,
        source=version.uri,
        tags={name: json.dumps(value) for name, value in fields.items()},
    )
    return _read(stored)


def versions(model: str) -> list[ModelVersion]:
    """All versions of `model`, newest first; empty when there is none."""
    found = _client().search_model_versions(f"name = '{_checked(model)}'")
    aliases = _aliases(model)
    return sorted(
        (_read(stored, aliases) for stored in found), key=lambda v: int(v.version), reverse=True
    )


def models() -> list[str]:
    """Names of all registered models."""
    return sorted(model.name for model in _client().search_registered_models())


def by_alias(model: str, alias: str) -> ModelVersion | None:
    """The version that carries `alias`, if there is one."""
    return next((v for v in versions(model) if alias in v.aliases), None)


def promote(model: str, version: str) -> None:
    """Make `version` the champion and the old champion `previous`.

    Raises GateError unless a stored verdict allows it. Safe to repeat after a crash.
    """
    if not verdicts.allows(database.pool(), model, version):
        raise GateError(
            f"no stored verdict lets version {version} of {model} be champion",
            "Let a flow judge it: a version is promoted only with a verdict that says so.",
        )
    _move_champion(model, version)


def rollback(model: str) -> ModelVersion:
    """Make `previous` the champion again; the version that it replaces becomes `previous`."""
    previous = by_alias(model, "previous")
    if previous is None:
        raise InputError(
            f"{model} has no previous champion", "`nightshift models list` shows what there is."
        )
    _move_champion(model, previous.version)
    return previous


def _move_champion(model: str, version: str) -> None:
    champion = by_alias(model, "champion")
    if champion is not None and champion.version != version:
        _client().set_registered_model_alias(model, "previous", champion.version)
    _client().set_registered_model_alias(model, "champion", version)


def _aliases(model: str) -> dict[str, list[str]]:
    """Aliases by version number."""
    from mlflow.exceptions import MlflowException

    try:
        named = _client().get_registered_model(_checked(model)).aliases
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return {}
    by_version: dict[str, list[str]] = {}
    for alias, version in sorted(named.items()):
        by_version.setdefault(str(version), []).append(alias)
    return by_version


def _read(stored: "Stored", aliases: dict[str, list[str]] | None = None) -> ModelVersion:
    fields = {name: json.loads(value) for name, value in stored.tags.items()}
    number = str(stored.version)
    return ModelVersion(
        model=stored.name, version=number, aliases=(aliases or {}).get(number, []), **fields
    )


def _checked(model: str) -> str:
    if not model.replace("-", "").replace("_", "").replace(".", "").isalnum():
        raise InputError(
            f"{model!r} is no model name", "Use letters, digits, '-', '_' and '.' for --name."
        )
    return model
