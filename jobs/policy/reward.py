"""The reward: a verifiable function with TRL's signature, or a reward model.

    def reward(prompts, completions, **columns) -> list[float]

`columns` are the other columns of the prompts file, each a list as long as `prompts`. For chat
prompts both are lists of messages, as TRL has it. So are `completion_ids` (token ids),
`trainer_state` (transformers' TrainerState), `log_extra(column, values)` and
`log_metric(name, value)`, which print here. A function that takes only some of these arguments gets
only those. It gets copies: what it changes is its own. So are torch's random numbers: seeding them
does not make the policy sample the same again. It may be a coroutine function.
"""

import asyncio
import copy
import importlib
import importlib.util
import inspect
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from importlib.machinery import ModuleSpec, SourceFileLoader
from itertools import islice
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from infra.errors import InputError
from jobs.policy.data import Prompt

if TYPE_CHECKING:  # it imports torch and PEFT, for five seconds
    from transformers import TrainerState


class Reward(Protocol):
    """A reward for each completion; raises InputError for what is none."""

    def __call__(
        self,
        prompts: Sequence[Prompt],
        completions: Sequence[str],
        completion_ids: Sequence[Sequence[int]] | None = None,
        trainer_state: "TrainerState | None" = None,
    ) -> list[float]: ...


def load_reward(spec: str, source: Path | None = None, option: str = "--reward") -> Reward:
    """The reward that `spec` names, checked at every call.

    `source` is the local copy of the user's file or folder, where the job was given one: the .py
    file, the folder that the module lies in, or the reward model. Raises InputError naming
    `option`.
    """
    if ":" not in spec:
        return _reward_model(source or Path(spec), "--reward-model")
    return _checked(load_function(spec, source, option), spec, option)


def load_function(spec: str, source: Path | None, option: str) -> Callable[..., Any]:
    """The function that `spec` names, module:function or file.py:function; `source` as above.

    Raises InputError naming `option`.
    """
    place, _, name = spec.rpartition(":")
    if place.endswith(".py"):
        path = source if source and source.is_file() else (source or Path()) / place
        return _named(_import_file(path, option), name, spec, option)
    return _named(_import_module(place, source, option), name, spec, option)


def _checked(function: Callable[..., Any], spec: str, option: str) -> Reward:
    import torch
    from transformers import TrainerState

    randomness = torch.get_rng_state()
    accepted, required = accepted_arguments(function), required_arguments(function)
    lasting = TrainerState()

    def rewards(
        prompts: Sequence[Prompt],
        completions: Sequence[str],
        completion_ids: Sequence[Sequence[int]] | None = None,
        trainer_state: "TrainerState | None" = None,
    ) -> list[float]:
        nonlocal randomness
        arguments = {
            **arguments_of(prompts, completions),
            "trainer_state": trainer_state or lasting,
            "log_extra": _log,
            "log_metric": _log,
        }
        if completion_ids is not None:
            arguments["completion_ids"] = [list(ids) for ids in completion_ids]
        if accepted is not None:
            arguments = {key: value for key, value in arguments.items() if key in accepted}
        if missing := [name for name in required if name not in arguments]:
            raise InputError(
                f"{option} {spec} reads {', '.join(missing)}, which the prompts have not",
                "Add it to each line of the prompts, or give the argument a default.",
            )
        try:
            gpus = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []
            with torch.random.fork_rng(devices=gpus):
                torch.set_rng_state(randomness)
                values = function(**arguments)
                if inspect.isawaitable(values):
                    values = asyncio.run(_awaited(values))
                if isinstance(values, Iterator):  # it may raise only here, or have no end
                    values = list(islice(values, len(completions) + 1))
                randomness = torch.get_rng_state()
        except (Exception, SystemExit) as error:
            raise InputError(
                f"{option} {spec} raised {type(error).__name__}: {error}{_line_of(error)}",
                f"Correct the function; it is called as f({', '.join(arguments)}) with lists.",
            ) from error
        return _finite(values, prompts, completions, spec, option)

    return rewards


async def _awaited(values: Any) -> Any:
    return await values


def _log(name: str, value: object) -> None:
    """Into the job's log, where TRL would show a table or a curve."""
    print(f"{name}: {value}", flush=True)


def arguments_of(prompts: Sequence[Prompt], completions: Sequence[str]) -> dict[str, list[Any]]:
    """Copies of what TRL would call a reward function with; a column that one lacks is None."""
    names = sorted({name for prompt in prompts for name in prompt.columns})
    arguments = {
        "prompts": [prompt.content for prompt in prompts],
        "completions": [
            text if isinstance(prompt.content, str) else [{"role": "assistant", "content": text}]
            for prompt, text in zip(prompts, completions, strict=True)
        ],
        **{name: [prompt.columns.get(name) for prompt in prompts] for name in names},
    }
    return {name: [copy.deepcopy(value) for value in each] for name, each in arguments.items()}


def _finite(
    values: Any, prompts: Sequence[Prompt], completions: Sequence[str], spec: str, option: str
) -> list[float]:
    try:
        if isinstance(values, Mapping | AbstractSet | str | bytes | bytearray | memoryview):
            raise TypeError
        values = list(values)
    except TypeError:
        raise InputError(
            f"{option} {spec} returned {type(values).__name__}, not a list of floats",
            "Return one float for each completion.",
        ) from None
    if len(values) != len(completions):
        raise InputError(
            f"{option} {spec} returned {len(values)} rewards for {len(completions)} completions",
            "Return one float for each completion, in their order.",
        )
    found = []
    for row, value in enumerate(values):
        number = value.item() if getattr(value, "shape", None) in ((), (1,)) else value
        if not isinstance(number, Real) or not _is_float(number):
            raise InputError(
                f"{option} {spec} returned {number!r} for row {row} (prompt line "
                f"{prompts[row].line}, completion {completions[row][:80]!r})",
                "Return a finite float for every completion, also for nonsense and empty ones.",
            )
        found.append(float(number))
    return found


def _is_float(number: Real) -> bool:
    try:
        return math.isfinite(number)
    except OverflowError:  # a whole number beyond all floats
        return False


def required_arguments(function: Callable[..., Any]) -> list[str]:
    """Names of the arguments that it cannot do without."""
    various = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [
        one.name
        for one in _parameters(function)
        if one.default is one.empty and one.kind not in various
    ]


def _parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
    """Of its signature, which some of C have not."""
    try:
        return list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return [inspect.Parameter("any", inspect.Parameter.VAR_KEYWORD)]


def accepted_arguments(function: Callable[..., Any]) -> set[str] | None:
    """Names of the arguments it takes; None for any."""
    parameters = _parameters(function)
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return None
    return {parameter.name for parameter in parameters}


def _line_of(error: BaseException) -> str:
    """Where in the user's code it was raised."""
    trace = error.__traceback__
    while trace and trace.tb_next:
        trace = trace.tb_next
    return f" (line {trace.tb_lineno} of {trace.tb_frame.f_code.co_filename})" if trace else ""


def _import_file(path: Path, option: str) -> Any:
    if not path.is_file():
        raise InputError(f"{option}: there is no file {path}", f"Correct {option}.")
    name = f"nightshift_reward_{path.stem}"
    loader = SourceFileLoader(name, str(path))  # named, as an input artefact has no suffix
    spec = ModuleSpec(name, loader, origin=str(path))
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    sys.path.insert(0, str(path.resolve().parent))  # it may import what lies beside it
    try:
        loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise _no_import(path, error, option) from error
    return module


def _import_module(name: str, folder: Path | None, option: str) -> Any:
    sys.path.insert(0, str(folder.resolve() if folder else Path.cwd()))
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:
        raise _no_import(name, error, option) from error


def _no_import(what: object, error: BaseException, option: str) -> InputError:
    return InputError(
        f"{option}: {what} cannot be imported: {type(error).__name__}: {error}{_line_of(error)}",
        f"Give {option} as module:function or file.py:function; what it imports must be "
        "installed in the job's environment.",
    )


def _named(module: Any, name: str, spec: str, option: str) -> Callable[..., Any]:
    function = getattr(module, name, None)
    if not callable(function):
        raise InputError(f"{option} {spec}: there is no function {name!r}", f"Correct {option}.")
    return function


def _reward_model(path: Path, option: str) -> Reward:
    from jobs.policy.reward_model import load_scorer

    return _checked(load_scorer(path, option), str(path), option)
