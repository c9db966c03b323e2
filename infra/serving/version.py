"""The version that is to be served, fetched and verified."""

from pathlib import Path

from infra import objects
from infra.errors import InputError
from infra.models import registry
from infra.models.registry import ModelVersion
from infra.settings import settings

KIND = "policy"
QUANTISED = "quantised"
"""A whole model, which a quantisation made of a policy."""


def wanted(reference: str) -> ModelVersion:
    """The version that NAME@VERSION names; of NAME alone the champion.

    Raises InputError where there is none, or it is neither a policy nor quantised.
    """
    if "@" not in reference:
        return champion(reference)
    found = registry.named(reference)
    if found.kind != QUANTISED:
        found.require_kind(KIND, "`nightshift models list` shows what there is.")
    return found


def champion(name: str) -> ModelVersion:
    """The champion of `name`. Raises InputError where there is none, or it is no policy."""
    command = f"nightshift run nightly-ppo --name {name} --model FOLDER"
    return registry.champion(name, KIND, command)


def fetched(version: ModelVersion) -> dict[str, str | None]:
    """`version` as an order's `live`, its files on this disk.

    Raises InputError for a base that is none of a language model, and the errors of `objects.get`.
    """
    base = _base(version)
    adapter = None
    if version.uri != version.base:
        adapter = _copy(version.uri, version.sha256) / "adapter"
        if not (adapter / "adapter_config.json").is_file():
            raise InputError(
                f"version {version.version} of {version.model} holds no adapter",
                "Roll back, or promote a version that a training flow made.",
            )
    return {
        "version": version.version,
        "sha256": version.sha256,
        "base": base,
        "adapter": adapter and str(adapter),
    }


def _base(version: ModelVersion) -> str:
    """The folder of the base's weights, or its hub id."""
    if "://" not in version.base:
        return version.base
    folder = _copy(version.base, objects.describe(version.base).sha256)
    for needed in ("config.json", "tokenizer_config.json"):
        if not (folder / needed).is_file():
            raise InputError(
                f"the base of {version.model} cannot be served: it has no {needed}",
                "Give the training flow a --model that save_pretrained() wrote, tokenizer too.",
            )
    return str(folder)


def _copy(uri: str, sha256: str) -> Path:
    """A verified copy; one that was altered since it was made is made again."""
    folder = settings().home / "served" / sha256[:16]
    folder.parent.mkdir(parents=True, exist_ok=True)
    return objects.get(uri, folder, sha256)
