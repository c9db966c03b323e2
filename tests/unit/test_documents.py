"""Docs, presets, deployments and `--help` agree with the code."""

import importlib
import json
import re

import pytest
import yaml
from click.testing import CliRunner
from pydantic_core import to_jsonable_python

from deployments.catalogue import (
    PRESETS,
    flow_function,
    flow_names,
    load_preset,
    parameter_model,
    preset_names,
)
from deployments.cli import cli
from infra.settings import REPOSITORY, Settings
from tasks import feedback, observations

DEPLOYMENTS = yaml.safe_load((REPOSITORY / "prefect.yaml").read_text())["deployments"]
GROUPS = ("budget", "hooks", "jobs", "models", "predict", "serve")
README = (REPOSITORY / "README.md").read_text()


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


def test_schedules_that_cost_money_are_off() -> None:
    for deployment in DEPLOYMENTS:
        for schedule in deployment.get("schedules", []):
            assert schedule["active"] is (deployment["name"] == "cost-guard"), "it launches nothing"
        for trigger in deployment.get("triggers", []):
            assert trigger["enabled"] is False


TRIGGERED = {"dpo-training": feedback.EVENT, "surrogate-retraining": observations.EVENT}


@pytest.mark.parametrize("name", TRIGGERED)
def test_triggers_are_those_that_prefect_and_the_door_know(name: str) -> None:
    from prefect.events import DeploymentEventTrigger

    triggered = {d["name"]: d["triggers"] for d in DEPLOYMENTS if d.get("triggers")}
    assert set(triggered) == set(TRIGGERED)
    (given,) = triggered[name]
    trigger = DeploymentEventTrigger.model_validate(given)
    assert trigger.expect == {TRIGGERED[name]}
    assert trigger.match.matches({"prefect.resource.id": "nightshift.model.design"})
    assert "event.payload.model" in str(trigger.parameters)


@pytest.mark.parametrize("name", flow_names())
def test_every_parameter_says_what_it_is(name: str) -> None:
    model = parameter_model(name)
    assert flow_function(name).description
    for field in model.model_fields.values():
        described = bool(field.title and field.description)
        assert described or hasattr(field.annotation, "model_fields")


@pytest.mark.parametrize("preset", preset_names())
def test_every_preset_is_valid(preset: str) -> None:
    flow = re.search(r"^# nightshift run (\S+)", (PRESETS / f"{preset}.yaml").read_text(), re.M)
    assert flow, "the first line of a preset says which flow it is for"
    parameter_model(flow[1]).model_validate(load_preset(preset))


def test_every_setting_is_documented_as_it_is() -> None:
    text = (REPOSITORY / "docs" / "settings.md").read_text()
    for name, field in Settings.model_fields.items():
        default = to_jsonable_python(field.get_default())
        shown = "–" if default is None or name == "home" else str(default)
        if name == "home":
            shown = ".nightshift in the project"
        assert f"| `NIGHTSHIFT_{name.upper()}` | {shown} | {field.description} |" in text


def commands() -> list[list[str]]:
    found = re.findall(r"^nightshift ([^\n#]*)", README, re.M)
    return [line.split() for line in sorted(set(found))]


def test_readme_names_make_targets_that_exist() -> None:
    makefile = (REPOSITORY / "Makefile").read_text()
    targets = set(re.findall(r"(?:^|`)make ([a-z]+)", README, re.M))
    assert {"demo", "test"} <= targets
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.M), target


@pytest.mark.parametrize("command", commands(), ids=" ".join)
def test_every_command_of_the_readme_exists_with_its_options(command: list[str]) -> None:
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


def test_every_command_is_in_the_readme_and_teaches() -> None:
    for path in all_commands()[1:]:
        if path[0] != "run" and len(path) == 1 and path[0] in GROUPS:
            continue
        assert "nightshift " + " ".join(path) in README, path
        assert len(help_of(list(path)).split("\n\n")) > 1, path


def test_presets_hold_plain_values() -> None:
    for preset in preset_names():
        json.dumps(load_preset(preset), default=str)
