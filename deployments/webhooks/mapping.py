"""From an event to the parameters of a flow: Jinja templates, the budget, the flow's own model."""

import json
import math
from collections.abc import Callable, Mapping
from decimal import Decimal
from functools import lru_cache
from typing import Any

from jinja2 import (
    StrictUndefined,
    Template,
    TemplateError,
    TemplateRuntimeError,
    TemplateSyntaxError,
    Undefined,
    nodes,
)
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from pydantic import BaseModel, ValidationError

from deployments.options import whole_name
from deployments.webhooks.signatures import Event, Malformed
from infra.errors import first_fault
from infra.hooks import Hook

DEEPEST = 100
"""Levels of nesting; pydantic, which writes Prefect's events, ends at 255."""

MAPPED = 10_000
"""Characters of a mapped parameter at most."""
NODES = (
    *(nodes.Template, nodes.Output, nodes.TemplateData, nodes.If, nodes.CondExpr, nodes.Name),
    *(nodes.Const, nodes.List, nodes.Tuple, nodes.Dict, nodes.Pair, nodes.Keyword),
    *(nodes.Getattr, nodes.Getitem, nodes.Slice, nodes.Call, nodes.Filter, nodes.Test),
    *(nodes.Compare, nodes.Operand, nodes.And, nodes.Or, nodes.Not, nodes.Neg, nodes.Pos),
    *(nodes.Add, nodes.Sub, nodes.Mul, nodes.Div, nodes.FloorDiv),
)
"""What a template is made of. Without loops and variables each part of it is computed once."""
FILTERS = {"abs", "d", "default", "first", "last", "length", "round", "tojson"}
OF_TEXT = {"capitalize", "lower", "title", "trim", "upper"}
METHODS = {
    *("casefold", "capitalize", "endswith", "get", "items", "keys", "lower", "lstrip"),
    *("partition", "removeprefix", "removesuffix", "rpartition", "rsplit", "rstrip", "split"),
    *("startswith", "strip", "title", "upper", "values"),
}
"""Filters, and methods of texts and objects, whose results are no larger than what they get."""


class _Bounded(ImmutableSandboxedEnvironment):
    """Templates whose work and results are bounded by the sizes of template and event."""

    intercepted_binops = frozenset({"*"})

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if not (isinstance(left, int | float) and isinstance(right, int | float)):
            raise TemplateRuntimeError("only numbers can be multiplied")
        return super().call_binop(context, operator, left, right)

    def is_safe_callable(self, obj: Any) -> bool:
        owner = getattr(obj, "__self__", None)
        return isinstance(owner, str | dict) and obj.__name__ in METHODS


def _text(value: Any) -> Any:
    """What is written for the value of an expression. Raises TemplateRuntimeError."""
    if value is None:
        raise TemplateRuntimeError("it is null; `X or 'text'` says what stands for it")
    if isinstance(value, float) and not math.isfinite(value):
        raise TemplateRuntimeError(f"it is {value}, no number")
    if not isinstance(value, str | int | float | Undefined):
        raise TemplateRuntimeError("it is an object or a list; name what is in it, or use tojson")
    return value


def _join(values: list[Any], between: str = "") -> str:
    texts = [str(_text(value)) for value in values]
    _limit(sum(map(len, texts)) + len(texts) * len(between))
    return between.join(texts)


def _replace(text: str, old: str, new: str) -> str:
    _limit(len(text) + text.count(old) * len(new))
    return text.replace(old, new)


def _limit(length: int) -> None:
    if length > MAPPED:
        raise TemplateRuntimeError(f"it has more than {MAPPED:,} characters")


def _of_text(filter_: Callable[..., Any]) -> Callable[..., Any]:
    """Jinja's own makes 'None' of null, and 0 of what is no number."""
    return lambda value, *rest: filter_(_text(value), *rest)


def _made() -> _Bounded:
    made = _Bounded(undefined=StrictUndefined, finalize=_text)
    theirs = made.filters
    made.filters = {name: theirs[name] for name in FILTERS}
    made.filters |= {name: _of_text(theirs[name]) for name in OF_TEXT}
    made.filters |= {"join": _join, "replace": _replace}
    made.filters |= {"int": int, "float": float, "string": lambda value: str(_text(value))}
    made.globals.clear()
    return made


_environment = _made()


@lru_cache(maxsize=4096)
def compiled(template: str) -> Template:
    """A template of a mapping. Raises jinja2.TemplateError, also for what NODES has not."""
    tree = _environment.parse(template)
    for node in tree.find_all(nodes.Node):
        if not isinstance(node, NODES):
            raise TemplateSyntaxError(f"a mapping has no {type(node).__name__}", node.lineno)
    return _environment.from_string(tree)


def parameters(hook: Hook, model: type[BaseModel], event: Event) -> str:
    """The flow's parameters as JSON: only what was given, checked by the flow's own model.

    A hook with a mapping takes nothing but what it maps. Raises Malformed with the field named.
    """
    given = rendered(hook.mapping, event.context) if hook.mapping else event.given
    if hook.max_cost is not None and "max_cost" in model.model_fields:
        given = {"max_cost": str(hook.max_cost)} | given
    _check(given, DEEPEST)
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


def rendered(mapping: Mapping[str, str], context: Mapping[str, Any]) -> dict[str, Any]:
    """The texts of a mapping's templates by path; a path with dots makes objects in objects.

    Raises Malformed with the path named."""
    values: dict[str, Any] = {}
    for path, template in mapping.items():
        *above, last = path.split(".")
        inner = values
        for name in above:
            inner = inner.setdefault(name, {})
        try:
            text = compiled(template).render(context)
            _limit(len(text))
            inner[last] = text
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
