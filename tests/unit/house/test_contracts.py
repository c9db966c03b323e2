"""Each import contract of pyproject.toml holds, and is broken by an import that it forbids."""

from collections.abc import Iterator
from copy import deepcopy

import grimp
import pytest
from importlinter.api import read_configuration
from importlinter.application.use_cases import _register_contract_types
from importlinter.application.user_options import UserOptions
from importlinter.domain.contract import registry

from infra.settings import REPOSITORY

OPTIONS = read_configuration(str(REPOSITORY / "pyproject.toml"))
SESSION = OPTIONS["session_options"]
CONTRACTS = {one["name"]: one for one in OPTIONS["contracts_options"]}
PLANTED = {
    "Arrows run one way: deployments, flows, tasks, infra": ("infra.keeper", "tasks.runs.launch"),
    "Tasks are wings: no capability imports another": ("tasks.dpo.steps", "tasks.ppo.steps"),
    "Jobs are wings: no capability imports another": ("jobs.policy.model", "jobs.ppo.config"),
    "No circles": ("tasks.runs.purse", "tasks.runs.run"),
    "Jobs know of ours the contract, the errors, inert text and the objects, and no Prefect": (
        "jobs.runtime",
        "infra.settings",
    ),
    "Infra knows no job and no Prefect": ("infra.ledger", "jobs.ppo.config"),
    "Doors and flows reach jobs through tasks only": ("deployments.options", "jobs.dpo.data"),
    "The control plane holds no torch, nor what needs it": ("tasks.ppo.steps", "jobs.ppo.train"),
}


@pytest.fixture(scope="module")
def graph() -> Iterator[grimp.ImportGraph]:
    _register_contract_types(UserOptions(session_options=SESSION, contracts_options=[]))
    yield grimp.build_graph(*SESSION["root_packages"], include_external_packages=True)


def holds(name: str, graph: grimp.ImportGraph) -> bool:
    options = {key: value for key, value in CONTRACTS[name].items() if key not in ("name", "type")}
    kind = registry.get_contract_class(CONTRACTS[name]["type"])
    return kind(name, SESSION, options).check(deepcopy(graph), verbose=False).kept


def test_every_contract_is_tried() -> None:
    assert set(PLANTED) == set(CONTRACTS)


@pytest.mark.parametrize("name", CONTRACTS)
def test_a_contract_holds_until_it_is_broken(name: str, graph: grimp.ImportGraph) -> None:
    assert holds(name, graph)
    broken = deepcopy(graph)
    importer, imported = PLANTED[name]
    assert {importer, imported} <= broken.modules, "a planted import names what is there"
    broken.add_import(importer=importer, imported=imported)
    assert not holds(name, broken)


def test_a_new_wing_is_guarded_without_a_line(graph: grimp.ImportGraph) -> None:
    grown = deepcopy(graph)
    for module in ("tasks.fresh", "tasks.fresh.steps"):
        grown.add_module(module)
    grown.add_import(importer="tasks.fresh.steps", imported="tasks.dpo.steps")
    assert not holds("Tasks are wings: no capability imports another", grown)


def test_jobs_are_kept_from_all_of_infra_but_what_travels(graph: grimp.ImportGraph) -> None:
    """What a job may import is what a rented machine gets."""
    contract = CONTRACTS[next(name for name in CONTRACTS if name.startswith("Jobs know"))]
    named = {one for one in contract["forbidden_modules"] if one.startswith("infra.")}
    travels = {"contract", "errors", "inert", "objects", "environments"}
    assert named == graph.find_children("infra") - {f"infra.{name}" for name in travels}
