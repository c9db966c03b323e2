"""`--config FILE` gives a flow's parameters; options on the command line come on top."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from deployments.catalogue import flow_names, parameter_model
from deployments.commands.flows import Flows
from infra.errors import InputError


class Caught(Flows):
    """Starts nothing and keeps the parameters."""

    parameters: Any = None

    def start(self, flow: str, parameters: Any, **own: Any) -> None:  # noqa: ARG002
        self.parameters = parameters


def told(flow: str, *arguments: str) -> Any:
    flows = Caught("run")
    flows.main([flow, *arguments], standalone_mode=False)
    return flows.parameters


@pytest.mark.parametrize("flow", flow_names())
def test_what_a_run_was_told_is_a_config_of_the_same_run(flow: str, tmp_path: Path) -> None:
    required = {
        name: "x" for name, one in parameter_model(flow).model_fields.items() if one.is_required()
    }
    parameters = parameter_model(flow).model_validate(required)
    file = tmp_path / "night.yaml"
    file.write_text(yaml.safe_dump(parameters.model_dump(mode="json"), sort_keys=False))
    assert told(flow, "--config", str(file)) == parameters


def test_files_are_named_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The config that a run leaves starts the same from any folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompts.jsonl").touch()
    (tmp_path / "night.yaml").write_text("held_out: prompts.jsonl\n")
    found = told("nightly-ppo", "--config", "night.yaml", "--prompts", "prompts.jsonl")
    assert found.prompts == found.held_out == str(tmp_path / "prompts.jsonl")
    assert told("nightly-ppo", "--prompts", "nowhere.jsonl").prompts == "nowhere.jsonl"


def test_options_come_on_top_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "night.yaml"
    file.write_text("max_cost: 3\nppo:\n  iterations: 5\ngate:\n  max_kl: 7\n")
    found = told("nightly-ppo", "--config", str(file), "--iterations", "6")
    assert (found.max_cost, found.ppo.iterations, found.gate.max_kl) == (3, 6, 7)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "night.yaml cannot be read: No such file or directory"),
        (b"\xff\xfe\xfa", "night.yaml"),
        (b"a: [", "night.yaml is no YAML"),
        (b"a: 1\nb: c: d\n", "is no YAML: line 2: mapping values are not allowed here"),
        (b"- 1\n", "holds no names and values"),
        (b"", "holds no names and values"),
        (b"iterationz: 5\n", "night.yaml: iterationz"),
        (b"gate:\n  no_such: 5\n", "night.yaml: gate.no_such"),
        (b"gate: 5\n", "gate is a group of values"),
        (b"ppo:\n  iterations: many\n", "night.yaml: --iterations"),
        (b"ppo:\n  rollouts: 7\n", "night.yaml: --rollouts must be a multiple"),
        (b"prompts: 5\n", "night.yaml: --prompts"),
        (b"prompts: ' '\n", "night.yaml: --prompts"),
        (b"max_cost: 3\nmax_cost: 30\n", "'max_cost' is there twice"),
        (b"ppo: {iterations: 3}\ngate: {}\nppo: {}\n", "'ppo' is there twice"),
        (b"ppo: {iterations: 1:30}\n", "night.yaml: --iterations"),
        (b"max_cost: 0x10\n", "night.yaml: --max-cost"),
        (b"ppo: &a\n  iterations: *a\n", "is no YAML: Circular"),
        (b"[" * 9999, "is no YAML"),
        (b"iterations: 5\n", "it is named ppo.iterations"),
        (b"!!python/object/apply:os.system ['true']\n", "is no YAML"),
    ],
)
def test_a_wrong_file_is_named(text: bytes | None, says: str, tmp_path: Path) -> None:
    file = tmp_path / "night.yaml"
    if text is not None:
        file.write_bytes(text)
    with pytest.raises(InputError) as caught:
        told("nightly-ppo", "--config", str(file))
    assert says in caught.value.message


def test_numbers_mean_what_people_mean(tmp_path: Path) -> None:
    file = tmp_path / "night.yaml"
    file.write_text("max_cost: 010\nppo: {iterations: 012, learning_rate: 3e-6, temperature: .5}\n")
    found = told("nightly-ppo", "--config", str(file))
    assert (found.max_cost, found.ppo.iterations) == (10, 12)
    assert (found.ppo.learning_rate, found.ppo.temperature) == (3e-6, 0.5)


def test_a_variable_that_was_never_set_is_no_night_with_defaults() -> None:
    with pytest.raises(InputError, match=r"--config .* cannot be read"):
        told("nightly-ppo", "--config", "")


def test_the_file_is_not_blamed_for_an_option(tmp_path: Path) -> None:
    file = tmp_path / "night.yaml"
    file.write_text("max_cost: 3\n")
    for option in (["--lora-rank", "0"], ["--rollouts", "7"]):
        with pytest.raises(InputError, match=f"^{option[0]}"):
            told("nightly-ppo", "--config", str(file), *option)


def test_a_preset_and_a_file_are_one_too_many(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--config and --preset"):
        told("nightly-ppo", "--config", "night.yaml", "--preset", "demo")
