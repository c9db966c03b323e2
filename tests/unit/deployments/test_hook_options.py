"""What `nightshift hooks create` refuses, each with the option to change."""

import pytest
from click.testing import CliRunner

from deployments.cli import cli
from infra.errors import InputError


@pytest.fixture(autouse=True)
def nothing_is_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("infra.database.pool", lambda: pytest.fail("a hook was stored"))


def refusal(*arguments: str) -> InputError:
    done = CliRunner().invoke(cli, ["hooks", "create", *arguments])
    assert isinstance(done.exception, InputError), done.output
    return done.exception


def test_a_mapped_parameter_is_told_by_its_whole_name() -> None:
    told = refusal("dpo-training", "--map", "beta=1")
    assert told.message == "--map: dpo-training has no parameter 'beta'"
    assert told.remedy == "It is named dpo.beta."
    assert "--help" in refusal("dpo-training", "--map", "nope=1").remedy


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "1e300", "-1"])
def test_debounce_is_some_minutes(value: str) -> None:
    told = refusal("dpo-training", "--debounce", value)
    assert told.message == f"--debounce: {float(value):g} minutes"


@pytest.mark.parametrize("value", ["nan", "inf", "much", "-1", "1.23456", "1e300"])
def test_max_cost_is_some_dollars(value: str) -> None:
    assert refusal("dpo-training", "--max-cost", value).message.startswith("--max-cost: ")


def test_no_dollars_are_refused_at_once() -> None:
    told = refusal("dpo-training", "--max-cost", "0")
    assert told.message == "--max-cost: 0 dollars leave nothing to spend"


@pytest.mark.parametrize("name", ["my hook", "Mine", "-x", "x" * 64, ""])
def test_a_name_tells_its_form(name: str) -> None:
    told = refusal("--flow", "dpo-training", "--", name)
    assert told.message == f"NAME: {name!r} is no name of a hook"
    assert "e.g. my-hook" in told.remedy and "letters, digits and '-'" in told.remedy
    assert refusal("--", name).message == told.message


def test_max_cost_is_for_flows_that_cost() -> None:
    told = refusal("x", "--flow", "dpo-training", "--flow", "cost-guard", "--max-cost", "3")
    assert told.message == "--max-cost: cost-guard costs nothing"
