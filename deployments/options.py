"""Command-line options made from a flow's parameter model, so that both always agree."""

import re
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import click
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from infra.errors import InputError, first_fault

BOUNDS = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}
"""Names of annotated_types → words."""
FILES = (".py", ".jsonl", ".json", ".gz", ".csv", ".parquet", ".epw")
"""How a name ends that is a file's, and no hub id's."""
SCALARS = {int: click.INT, float: click.FLOAT, str: click.STRING, Decimal: click.STRING}


def options(model: type[BaseModel]) -> list[click.Parameter]:
    """One option a field, those of nested models too; no two fields have the same name."""
    return [_option(path, field) for path, field in fields(model)]


def parameters(
    model: type[BaseModel],
    given: dict[str, Any],
    preset: dict[str, Any] | None = None,
    file: str | None = None,
) -> BaseModel:
    """The model from the values of a preset or a file, and the options given on top of them.

    Raises InputError naming the option that is wrong, or those that do not fit together, and the
    `file` where the fault is in its values.
    """
    try:
        return model.model_validate(over(model, preset or {}, given))
    except ValidationError as error:
        where, message = first_fault(error)
        remedy = "--help tells every option's bounds."
        known = dict(fields(model))
        flags = {path: _flag(path) for path in known if path[: len(where)] == where}
        if where in known:
            meaning = known[where].description
            remedy = f"{meaning} {remedy}" if meaning else remedy
            told = f"{_flag(where)}: {message}"
        elif flags:
            words = {path[-1]: flag for path, flag in flags.items()}
            told = re.sub(r"\w+", lambda word: words.get(word[0], word[0]), message)
        else:  # of a preset or a file
            told = f"{'.'.join(where)}: {message}"
            if len(where) == 1 and (whole := whole_name(model, where[0].replace("-", "_"))):
                told = f"{told}; it is named {whole}"
        if file and all(given.get("__".join(path)) is None for path in flags):
            told = f"{file}: {told}"
        raise InputError(told, remedy) from None


def over(model: type[BaseModel], values: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """The values of a preset or a file, with options on top of them."""
    values = _copy(values)
    for path, _ in fields(model):
        value = given.get("__".join(path))
        if value is not None:
            inner = values
            for name in path[:-1]:
                inner = inner.setdefault(name, {})
            inner[path[-1]] = value
    return values


def whole_name(model: type[BaseModel], name: str) -> str | None:
    """'dpo.beta' for 'beta', which is an option, but a parameter of a nested model."""
    paths = (path for path, _ in fields(model) if path[-1] == name and len(path) > 1)
    return next((".".join(path) for path in paths), None)


def flat(model: type[BaseModel], values: dict[str, Any]) -> dict[str, Any]:
    """The values of a file as options give them, nested ones by their paths; unknown ones not.

    Raises InputError for a value where a group of them belongs.
    """
    found = {}
    for path, _ in fields(model):
        inner: Any = values
        for depth, name in enumerate(path):
            if not isinstance(inner, dict):
                group = ".".join(path[:depth])
                raise InputError(f"{group} is a group of values", f"Write {group}: {{{name}: …}}.")
            if (inner := inner.get(name)) is None:
                break
        else:
            found["__".join(path)] = inner
    return found


def absolute(model: type[BaseModel], given: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The options given, with the files of `folder` that they name as absolute paths. A default is
    the project's own, whatever is there."""
    places = {"__".join(path): field.default for path, field in fields(model) if _is_place(field)}
    return given | {
        name: _absolute(value, folder)
        for name, value in given.items()
        if name in places and isinstance(value, str) and value != places[name]
    }


def absent(model: type[BaseModel], chosen: BaseModel) -> InputError | None:
    """The error of the first file that the parameters name and that is not there. Only what is a
    file by its form: anything else may be a hub id, a module's function or the demo's own."""
    for path, field in fields(model):
        value: Any = chosen
        for name in path:
            value = getattr(value, name)
        if not (_is_place(field) and value is not None):
            continue
        file, colon, _ = str(value).rpartition(":")
        file = file if colon else str(value)
        is_file = file.startswith((".", "/", "~")) or file.endswith(FILES)
        if is_file and "://" not in str(value) and not Path(file).expanduser().exists():
            flag = _flag(path)
            return InputError(f"{flag}: there is no file {file}", f"Give {flag} an existing one.")
    return None


def _is_place(field: FieldInfo) -> bool:
    kind = _without_none(field.annotation)
    return kind is Path or "place" in field.metadata or "place" in getattr(kind, "__metadata__", ())


def _absolute(value: str, folder: Path) -> str:
    """A file or folder, or the file of file.py:function or module:function, if it is there."""
    if (found := folder / Path(value).expanduser()).exists():
        return str(found)
    place, colon, function = value.rpartition(":")
    file = place if place.endswith(".py") else f"{place.replace('.', '/')}.py"
    if colon and (folder / file).is_file():
        return f"{folder / file}:{function}"
    return value


def fields(
    model: type[BaseModel], above: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], FieldInfo]]:
    """Every field that is an option, with its path through nested models."""
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from fields(kind, (*above, name))
        else:
            yield (*above, name), field


def _option(path: tuple[str, ...], field: FieldInfo) -> click.Parameter:
    kind = _without_none(field.annotation)
    default = field.get_default(call_default_factory=True)
    shown = "required" if field.is_required() else f"default: {_shown(default)}"
    shown = "; ".join([shown, *_bounds(field)])
    text = f"{field.description or field.title or ''} [{shown}]".strip()
    name = "__".join(path)
    if kind is bool:
        flag = _flag(path)
        return click.Option([f"{flag}/--no-{flag[2:]}", name], default=None, help=text)
    if get_origin(kind) is Literal:
        choice = click.Choice([str(value) for value in get_args(kind)])
        return click.Option([_flag(path), name], type=choice, help=text)
    if kind is Path:
        return click.Option([_flag(path), name], type=click.Path(), help=text)
    return click.Option([_flag(path), name], type=SCALARS.get(kind, click.STRING), help=text)


def _bounds(field: FieldInfo) -> list[str]:
    """['more than 0', 'at most 168']"""
    return [
        f"{words} {getattr(bound, name)}"
        for bound in field.metadata
        for name, words in BOUNDS.items()
        if hasattr(bound, name)
    ]


def _without_none(kind: Any) -> Any:
    if get_origin(kind) in (Union, UnionType):
        return next(part for part in get_args(kind) if part is not NoneType)
    return kind


def _flag(path: tuple[str, ...]) -> str:
    return "--" + path[-1].replace("_", "-")


def _shown(default: Any) -> str:
    if default is None:
        return "none"
    if default is False:
        return "no"
    return "yes" if default is True else str(default)


def _copy(values: dict[str, Any]) -> dict[str, Any]:
    return {k: _copy(v) if isinstance(v, dict) else v for k, v in values.items()}
