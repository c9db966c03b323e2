"""Numbers that Prefect's server, PostgreSQL or a seeded library cannot take are refused at once."""

import math
from typing import Any

import pytest
from click.testing import CliRunner
from pydantic import SecretStr

from deployments import options
from deployments.catalogue import flow_names, parameter_model
from deployments.cli import cli
from deployments.webhooks.mapping import parameters
from deployments.webhooks.signatures import Event, Malformed
from infra.errors import InputError
from infra.hooks import Hook

NUMBERS = [
    (flow, path, kind)
    for flow in flow_names()
    for path, field in options.fields(parameter_model(flow))
    if (kind := options._without_none(field.annotation)) in (int, float)
]


def as_data(path: tuple[str, ...], value: Any) -> dict[str, Any]:
    return as_data(path[:-1], {path[-1]: value}) if path else value


@pytest.mark.parametrize("value", [10**23, 2**53 + 1, math.inf, -math.inf, math.nan])
@pytest.mark.parametrize(("flow", "path", "kind"), NUMBERS)
def test_every_number_has_an_end(flow: str, path: tuple[str, ...], kind: type, value: Any) -> None:
    if kind is float and isinstance(value, int):
        return
    model = parameter_model(flow)
    with pytest.raises(InputError, match=f"^--{path[-1].replace('_', '-')}: "):
        options.parameters(model, {"__".join(path): value})
    hook = Hook(name="h", flows=[flow], secret=SecretStr("s"))
    with pytest.raises(Malformed) as refused:
        parameters(hook, model, Event("key", as_data(path, value), {}))
    assert refused.value.field == ".".join(path)


@pytest.mark.parametrize(("flow", "path", "_kind"), [one for one in NUMBERS if "seed" in one[1]])
def test_every_seed_is_one_that_numpy_takes(flow: str, path: tuple[str, ...], _kind: type) -> None:
    model = parameter_model(flow)
    options.parameters(model, {"__".join(path): 2**32 - 1})
    with pytest.raises(InputError, match=r"^--seed: .*4294967295"):
        options.parameters(model, {"__".join(path): 2**32})


@pytest.mark.parametrize("door", ["run", "submit"])
@pytest.mark.parametrize(
    ("option", "value"),
    [("--seed", str(2**32)), ("--max-steps", "9" * 23), ("--epochs", "1e300"), ("--beta", "inf")],
)
def test_wrong_numbers_end_before_anything_starts(
    door: str, option: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for start in ("start.run", "submit.submit"):
        monkeypatch.setattr(
            f"deployments.commands.{start}", lambda *_: pytest.fail("it was started")
        )
    done = CliRunner().invoke(cli, [door, "dpo-training", option, value])
    assert isinstance(done.exception, InputError) and done.exception.exit_code == 2
    assert done.exception.message.startswith(f"{option}: ")
