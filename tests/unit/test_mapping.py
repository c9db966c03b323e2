"""From events to parameters."""

import json
from decimal import Decimal
from typing import Any

import pytest
from pydantic import SecretStr

from deployments.mapping import parameters
from deployments.signatures import Event, Malformed
from infra.hooks import Hook
from infra.settings import REPOSITORY
from tasks.dpo_parameters import DPOTrainingParameters
from tasks.guard import CostGuardParameters


def hook(**values: Any) -> Hook:
    return Hook(name="h", flows=["dpo-training"], secret=SecretStr("s"), **values)


def event(**data: Any) -> Event:
    return Event("key", data, {"data": data, "body": {"data": data}, "type": "t", "id": "1"})


def test_without_a_mapping_the_data_are_the_parameters_and_nothing_else_is_set() -> None:
    text = parameters(hook(), DPOTrainingParameters, event(name="gears", dpo={"epochs": 3}))
    assert json.loads(text) == {"name": "gears", "dpo": {"epochs": 3}}
    assert parameters(hook(), DPOTrainingParameters, event()) == "{}"


def test_the_nested_example_of_the_documentation_works() -> None:
    text = (REPOSITORY / "docs" / "webhooks.md").read_text()
    data = json.loads(text.split("```json\n")[1].split("```")[0])["data"]
    given = json.loads(parameters(hook(), DPOTrainingParameters, event(**data)))
    assert given["dpo"] == {"beta": 0.2} and given["gate"] == {"minimum_gain": 0.01}


def test_a_mapping_takes_only_what_it_maps() -> None:
    mapping = {"name": "{{ data.repository.name }}", "dpo.epochs": "{{ data.n + 1 }}"}
    given = event(repository={"name": "gears"}, n=2, reward="evil.py:run")
    text = parameters(hook(mapping=mapping), DPOTrainingParameters, given)
    assert json.loads(text) == {"name": "gears", "dpo": {"epochs": 3}}


@pytest.mark.parametrize(
    "template",
    ["{{ data.missing }}", "{{ data.__class__.__mro__ }}", "{{ 1 / 0 }}", "{{ data.n.x.y }}"],
)
def test_a_template_that_fails_names_its_parameter(template: str) -> None:
    with pytest.raises(Malformed) as error:
        parameters(hook(mapping={"name": template}), DPOTrainingParameters, event(n=1))
    assert error.value.field == "name"


def test_the_budget_goes_into_the_parameters_and_cannot_be_exceeded() -> None:
    dear = hook(max_cost=Decimal("5.0000"))
    assert json.loads(parameters(dear, DPOTrainingParameters, event()))["max_cost"] == "5.0000"
    cheap = parameters(dear, DPOTrainingParameters, event(max_cost="1.5"))
    assert Decimal(json.loads(cheap)["max_cost"]) == Decimal("1.5")
    with pytest.raises(Malformed) as error:
        parameters(dear, DPOTrainingParameters, event(max_cost=5.01))
    assert error.value.field == "max_cost"
    assert parameters(dear, CostGuardParameters, event()) == "{}", "it spends nothing"


@pytest.mark.parametrize(
    ("data", "hint"),
    [({"beta": 1}, "dpo.beta"), ({"minimum_gain": 1}, "gate.minimum_gain"), ({"nope": 1}, None)],
)
def test_an_option_of_a_nested_model_is_told_by_its_whole_name(data, hint) -> None:
    with pytest.raises(Malformed) as error:
        parameters(hook(), DPOTrainingParameters, event(**data))
    assert error.value.field in data
    assert str(error.value).endswith(f"; it is named {hint}") == (hint is not None)


@pytest.mark.parametrize(
    ("data", "field"),
    [
        ({"nope": 1}, "nope"),
        ({"seed": -1}, "seed"),
        ({"dpo": {"epochs": "many"}}, "dpo.epochs"),
        ({"model": "a\0b"}, "data"),
        ({"model": "\ud800"}, "data"),
        ({"max_cost": "NaN"}, "max_cost"),
        ({"judge_temperature": float("nan")}, "judge_temperature"),
        ({"hours": float("inf")}, "hours"),
    ],
)
def test_what_the_flow_does_not_take_names_its_field(data, field) -> None:
    with pytest.raises(Malformed) as error:
        parameters(hook(), DPOTrainingParameters, event(**data))
    assert error.value.field == field or (field == "data" and error.value.field == "model")
