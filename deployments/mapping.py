"""From an event to the parameters of a flow: Jinja templates, the budget, the flow's own model."""

import json
from decimal import Decimal
from functools import lru_cache
from typing import Any

from jinja2 import StrictUndefined, Template, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from pydantic import BaseModel, ValidationError

from deployments.options import whole_name
from deployments.signatures import Event, Malformed
from infra.errors import first_fault
from infra.hooks import Hook

DEEPEST = 100
"""Levels of nesting; pydantic, which writes Prefect's events, ends at 255."""

_environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined)


@lru_cache(maxsize=4096)
def compiled(template: str) -> Template:
    """A template of a mapping. Raises jinja2.TemplateError."""
    return _environment.from_string(template)


def parameters(hook: Hook, model: type[BaseModel], event: Event) -> str:
    """The flow's parameters as JSON: only what was given, checked by the flow's own model.

    A hook with a mapping takes nothing but what it maps. Raises Malformed with the field named.
    """
    given = _render(hook.mapping, event) if hook.mapping else event.given
    if hook.max_cost is not None and "max_cost" in model.model_fields:
        given = {"max_cost": str(hook.max_cost)} | given
    try:
        checked = model.model_validate(given)
    except ValidationError as error:
        where, message = first_fault(error)
        if len(where) == 1 and (whole := whole_name(model, where[0])):
            message = f"{message}; it is named {whole}"
        raise Malformed(message, ".".join(where) or "data") from None
    except (RecursionError, ArithmeticError) as error:
        raise Malformed(str(error), "data") from None
    cost: Decimal | None = getattr(checked, "max_cost", None)
    if hook.max_cost is not None and cost is not None and cost > hook.max_cost:
        raise Malformed(f"this hook may spend at most {hook.max_cost:f} dollars a run", "max_cost")
    return storable(checked.model_dump(mode="json", exclude_unset=True))


def _render(mapping: dict[str, str], event: Event) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for path, template in mapping.items():
        *above, last = path.split(".")
        inner = values
        for name in above:
            inner = inner.setdefault(name, {})
        try:
            inner[last] = compiled(template).render(event.context)
        except (TemplateError, TypeError, ValueError, ArithmeticError, LookupError) as error:
            raise Malformed(f"{template}: {error}", path) from None
    return values


def storable(values: Any) -> str:
    """JSON that PostgreSQL and Prefect can keep: finite numbers, Unicode without a NUL, and at most
    DEEPEST levels.

    Raises Malformed for what is not.
    """
    try:
        text = json.dumps(values, allow_nan=False, ensure_ascii=False)
        text.encode()
    except (ValueError, RecursionError) as error:
        raise Malformed(f"cannot be stored: {error}", "data") from None
    # texts of backslashes and brackets look the same, so the values themselves say
    if r"\u0000" in text or text.count("[") + text.count("{") > DEEPEST:
        _check(values, DEEPEST)
    return text


def _check(value: Any, levels: int) -> None:
    if isinstance(value, dict | list):
        if levels == 0:
            raise Malformed(f"is nested deeper than {DEEPEST} levels", "data")
        parts = value if isinstance(value, list) else [*value, *value.values()]
        for part in parts:
            _check(part, levels - 1)
    elif isinstance(value, str) and "\0" in value:
        raise Malformed("holds a NUL character", "data")
