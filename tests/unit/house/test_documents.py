"""Docs, presets, deployments and `--help` agree with the code."""

import importlib
import json
import re
from collections.abc import Iterator
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import chain
from pathlib import Path
from typing import Any, get_args
from uuid import uuid4
from zoneinfo import ZoneInfo

import click
import pytest
import yaml
from click.testing import CliRunner
from cronsim import CronSim
from prefect.utilities.callables import parameter_schema
from pydantic_core import to_jsonable_python

from deployments import reference
from deployments.catalogue import (
    PRESETS,
    capability,
    flow_function,
    flow_names,
    load_preset,
    parameter_model,
    preset_names,
)
from deployments.cli import INTERRUPTED, UNAVAILABLE, cli
from deployments.server import automations, schedules
from infra import errors
from infra.services.prefect_server import POOL
from infra.settings import REPOSITORY, Settings
from tasks import federated, policy, surrogate
from tasks.benchmarks import steps as benchmarks
from tasks.dpo import feedback
from tasks.guard import steps as guard
from tasks.runs.crashed import hold_lock
from tasks.surrogate import observations, readings
from tests.helpers.notebook import NOTEBOOK, notebook_cells

DEPLOYMENTS = yaml.safe_load((REPOSITORY / "prefect.yaml").read_text())["deployments"]
DOCS = REPOSITORY / "docs"
README = (REPOSITORY / "README.md").read_text()
PAGES = [*sorted(REPOSITORY.glob("*.md")), *sorted(DOCS.rglob("*.md"))]


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=lambda d: d["name"])
def test_every_deployment_names_a_flow_and_fits_its_parameters(deployment) -> None:
    path, function = deployment["entrypoint"].split(":")
    module = importlib.import_module(path.removesuffix(".py").replace("/", "."))
    flow = getattr(module, function)
    assert deployment["description"]
    flow.validate_parameters(deployment.get("parameters", {"parameters": {}}))


def test_every_flow_has_a_deployment() -> None:
    entrypoints = {deployment["entrypoint"].split(":")[1] for deployment in DEPLOYMENTS}
    assert {name.replace("-", "_") for name in flow_names()} == entrypoints


SCHEDULES = [
    pytest.param(deployment, schedule, id=f"{deployment['name']} {number}")
    for deployment in DEPLOYMENTS
    for number, schedule in enumerate(deployment.get("schedules", []))
]


@pytest.mark.parametrize(("deployment", "schedule"), SCHEDULES)
def test_every_schedule_has_dates_in_its_own_time_and_is_off_if_it_costs(
    deployment: dict, schedule: dict
) -> None:
    assert schedule["active"] is (deployment["name"] == "cost-guard"), "the guard launches nothing"
    if cron := schedule.get("cron"):
        zone = ZoneInfo(schedule["timezone"])
        dates = CronSim(cron, datetime(2026, 2, 27, tzinfo=zone))
        times = [next(dates) for _ in range(3)]
        assert timedelta(0) < times[1] - times[0] <= timedelta(days=31)
    else:
        assert schedule["interval"] >= 60
    flow = flow_function(deployment["name"])
    given = deployment["parameters"] | schedule.get("parameters", {})
    flow.validate_parameters(given)


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=lambda d: d["name"])
def test_every_deployment_tells_what_it_is(deployment: dict) -> None:
    assert deployment["name"] == deployment["entrypoint"].split(":")[1].replace("_", "-")
    assert len(deployment["description"].split()) > 8 and deployment["tags"]
    assert deployment["work_pool"] == {"name": POOL}
    assert "triggers" not in deployment, "deployments/server/automations.py has them"
    assert set(deployment) <= {
        "name", "entrypoint", "description", "tags", "parameters", "schedules", "work_pool"
    }  # fmt: skip
    flow = flow_function(deployment["name"])
    assert hold_lock in flow.on_running_hooks, "a kill in its first seconds would never be told"
    default = parameter_model(deployment["name"])()
    named = capability(deployment["name"]).run_name(default)
    assert named.split()[0] == deployment["name"]
    if hasattr(default, "name"):
        assert named.split()[1] == default.name, "the run's name says for which model"


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=lambda d: d["name"])
def test_a_deployment_says_what_its_schedule_costs(deployment: dict) -> None:
    schema = parameter_schema(flow_function(deployment["name"])).model_dump_for_openapi()
    found = schedules.costs(
        deployment
        | {"parameter_openapi_schema": schema}
        | {"schedules": [one_schedule(given) for given in deployment.get("schedules", [])]}
    )
    for cost in found:
        said = f"at most ${cost.a_night:f} a night and ${cost.a_month:f} a month"
        assert said in deployment["description"] and said in str(cost)
    assert bool(found) == ("a night" in deployment["description"])


def one_schedule(given: dict) -> dict:
    """As the server tells it."""
    rule = {name: given[name] for name in ("cron", "interval") if name in given}
    return given | {"schedule": rule}


@pytest.mark.parametrize(
    ("rule", "a_night", "a_month"),
    [
        ({"cron": "0 20 * * *"}, "3", "93"),
        ({"cron": "0 2,4 * * 1"}, "6", "24"),
        ({"interval": 43200}, "6", "186"),
        ({"rrule": "FREQ=DAILY"}, None, None),
    ],
)
def test_what_a_schedule_costs_at_most(rule: dict, a_night: str | None, a_month: str) -> None:
    schema = {"definitions": {"P": {"properties": {"max_cost": {"default": "20"}}}}}
    mine = {"schedule": rule, "active": True, "parameters": {"parameters": {"max_cost": 3}}}
    told = {"name": "x", "parameter_openapi_schema": schema, "schedules": [mine]}
    (cost,) = schedules.costs(told)
    assert cost.a_run == 3
    assert cost.a_night == (a_night and Decimal(a_night))
    assert cost.a_month == (a_month and Decimal(a_month))
    (usual,) = schedules.costs(told | {"schedules": [mine | {"parameters": {}}]})
    assert usual.a_run == 20


def test_automations_are_those_that_prefect_takes_and_name_events_of_ours() -> None:
    from prefect.server.events.schemas.automations import AutomationCreate

    flows = {name: uuid4() for name in flow_names()}
    assert len(automations.automations(flows, [])) == len(automations.CHAINS)
    every = automations.automations(flows, [uuid4()])
    assert len({one.name for one in every}) == len(every)
    events = set()
    for one in every:
        events |= one.trigger.expect
        costs = any(action.type == "run-deployment" for action in one.actions)
        assert one.enabled is not costs, "what costs money is off"
        assert one.description and one.tags == [automations.TAG]
        AutomationCreate.model_validate(one.model_dump(mode="json", exclude={"owner_resource"}))
    emitted = {feedback.EVENT, observations.EVENT, readings.EVENT, guard.EVENT}
    emitted |= {benchmarks.EVENT}
    emitted |= {f"{kind.KIND}.refused" for kind in (federated, policy, surrogate)}
    assert emitted <= events
    assert all(event.startswith("prefect.flow-run.") for event in events - emitted)
    for event, flow in automations.CHAINS.items():
        assert parameter_model(flow)(name="gears"), event


@pytest.mark.parametrize("name", flow_names())
def test_every_parameter_says_what_it_is(name: str) -> None:
    assert flow_function(name).description
    for path, field in leaves(parameter_model(name)):
        assert field.title and field.description, path
        numbers = {int, float, Decimal} & {field.annotation, *get_args(field.annotation)}
        if numbers and path.split(".")[-1] not in UNBOUNDED:
            bounds = {type(one).__name__ for one in field.metadata}
            assert bounds & {"Ge", "Gt", "Le", "Lt"}, f"{path} has no bound"


UNBOUNDED = {"minimum_gain", "target_reward"}
"""On the scale of the user's own reward."""


def leaves(model: Any, above: str = "") -> Iterator[tuple[str, Any]]:
    """Every field that is a widget of the form, those of nested models too."""
    for name, field in model.model_fields.items():
        if hasattr(field.annotation, "model_fields"):
            yield from leaves(field.annotation, f"{above}{name}.")
        else:
            yield above + name, field


@pytest.mark.parametrize("name", flow_names())
def test_every_form_is_one_that_the_ui_can_draw(name: str) -> None:
    from prefect.utilities.callables import parameter_schema

    schema = parameter_schema(flow_function(name)).model_dump()
    assert list(schema["properties"]) == ["parameters"]
    for definition in schema["definitions"].values():
        for field, widget in definition.get("properties", {}).items():
            kind = widget.keys() & {"type", "anyOf", "allOf", "$ref", "enum"}
            assert kind and (widget.get("title") or "$ref" in widget), (field, widget)


def test_every_preset_is_valid_and_offered_by_its_flow_only() -> None:
    for path in PRESETS.rglob("*.yaml"):
        flow, preset = path.parent.name, path.stem
        assert path.read_text().startswith(f"# nightshift run {flow} --preset {preset}\n")
        parameter_model(flow).model_validate(load_preset(flow, preset))
    offered = {flow: preset_names(flow) for flow in flow_names()}
    for flow, presets in offered.items():
        assert (f"--preset [{'|'.join(presets)}]" in help_of(["run", flow])) == bool(presets)
        assert ("--preset" in help_of(["run", flow])) == bool(presets)


def test_every_setting_is_documented_as_it_is() -> None:
    text = (DOCS / "settings.md").read_text()
    for name, field in Settings.model_fields.items():
        default = to_jsonable_python(field.get_default())
        shown = "–" if default is None or name == "home" else str(default)
        if name == "home":
            shown = ".nightshift in the project"
        assert f"| `NIGHTSHIFT_{name.upper()}` | {shown} | {field.description} |" in text


def commands() -> list[list[str]]:
    """Every command line of every page."""
    found = [re.findall(r"^nightshift ([^\n#]*)", page.read_text(), re.M) for page in PAGES]
    return [line.split() for line in sorted(set(chain(*found)))]


def test_every_flow_has_a_page_and_every_page_is_linked() -> None:
    pages = {path.name: path.read_text() for path in DOCS.glob("*.md")}
    told = [text for name, text in pages.items() if name != "commands.md"]
    for name in flow_names():
        assert any(f"nightshift run {name}" in text for text in told), name
    for page in pages:
        assert f"(docs/{page})" in README, page
    index = (DOCS / "log" / "README.md").read_text()
    for path in (DOCS / "log").glob("*.md"):
        assert f"({path.name})" in index or path.name == "README.md", path.name


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= 100


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in links(page.read_text()):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.exists() and found.is_relative_to(REPOSITORY), target
        if anchor:
            assert anchor in anchors(found.read_text()), target


LAYERS = "flows|tasks|jobs|infra|deployments|tests|benchmarks|docs"
CURRENT = [page for page in sorted(DOCS.glob("*.md")) if page.name != "architecture.md"]
"""Pages that tell what is; the log tells what was, that one what a new capability makes."""


@pytest.mark.parametrize("page", CURRENT, ids=lambda page: page.name)
def test_every_file_that_a_page_names_is_there(page: Path) -> None:
    for path in re.findall(rf"`((?:{LAYERS})/[\w/.-]+)`", page.read_text()):
        assert (REPOSITORY / path).exists(), path


def links(text: str) -> list[str]:
    """Targets of the Markdown links and images, those in code aside."""
    return re.findall(r"\]\(([^)\s]+)\)", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S))


def anchors(text: str) -> set[str]:
    """What GitHub makes of the headings: lower case, hyphens for spaces, no punctuation."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", one.lower()).replace(" ", "-") for one in headings}


def test_a_broken_link_and_a_wrong_anchor_are_seen() -> None:
    text = "# Who may, and why\n[a](b.md#c) `x` ![d](e.png)\n```\n# no heading [f](g.md)\n```\n"
    assert links(text) == ["b.md#c", "e.png"]
    assert anchors(text) == {"who-may-and-why"}


def test_readme_names_make_targets_that_exist() -> None:
    makefile = (REPOSITORY / "Makefile").read_text()
    targets = set(re.findall(r"(?:^|`)make ([a-z]+)", README, re.M))
    assert {"demo", "test"} <= targets
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.M), target


@pytest.mark.parametrize("command", commands(), ids=" ".join)
def test_every_command_of_the_documents_exists_with_its_options(command: list[str]) -> None:
    words = [word for word in command if not word.startswith("-")]
    depth = next((i for i in range(len(words), 0, -1) if is_command(words[:i])), 0)
    assert depth, command
    shown = help_of(words[:depth])
    for option in (word for word in command if word.startswith("--")):
        assert option in shown, f"{option} is no option of {words[:depth]}"


def is_command(words: list[str]) -> bool:
    return CliRunner().invoke(cli, [*words, "--help"]).exit_code == 0 and resolve(words)


def resolve(words: list[str]) -> bool:
    command = cli
    for word in words:
        found = getattr(command, "get_command", lambda *_: None)(None, word)
        if found is None:
            return False
        command = found
    return True


def help_of(words: list[str]) -> str:
    result = CliRunner().invoke(cli, [*words, "--help"], terminal_width=200)
    assert result.exit_code == 0, result.output
    return result.output


def all_commands(command=cli, path=()) -> list[tuple[str, ...]]:
    names = command.list_commands(None) if hasattr(command, "list_commands") else []
    return [path] + [
        inner
        for name in names
        for inner in all_commands(command.get_command(None, name), (*path, name))
    ]


def test_the_notebook_has_the_code_of_its_page_and_no_outputs() -> None:
    page = "\n".join(re.findall(r"```python\n(.*?)```", (DOCS / "python.md").read_text(), re.S))
    code = "\n\n".join(notebook_cells())
    for passage in page.strip().split("\n\n"):
        lines = [line for line in passage.splitlines() if line]
        assert "\n".join(lines) in code.replace("\n\n", "\n"), passage
    cells = [one for one in json.loads(NOTEBOOK.read_text())["cells"] if "outputs" in one]
    assert all(one["outputs"] == [] and one["execution_count"] is None for one in cells)


def test_the_page_of_commands_is_current() -> None:
    assert (DOCS / "commands.md").read_text() == reference.page(), "`make docs` writes it"


def test_every_command_is_on_its_page_and_teaches() -> None:
    page = (DOCS / "commands.md").read_text()
    for path in all_commands()[1:]:
        if path[0] == "submit" and len(path) == 2:
            continue  # the same flows as `run`
        assert re.search(rf"^#+ nightshift {' '.join(path)}$", page, re.M), path
        assert len(help_of(list(path)).split("\n\n")) > 1, path
    for path, command in reference.commands():
        assert reference.purpose(command), path
        for parameter in command.params:
            assert isinstance(parameter, click.Argument) or parameter.help, (path, parameter.name)


def test_every_exit_code_has_its_meaning() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    ours = {kind.exit_code for kind in kinds if issubclass(kind, errors.NightshiftError)}
    assert ours | {0, UNAVAILABLE, INTERRUPTED} == reference.EXIT_CODES.keys()
