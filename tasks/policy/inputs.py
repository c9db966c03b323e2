"""What a user gives to a training flow: model, prompts, reward. Checked and stored before a cent
is spent, under names made from their content."""

import ast
import gzip
import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from infra.contract import Artifact, Stored
from infra.errors import InputError
from infra.settings import REPOSITORY
from jobs.policy.data import check_apart, read_prompts
from tasks.champions.gate import FEWEST
from tasks.runs.given import require_file, store

HELD_OUT_SHARE = 5
"""Without a file of held-out prompts every fifth prompt, by its hash, is held out."""
HUB_ID = re.compile(r"[^/:]+/[^/:]+")


class Inputs(BaseModel):
    """The stored inputs of a run. `base` is None for a model that the job gets from a hub, all
    of base, prompts and held_out while the demo's own, of the version `design`, are not made yet.
    """

    base: Artifact | None = None
    prompts: Artifact | None = None
    held_out: Artifact | None = None
    reward: Artifact | None = None
    success: Artifact | None = None
    design: str | None = None

    def some(self, *names: str) -> dict[str, Stored]:
        """Those of the inputs that there are, by name."""
        found = {name: getattr(self, name) for name in names}
        return {name: artifact for name, artifact in found.items() if artifact is not None}

    @property
    def checksums(self) -> dict[str, str]:
        """Name → sha256: what makes two starts the same run."""
        found = {n: v.sha256 for n, v in dict(self).items() if isinstance(v, Artifact)}
        return found | ({"design": self.design} if self.design else {})


def store_model(model: str, option: str = "--model", kind: str = "models") -> Artifact | None:
    """Store a local model folder; None where `model` is no folder but a hub id."""
    folder = find_model(model, option, kind)
    return store(folder, kind) if folder else None


def find_model(model: str, option: str = "--model", kind: str = "models") -> Path | None:
    """The folder of a model; None where `model` is a hub id. Raises InputError."""
    example = "Qwen/Qwen3-0.6B" if kind == "models" else "Skywork/Skywork-Reward-V2-Qwen3-0.6B"
    folder = Path(model).expanduser()
    if not model.strip():
        raise InputError(
            f"{option}: it is empty",
            f"Give a folder that save_pretrained() wrote, or a hub id such as {example}.",
        )
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise InputError(
                f"{option}: {model} has no config.json",
                "Give a folder that save_pretrained() wrote, or a Hugging Face hub id.",
            )
        return folder
    if folder.exists() or model.startswith((".", "/", "~")) or not HUB_ID.fullmatch(model):
        raise InputError(
            f"{option}: there is no folder {model}, and it is no hub id",
            f"Give a folder that save_pretrained() wrote, or a hub id such as {example}.",
        )
    return None


def store_prompts(prompts: str, held_out: str | None, scratch: Path) -> tuple[Artifact, Artifact]:
    """Check and store training and held-out prompts; without a held-out file a fifth is split off.

    Raises InputError naming option, file and line.
    """
    training = read_prompts(require_file("--prompts", prompts))
    if held_out is not None:
        apart = read_prompts(require_file("--held-out", held_out), "--held-out")
        check_apart(training, apart)
        return store(Path(prompts), "prompts"), store(Path(held_out), "prompts")
    sides: dict[bool, list[str]] = {False: [], True: []}
    for text in dict.fromkeys(_lines(Path(prompts))):
        sides[_is_held_out(text)].append(text)
    if min(len(sides[True]), len(sides[False])) < FEWEST:
        raise InputError(
            f"--prompts: {prompts} has {len(training)} prompts, too few to hold a fifth out",
            f"Give at least {10 * FEWEST} prompts, or held-out ones with --held-out.",
        )
    stored = []
    for name, lines in (("training", sides[False]), ("held_out", sides[True])):
        path = scratch / f"{name}.jsonl"
        path.write_text("\n".join(lines) + "\n")
        stored.append(store(path, "prompts"))
    return stored[0], stored[1]


def store_reward(reward: str | None, reward_model: str | None) -> Artifact | None:
    """Store the function or the model that rewards. Raises InputError where both are given."""
    if reward_model is None:
        return store_function("--reward", reward)
    if reward is not None:
        raise InputError("--reward: a --reward-model is given too", "Give one of them.")
    return store_model(reward_model, "--reward-model", "reward-models")


def store_function(option: str, spec: str | None) -> Artifact | None:
    """Store the user's file behind `module:function` or `file.py:function`; None where the job
    finds it by itself. Where the file is here, it is parsed, not run, and must define the name."""
    if spec is None:
        return None
    place, _, name = spec.rpartition(":")
    if not name.isidentifier() or not (place.endswith(".py") or all(place.split("."))):
        remedy = "Give module:function or file.py:function."
        if option == "--reward":
            remedy += " A reward model goes to --reward-model."
        raise InputError(f"{option}: {spec!r} does not name a function", remedy)
    if place.endswith(".py"):
        path = require_file(option, place)
    else:
        path = Path(*place.split(".")).with_suffix(".py")
        if path.parts[0] == "jobs":
            _require_ours(option, place, name)
            return None
        if not path.is_file():
            return None
    _require_defined(option, path, name)
    return store(path, "functions")


def _require_ours(option: str, module: str, name: str) -> None:
    """Raises InputError where this project's module, or its function, does not exist."""
    place = Path(*module.split("."))
    for path in (place.with_suffix(".py"), place / "__init__.py"):
        if (REPOSITORY / path).is_file():
            return _require_defined(option, path, name, REPOSITORY)
    raise InputError(f"{option}: there is no module {module}", f"Correct {option}.")


def _require_defined(option: str, path: Path, name: str, root: Path = Path()) -> None:
    """Raises InputError where a file is no Python or does not define `name` at its top level."""
    try:
        defined = set(_defined(ast.parse((root / path).read_bytes())))
    except (SyntaxError, ValueError, RecursionError) as error:
        line = f", line {error.lineno}" if isinstance(error, SyntaxError) else ""
        why = error.msg if isinstance(error, SyntaxError) else error
        raise InputError(f"{option}: {path}{line}: {why}", "Correct the file.") from None
    if not defined & {name, "*"}:
        raise InputError(f"{option}: there is no function {name!r} in {path}", f"Correct {option}.")


def _defined(node: ast.AST) -> Iterator[str]:
    """Names that a module's statements bind, '*' among them where another module says which."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield child.name
        elif isinstance(child, ast.alias):
            yield child.asname or child.name.partition(".")[0]
        elif isinstance(child, ast.Name) and isinstance(child.ctx, ast.Store):
            yield child.id
        else:
            yield from _defined(child)


def function_spec(spec: str, stored: Artifact | None) -> str:
    """How a job names the function: one that came as a stored file by a file's name."""
    place, colon, name = spec.rpartition(":")
    if stored is None or not colon or place.endswith(".py"):
        return spec
    return f"{place.rpartition('.')[2]}.py:{name}"


def _lines(path: Path) -> list[str]:
    raw = path.read_bytes()
    text = (gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw).decode("utf-8-sig")
    return [line.strip() for line in text.split("\n") if line.strip()]


def _is_held_out(line: str) -> bool:
    """By the prompt alone, so that the same prompt with other columns stays on one side."""
    row: dict[str, Any] = json.loads(line)
    asked = json.dumps(row.get("prompt") or row.get("messages"), sort_keys=True)
    return int.from_bytes(hashlib.sha256(asked.encode()).digest()[:4]) % HELD_OUT_SHARE == 0
