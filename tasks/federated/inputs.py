"""The tenants' folders, looked at where they lie: nothing of them is copied or stored."""

import csv
from collections import Counter
from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE
from pydantic import BaseModel

from infra.errors import InputError
from infra.objects.manifest import scan
from infra.settings import settings
from jobs.federated.config import DATA, HELD_OUT_COLUMN, MOST_TENANTS, TEXTS
from jobs.federated.door import NAME
from tasks.federated.demo import make_tenants, make_workshops
from tasks.federated.federations import open_for_run
from tasks.federated.parameters import FederatedParameters
from tasks.policy.design import DEMO, design_version
from tasks.policy.inputs import Inputs, store_model


class Given(BaseModel):
    """The tenants of a run: their folder, their names, and the columns that most of them have.

    Those of a federation come to its `door` at `address`, and their columns are not known. With a
    `language` model they have texts.
    """

    folder: str = ""
    door: str | None = None
    address: str | None = None
    names: list[str]
    features: list[str]
    language: Inputs | None = None
    checksums: dict[str, str]
    """Of each tenant's file: what makes two starts the same run."""


@task(name="prepare inputs", cache_policy=NO_CACHE)
def prepare_inputs(parameters: FederatedParameters) -> Given:
    """Find the tenants and read the first line of their files; nothing is spent.

    What is wrong with the rows of one tenant is no error: its node says it, and the others go on.
    """
    if parameters.model:
        return _with_texts(parameters, parameters.model)
    if parameters.federation:
        return _of_federation(parameters, parameters.federation)
    given = parameters.tenants
    folder = Path(given).expanduser() if given else make_tenants(settings().home / "clinics")
    names = _tenants(folder, DATA, parameters.rounds.minimum_tenants)
    headers = {name: _header(folder / name / DATA) for name in names}
    target, option = parameters.learnt_from, "--group" if parameters.group else "--label"
    features = parameters.columns or common_features(headers, target, option)
    able = [name for name in names if {*features, target} <= headers[name]]
    fewest = parameters.rounds.minimum_tenants
    if len(able) < fewest:
        raise InputError(
            f"{option}, --features: {len(able)} of {len(names)} tenants have the columns "
            f"{', '.join([*features, target])}",
            f"Name columns that at least {fewest} of them have.",
        )
    checksums = {name: scan(folder / name / DATA).sha256 for name in names}
    return Given(folder=str(folder.resolve()), names=names, features=features, checksums=checksums)


def _with_texts(parameters: FederatedParameters, model: str) -> Given:
    """Tenants that train an adapter of a language model."""
    if parameters.federation:
        found = _of_federation(parameters, parameters.federation)
        language = Inputs(base=store_model(model))
        return found.model_copy(update={"language": language, "checksums": language.checksums})
    given = parameters.tenants
    folder = Path(given).expanduser() if given else make_workshops(settings().home / "workshops")
    names = _tenants(folder, TEXTS, parameters.rounds.minimum_tenants)
    own = model == DEMO
    language = Inputs(design=design_version()) if own else Inputs(base=store_model(model))
    checksums = {name: scan(folder / name / TEXTS).sha256 for name in names}
    return Given(
        folder=str(folder.resolve()),
        names=names,
        features=[],
        language=language,
        checksums=checksums | language.checksums,
    )


def _tenants(folder: Path, file: str, fewest: int) -> list[str]:
    """Names of the folders that have such a file. Raises InputError."""
    if not folder.is_dir():
        raise InputError(
            f"--tenants: {folder} is no folder",
            f"Give a folder with one folder of each tenant, and {file} in it.",
        )
    names = sorted(path.parent.name for path in folder.glob(f"*/{file}") if path.is_file())
    wrong = [name for name in names if not NAME.fullmatch(name)]
    if wrong:
        raise InputError(
            f"--tenants: {wrong[0]!r} is no name of a tenant",
            "Name its folder with letters, digits, '-', '_' and '.', 64 at most.",
        )
    if not fewest <= len(names) <= MOST_TENANTS:
        raise InputError(
            f"--tenants: {folder} has {len(names)} folders with {file}, {fewest} to {MOST_TENANTS} "
            "can train together",
            "Give more tenants, or allow fewer with --minimum-tenants.",
        )
    return names


def _of_federation(parameters: FederatedParameters, name: str) -> Given:
    """Tenants that are, or may come, in a federation; nothing is known of their data."""
    federation, names = open_for_run(name, parameters.rounds.minimum_tenants)
    return Given(
        door=str(federation.door.folder),
        address=federation.address,
        names=names,
        features=parameters.columns,
        checksums={},
    )


def common_features(
    headers: dict[str, set[str]], target: str, option: str = "--label"
) -> list[str]:
    """The columns that most tenants have, by name; of two that are as frequent, the larger set.

    Raises InputError, which names the `option`, where nobody has the column `target`.
    """
    sets = Counter(
        frozenset(header - {target, HELD_OUT_COLUMN})
        for header in headers.values()
        if target in header
    )
    most = max(sets, key=lambda each: (sets[each], len(each), sorted(each)), default=frozenset())
    if not most:
        raise InputError(
            f"{option}: no tenant has a column {target!r} and others to learn it from",
            f"Name the column with {option}.",
        )
    return sorted(most)


def _header(path: Path) -> set[str]:
    """The names of its columns; none where it cannot be read."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            return {name.strip() for name in next(csv.reader(stream), [])}
    except (OSError, UnicodeDecodeError, csv.Error):
        return set()
