"""Which flows and presets there are; nothing heavy is imported before a flow is asked for."""

import ast
import importlib
import inspect
import typing
from pathlib import Path
from typing import Any

from infra.errors import InputError
from infra.flows import FLOWS, flow_names

PRESETS = Path(__file__).resolve().parent / "presets"


def require_flow(name: str, option: str) -> None:
    """Raises InputError, naming the option, where there is no such flow."""
    if name not in flow_names():
        raise InputError(
            f"{option}: there is no flow {name!r}", f"Flows are {', '.join(flow_names())}."
        )


def first_line(name: str) -> str:
    """The first line of a flow's docstring, without importing Prefect."""
    module = ast.parse((FLOWS / f"{name.replace('-', '_')}.py").read_text())
    for node in module.body:
        if isinstance(node, ast.FunctionDef) and node.name == name.replace("-", "_"):
            return (ast.get_docstring(node) or "").split("\n")[0]
    return ""


def flow_module(name: str) -> Any:
    """The module of a flow: flows/<name>.py."""
    return importlib.import_module(f"flows.{name.replace('-', '_')}")


def flow_function(name: str) -> Any:
    """The flow of that name: the module's function of the same name."""
    return getattr(flow_module(name), name.replace("-", "_"))


def parameter_model(name: str) -> Any:
    """The pydantic model that is the one parameter of a flow."""
    function = flow_function(name).fn
    hints = typing.get_type_hints(function)
    return hints[next(iter(inspect.signature(function).parameters))]


def preset_names(flow: str) -> list[str]:
    """One preset a file of deployments/presets/<flow>/."""
    return sorted(path.stem for path in (PRESETS / flow).glob("*.yaml"))


def load_preset(flow: str, name: str) -> dict[str, Any]:
    """The parameter values of one preset file."""
    import yaml

    return yaml.safe_load((PRESETS / flow / f"{name}.yaml").read_text())
