"""Options are made from the parameter model, and errors name the option."""

from decimal import Decimal
from pathlib import Path
from typing import Literal

import click
import pytest
from click.testing import CliRunner
from pydantic import BaseModel, Field

from deployments import options
from deployments.catalogue import flow_names, parameter_model
from deployments.cli import cli
from deployments.commands.flows import Here
from infra.errors import InputError


class Inner(BaseModel):
    depth: int = Field(3, ge=1, description="How deep.")


class Model(BaseModel):
    name: str = Field("x", description="Who.")
    cost: Decimal = Field(Decimal(2), description="Dollars.")
    fast: bool = Field(False, description="Hurry.")
    kind: Literal["a", "b"] = Field("a", description="Which.")
    since: str = Field("24h", pattern="^[0-9]+h$", description="How long, e.g. 24h.")
    maybe: float | None = Field(None, description="Perhaps, in metres.")
    inner: Inner = Field(default_factory=Inner)


def parse(*arguments: str, preset: dict | None = None) -> Model:
    found = {}

    def callback(**given):
        found.update(given)

    command = click.Command("c", params=options.options(Model), callback=callback)
    result = CliRunner().invoke(command, arguments)
    assert result.exit_code == 0, result.output
    parsed = options.parameters(Model, found, preset)
    assert isinstance(parsed, Model)
    return parsed


def test_a_map_takes_all_that_follows(monkeypatch: pytest.MonkeyPatch) -> None:
    begun = []
    monkeypatch.setattr(Here, "start", lambda *given, **_: begun.append(given[-1]))
    words = "run build-preferences --map chosen=good rejected=bad --dataset a=b.jsonl"
    result = CliRunner().invoke(cli, words.split())
    assert result.exit_code == 0, result.output
    assert begun[0].pairs.map == {"chosen": "good", "rejected": "bad"}
    assert begun[0].dataset == "a=b.jsonl"


def test_defaults_are_the_models() -> None:
    assert parse() == Model()


def test_options_reach_nested_fields_and_win_over_a_preset() -> None:
    parsed = parse(
        "--cost", "3.5", "--fast", "--kind", "b", "--depth", "7",
        preset={"name": "p", "cost": 1, "inner": {"depth": 2}},
    )  # fmt: skip
    assert (parsed.name, parsed.cost, parsed.fast, parsed.kind) == ("p", Decimal("3.5"), True, "b")
    assert parsed.inner.depth == 7


def test_help_says_meaning_and_default() -> None:
    command = click.Command("c", params=options.options(Model))
    text = CliRunner().invoke(command, ["--help"]).output
    for words in (
        "Who. [default: x]",
        "--fast / --no-fast",
        "[a|b]",
        "How deep. [default: 3; at least 1]",
    ):
        assert words in text


@pytest.mark.parametrize(
    ("given", "option"), [({"inner__depth": 0}, "--depth"), ({"cost": "much"}, "--cost")]
)
def test_wrong_value_names_its_option(given, option) -> None:
    with pytest.raises(InputError, match=option):
        options.parameters(Model, given)


@pytest.mark.parametrize("name", flow_names())
def test_no_dollars_are_refused_with_the_bound(name: str) -> None:
    model = parameter_model(name)
    if "max_cost" not in model.model_fields:
        return
    with pytest.raises(InputError, match=r"--max-cost: .*greater than 0") as caught:
        options.parameters(model, {"max_cost": "0"})
    assert "in all" in caught.value.remedy


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"dpo__micro_batch": 5}, "--effective-batch must be a multiple of --micro-batch"),
        (
            {"dpo__loss": "exo_pair", "dpo__label_smoothing": 0},
            "the --loss exo_pair needs a --label-smoothing above 0",
        ),
    ],
)
def test_options_that_do_not_fit_together_are_named(given, told) -> None:
    with pytest.raises(InputError) as caught:
        options.parameters(parameter_model("dpo-training"), given)
    assert caught.value.message == told


def test_what_a_preset_has_too_much_is_no_option() -> None:
    model = parameter_model("dpo-training")
    with pytest.raises(InputError, match=r"^dpo\.nope: "):
        options.parameters(model, {}, {"dpo": {"nope": 1}})


def test_a_wrong_form_is_told_with_the_right_one() -> None:
    with pytest.raises(InputError) as caught:
        options.parameters(Model, {"since": "yesterday"})
    assert caught.value.message == "--since: 'yesterday' does not have the form ^[0-9]+h$"
    assert "e.g. 24h" in caught.value.remedy


@pytest.mark.parametrize("name", flow_names())
def test_no_two_options_of_a_flow_are_the_same(name: str) -> None:
    flags = [flag for option in options.options(parameter_model(name)) for flag in option.opts]
    assert len(flags) == len(set(flags))
    assert not {"--preset", "--plan", "--json"} & set(flags)


@pytest.mark.parametrize("name", flow_names())
def test_a_new_option_is_deliberate(name: str) -> None:
    """A new or lost option changes this reviewed list."""
    flags = [option.opts[0] for option in options.options(parameter_model(name))]
    reviewed = (Path(__file__).parent / "options" / f"{name}.txt").read_text().split()
    assert flags == reviewed


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("bugdet show", "budget"),
        ("budget shwo", "show"),
        ("run nigtly-ppo", "nightly-ppo"),
        ("hooks creat", "create"),
        ("serve surogate", "surrogate"),
    ],
)
def test_commands_like_one_that_is_misspelt_are_named(given: str, meant: str) -> None:
    said = CliRunner().invoke(cli, given.split()).output
    assert f"(Possible commands: {meant})" in said
    assert "(Possible commands: budget, doctor, down" in CliRunner().invoke(cli, ["xyzzy"]).output


def test_submit_names_the_command_that_plans() -> None:
    result = CliRunner().invoke(cli, "submit nightly-ppo --name mine --plan".split())
    assert isinstance(result.exception, InputError)
    assert "nightshift run nightly-ppo --plan" in result.exception.remedy
