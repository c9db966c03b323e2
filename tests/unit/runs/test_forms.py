"""What the Prefect server is told of a flow's parameters: the order of its form, and what it
refuses before a run exists. And how runs are told apart."""

from decimal import Decimal
from typing import Any

import pytest
from prefect.client.schemas.objects import StateType
from prefect.utilities.callables import parameter_schema
from prefect.utilities.schema_tools.validation import ValidationError, validate

from deployments.catalogue import capability, flow_function, flow_names, parameter_model
from deployments.options import fields
from deployments.server import automations
from infra.errors import InputError
from tasks.runs.capability import LONGEST_NAME, REFUSED
from tasks.runs.parameters import FIRST

COSTLY = [name for name in flow_names() if name != "cost-guard"]


def schema(flow: str) -> dict[str, Any]:
    return parameter_schema(flow_function(flow)).model_dump_for_openapi()


def shown(properties: dict[str, Any]) -> list[str]:
    """As the UI sorts them, whatever order the server's JSONB has made of them."""
    by_length = sorted(properties, key=lambda name: (len(name), name))
    return sorted(by_length, key=lambda name: properties[name]["position"])


@pytest.mark.parametrize("flow", COSTLY)
def test_a_form_begins_with_what_a_first_run_is_told(flow: str) -> None:
    definitions = schema(flow)["definitions"]
    model = parameter_model(flow)
    properties = definitions[model.__name__]["properties"]
    first = [name for name in FIRST if name in properties]
    rest = [name for name in model.model_fields if name not in FIRST]
    assert shown(properties) == first + rest
    for name, field in properties.items():
        assert field["title"].startswith("Advanced: ") == (name in rest)
        assert field["title"].removeprefix("Advanced: ")[0].isupper()
    groups = {path[0] for path, _ in fields(model) if len(path) > 1}
    for group in groups:
        inner: Any = model.model_fields[group].annotation
        assert shown(definitions[inner.__name__]["properties"]) == list(inner.model_fields)
        assert definitions[inner.__name__]["additionalProperties"] is False, "a typo is ignored"


@pytest.mark.parametrize(
    ("flow", "given", "named"),
    [
        ("build-preferences", {"name": 5}, "5"),
        ("build-preferences", {"nme": "mine"}, "nme"),
        ("cost-guard", {"dry_run": "maybe"}, "maybe"),
        ("nightly-ppo", {"gate": {"max_klx": 1}}, "max_klx"),
        ("surrogate-retraining", {"training": {"design": 1}}, "design"),
    ],
)
def test_the_server_refuses_a_wrong_field(flow: str, given: dict[str, Any], named: str) -> None:
    """Of ../shared/data/public-cases/ops-prefect-run-wrong-parameters."""
    assert not validate({"parameters": {}}, schema(flow))
    with pytest.raises(ValidationError, match=named):
        validate({"parameters": given}, schema(flow), raise_on_error=True)


@pytest.mark.parametrize(
    ("flow", "given", "named"),
    [
        ("nightly-ppo", {"ppo": {"rollouts": 7}}, "rollouts must be a multiple"),
        ("build-preferences", {"name": "?"}, "name: '?' does not have the form ^[A-Za-z"),
    ],
)
def test_a_wrong_input_ends_a_run_in_a_state_of_its_own(
    flow: str, given: dict[str, Any], named: str
) -> None:
    state = flow_function(flow).fn(given)
    assert (state.type, state.name) == (StateType.FAILED, REFUSED)
    assert named in state.message and isinstance(state.data, InputError)
    for events, *_ in automations.NOTICES.values():
        assert f"prefect.flow-run.{state.name}" not in events


def test_names_tell_runs_apart() -> None:
    night = capability("nightly-ppo")
    model = parameter_model("nightly-ppo")
    plain = night.run_name(model(name="mine"))
    assert plain == "nightly-ppo mine"
    told = night.run_name(
        model(name="mine", prompts="/a/b/prompts.jsonl", max_cost=Decimal(3), ppo={"iterations": 4})
    )
    assert told.startswith(plain)
    assert "prompts prompts.jsonl" in told and "iterations 4" in told and "max cost 3" in told
    assert len(night.run_name(model(name="mine", prompts="p" * 500))) == LONGEST_NAME
    assert capability("cost-guard").run_name(parameter_model("cost-guard")()) == "cost-guard"
