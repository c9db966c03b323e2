"""From events to parameters."""

import json
import time
from decimal import Decimal
from typing import Any

import pytest
from pydantic import SecretStr

from deployments.webhooks.mapping import parameters
from deployments.webhooks.signatures import Event, Malformed
from infra.hooks import Hook
from infra.settings import REPOSITORY
from tasks.dpo.parameters import DPOTrainingParameters
from tasks.guard.steps import CostGuardParameters


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


LONG = "x" * 200_000


@pytest.mark.parametrize(
    ("template", "data"),
    [
        ("{{ data.a * data.b }}", {"a": LONG, "b": 5_000}),
        ("{{ data.b * data.a }}", {"a": [1], "b": 10**8}),
        ("{{ data.a ** data.b }}", {"a": 10, "b": 10**7}),
        ("{{ data.a % data.b }}", {"a": "%999999999d", "b": 1}),
        ("{{ data.a.format(1) }}", {"a": "{:>999999999}"}),
        ("{{ data.a | center(data.b) }}", {"a": "x", "b": 10**9}),
        ("{{ data.a | join(data.b) }}", {"a": ["x"] * 50_000, "b": LONG}),
        ("{{ data.a | replace('x', data.a) }}", {"a": LONG}),
        ("{% for a in data.a %}{% for b in data.a %}{% endfor %}{% endfor %}", {"a": [1] * 20_000}),
        ("{% set a = data.a ~ data.a %}{{ a }}", {"a": "x"}),
        ("{{ lipsum(data.a) }}", {"a": 100_000}),
        ("{{ range(data.a) | length }}", {"a": 90_000}),
        ("{{ data.a }}", {"a": LONG}),
    ],
)
def test_no_sender_makes_a_template_large_or_slow(template: str, data: dict[str, Any]) -> None:
    begun = time.process_time()
    with pytest.raises(Malformed) as error:
        parameters(hook(mapping={"name": template}), DPOTrainingParameters, event(**data))
    assert error.value.field == "name"
    assert time.process_time() - begun < 1 and len(str(error.value)) < 1000


@pytest.mark.parametrize(
    ("template", "told"),
    [
        ("{{ data.ref.split('/')[-1] }}", "main"),
        ("{{ data.ref | replace('/', '-') }}", "refs-heads-main"),
        ("{{ data.ref.split('/') | join('.') }}", "refs.heads.main"),
        ("{{ data.none or 'other' }}", "other"),
        ("{{ data.missing | default('other') }}", "other"),
        ("{% if data.n > 1 %}many{% else %}one{% endif %}", "many"),
        ("v{{ data.n * 2 + 1 }}", "v5"),
    ],
)
def test_what_mappings_need_works(template: str, told: str) -> None:
    given = event(ref="refs/heads/main", none=None, n=2)
    text = parameters(hook(mapping={"name": template}), DPOTrainingParameters, given)
    assert json.loads(text) == {"name": told}


@pytest.mark.parametrize("value", [None, {"a": 1}, ["a"]])
@pytest.mark.parametrize(
    "template",
    ["{{ data.x }}", "gears-{{ data.x }}", "{{ data.x ~ '' }}", "{{ [data.x] | join('-') }}"]
    + [f"{{{{ data.x | {name} }}}}" for name in ("lower", "upper", "title", "string", "int")],
)
def test_null_and_objects_are_no_text(value: Any, template: str) -> None:
    with pytest.raises(Malformed) as error:
        parameters(hook(mapping={"name": template}), DPOTrainingParameters, event(x=value))
    assert error.value.field == "name"
