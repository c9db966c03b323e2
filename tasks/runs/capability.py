"""What a flow declares: its name, its jobs, the kind of model that it makes, what may start it.

    capability = Capability("nightly-ppo", steps=STEPS, makes="policy")

    @capability.flow
    def nightly_ppo(parameters: NightlyPPOParameters) -> Report:
        with capability.begin(parameters, checksums) as work:
            ...

The plan, the documents, the automations and the events of the gate are made from it.
"""

import functools
import typing
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, Generic, TypeVar

import prefect
from prefect.runtime import flow_run
from prefect.states import Failed
from pydantic import BaseModel, ValidationError

from infra.errors import InputError, first_fault
from tasks.runs.crashed import hold_lock
from tasks.runs.plan import P, PlannedStep, Step, plan
from tasks.runs.release import release_compute
from tasks.runs.run import Work, begin

Result = TypeVar("Result")
REFUSED = "Refused"
"""The state of a flow run whose input is wrong: of type FAILED, but nobody is told."""
LONGEST_NAME = 120


@dataclass(frozen=True)
class Capability(Generic[P]):
    """One thing that Nightshift can do, as a Prefect flow. P: the parameters of the flow."""

    name: str
    steps: tuple[Step[P], ...]
    makes: str | None = None
    """The kind of model whose champion it replaces."""
    started_by: str | None = None
    """The event of a model that may start it: an automation, off until somebody turns it on."""

    def flow(self, function: Callable[[Any], Result]) -> "prefect.Flow[..., Result]":
        """Make a flow of the function, with the hooks that every run needs.

        What is wrong with its input ends it as `REFUSED`; who called it here gets the InputError.
        """
        model = next(iter(typing.get_type_hints(function).values()))

        @functools.wraps(function)
        def checked(parameters: Any) -> Any:
            try:
                return function(_validated(model, parameters))
            except InputError as error:
                return Failed(name=REFUSED, message=str(error), data=error)

        def name() -> str:
            try:
                return self.run_name(_validated(model, flow_run.parameters.get("parameters", {})))
            except InputError:
                return self.name

        return prefect.flow(
            name=self.name,
            flow_run_name=name,
            validate_parameters=False,  # `checked` does
            on_running=[hold_lock],
            on_cancellation=[release_compute],
            on_crashed=[release_compute],
        )(checked)

    def run_name(self, parameters: BaseModel) -> str:
        """What tells its runs apart in lists: the model's name, and what is not as usual."""
        values = parameters.model_dump(mode="json", exclude_defaults=True)
        values.pop("name", None)
        words = [self.name, str(getattr(parameters, "name", ""))]
        named = " ".join(word for word in words if word)
        told = ", ".join([named, *(f"{name} {value}" for name, value in _flat(values))])
        return told if len(told) <= LONGEST_NAME else f"{told[: LONGEST_NAME - 1]}…"

    def begin(self, parameters: P, checksums: dict[str, str]) -> AbstractContextManager[Work[P]]:
        """Begin a run of it, or take up a killed one; see `tasks.runs.run.begin`."""
        return begin(self.name, self.steps, parameters, checksums)

    def plan(self, parameters: P) -> list[PlannedStep]:
        """What a run would launch, where and at which price."""
        return plan(self.steps, parameters)


def _validated(model: type[BaseModel], parameters: Any) -> Any:
    """Raises InputError naming the parameter that is wrong."""
    try:
        return model.model_validate(parameters)
    except ValidationError as error:
        where, message = first_fault(error)
        raise InputError(
            f"{'.'.join(where) or 'parameters'}: {message}",
            "Start it again with another value; docs/commands.md has every option's bounds.",
        ) from None


def _flat(values: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value)
        else:
            yield name.replace("_", " "), PurePath(str(value)).name or str(value)
