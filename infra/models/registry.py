"""Model versions and their aliases, in MLflow's registry on our PostgreSQL; no MLflow server.

Aliases: `champion` serves, `previous` is what it replaced, `challenger` waits for its verdict.
"""

import json
from typing import TYPE_CHECKING, Any, Self

from pydantic import BaseModel, ConfigDict

from infra import database
from infra.errors import InputError
from infra.models import verdicts
from infra.models.connection import client as _client

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion as Stored


class ModelVersion(BaseModel):
    """One registered version. `kind` says what can be done with it, e.g. 'policy'. `uri` and
    `sha256` name its artefact, `base` the artefact that an adapter stands on (the version's own for
    a base model), `parent` the version it grew from."""

    model_config = ConfigDict(frozen=True, protected_namespaces=())

    model: str
    kind: str
    version: str
    uri: str
    sha256: str
    base: str
    metrics: dict[str, float] = {}
    parent: str | None = None
    flow_run: str | None = None
    data: str | None = None
    aliases: list[str] = []

    @classmethod
    def stored(cls, fields: dict[str, Any]) -> Self:
        """From what was stored. Until November 2026 that was no kind, and only surrogates were
        exported to ONNX."""
        kind = "surrogate" if "fp32_kb" in fields["metrics"] else "policy"
        return cls.model_validate({"kind": kind} | fields)

    def label(self, model: str) -> str:
        """Its version, after its model's name where that is not `model`."""
        return self.version if self.model == model else f"{self.model} {self.version}"

    def require_kind(self, kind: str, remedy: str, option: str = "--name") -> None:
        """Raises InputError where it is another kind of model than its name was taken for."""
        if self.kind != kind:
            raise InputError(f"{option}: {self.model!r} is a {self.kind}, no {kind}", remedy)


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


def champion(model: str, kind: str, command: str, option: str = "--name") -> ModelVersion:
    """The champion of `model`. Raises InputError where it is of another kind than `kind`, or there
    is none: `command` is what would make one."""
    found = by_alias(model, "champion")
    if found is None:
        raise no_champion(model, command, option)
    found.require_kind(kind, "`nightshift models list` shows what there is.", option)
    return found


def no_champion(model: str, command: str, option: str = "--name") -> InputError:
    """What to say where `model`, which `option` names, has no champion."""
    return InputError(f"{option}: {model!r} has no champion", f"Make one with `{command}`.")


def named(reference: str) -> ModelVersion:
    """The version that NAME, NAME@ALIAS or NAME@NUMBER names; of NAME alone the champion.

    Raises InputError that tells which there are.
    """
    model, _, wanted = reference.partition("@")
    known = versions(model)
    if not known:
        raise InputError(f"there is no model {model!r}", "`nightshift models list` shows them.")
    for version in known:
        if (wanted or "champion") in (version.version, *version.aliases):
            return version
    there = ", ".join(dict.fromkeys(a for one in known for a in [*one.aliases, one.version]))
    raise InputError(
        f"{model} has no {wanted or 'champion'!r}", f"Name one as {model}@…; there are {there}."
    )


def promote(model: str, version: str) -> None:
    """Make `version` the champion and the old champion `previous`.

    Raises GateError unless a stored verdict allows it. Safe to repeat after a crash.
    """
    verdicts.require(database.pool(), model, version)
    _move_champion(model, version)


def challenge(version: ModelVersion) -> ModelVersion:
    """Let `version` be the challenger of its model; the version."""
    _client().set_registered_model_alias(version.model, "challenger", version.version)
    return version


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
    challenger = by_alias(model, "challenger")
    if challenger is not None and challenger.version == version:
        _client().delete_registered_model_alias(model, "challenger")


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
    fields |= {"model": stored.name, "version": number, "aliases": (aliases or {}).get(number, [])}
    return ModelVersion.stored(fields)


def _checked(model: str) -> str:
    if not model.replace("-", "").replace("_", "").replace(".", "").isalnum():
        raise InputError(
            f"{model!r} is no model name", "Use letters, digits, '-', '_' and '.' for --name."
        )
    return model
