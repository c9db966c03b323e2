"""Which flows and presets there are; nothing heavy is imported before a flow is asked for."""

import ast
import importlib
import inspect
import typing
from pathlib import Path
from typing import Any

from infra.errors import InputError
from infra.services.flows import FLOWS, flow_names

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


def capability(name: str) -> Any:
    """What a flow declares: its steps, the kind of model that it makes, what may start it."""
    return flow_module(name).capability


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
    from deployments import strict_yaml

    return strict_yaml.load((PRESETS / flow / f"{name}.yaml").read_text())


def load_config(path: Path) -> dict[str, Any]:
    """The parameter values of a user's file, as a run leaves one beside its report.

    Raises InputError for a file that is not there, or is no YAML of names and values.
    """
    import yaml

    from deployments import strict_yaml

    remedy = "Give a YAML file of names and values; each run leaves one beside its report."
    try:
        values = strict_yaml.load(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        told = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"--config {path} cannot be read: {told}", remedy) from None
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise InputError(f"--config {path} is no YAML: {line}{error.problem}", remedy) from None
    except yaml.YAMLError as error:
        told = " ".join(str(error).split())
        raise InputError(f"--config {path} is no YAML: {told}", remedy) from None
    if not isinstance(values, dict):
        raise InputError(f"--config {path} holds no names and values", remedy)
    return values
