"""What a user gives to a training flow: model, prompts, reward. Checked and stored before a cent
is spent, under names made from their content."""

import gzip
import hashlib
import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from infra.errors import InputError
from infra.objects import put
from infra.objects.manifest import scan
from infra.settings import settings
from jobs.contract import Artifact
from jobs.ppo.data import check_apart, read_prompts
from tasks.gate import FEWEST

HELD_OUT_SHARE = 5
"""Without a file of held-out prompts every fifth prompt, by its hash, is held out."""


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

    def uris(self, *names: str) -> dict[str, str]:
        """Name → URI of those inputs that there are."""
        found = {name: getattr(self, name) for name in names}
        return {name: artifact.uri for name, artifact in found.items() if artifact is not None}

    @property
    def checksums(self) -> dict[str, str]:
        """Name → sha256: what makes two starts the same run."""
        found = {n: v.sha256 for n, v in dict(self).items() if isinstance(v, Artifact)}
        return found | ({"design": self.design} if self.design else {})


def store(source: Path, kind: str) -> Artifact:
    """Store a user's file or folder under its content's name."""
    root = settings().objects_uri
    return put(source, f"{root}/datasets/{kind}/{scan(source).sha256[:16]}")


def store_model(model: str) -> Artifact | None:
    """Store a local model folder; None where `model` is no folder but a hub id."""
    folder = Path(model).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise InputError(
                f"--model: {model} has no config.json",
                "Give a folder that save_pretrained() wrote, or a Hugging Face hub id.",
            )
        return store(folder, "models")
    if folder.exists() or model.startswith((".", "/", "~")) or model.count("/") != 1:
        raise InputError(
            f"--model: there is no folder {model}, and it is no hub id",
            "Give a folder that save_pretrained() wrote, or a hub id such as Qwen/Qwen3-0.6B.",
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


def store_function(option: str, spec: str | None) -> Artifact | None:
    """Store the user's file or folder behind `module:function`, `file.py:function` or a model
    folder; None where the job finds it by itself (this project's modules, a hub id)."""
    if spec is None:
        return None
    place, colon, name = spec.rpartition(":")
    if not colon:
        return store(Path(spec), "reward-models") if Path(spec).is_dir() else None
    if not name.isidentifier() or not (place.endswith(".py") or all(place.split("."))):
        raise InputError(
            f"{option}: {spec!r} does not name a function",
            "Give module:function or file.py:function.",
        )
    if place.endswith(".py"):
        return store(require_file(option, place), "functions")
    module = Path(*place.split(".")).with_suffix(".py")
    if module.is_file() and module.parts[0] != "jobs":
        return store(module, "functions")
    return None


def function_spec(spec: str, stored: Artifact | None) -> str:
    """How a job names the function: one that came as a stored file by a file's name."""
    place, colon, name = spec.rpartition(":")
    if stored is None or not colon or place.endswith(".py"):
        return spec
    return f"{place.rpartition('.')[2]}.py:{name}"


def require_file(option: str, path: str) -> Path:
    """The path of a user's file. Raises InputError naming the option where there is none."""
    if not Path(path).is_file():
        raise InputError(f"{option}: there is no file {path}", f"Give {option} an existing file.")
    return Path(path)


def _lines(path: Path) -> list[str]:
    raw = path.read_bytes()
    text = (gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw).decode("utf-8-sig")
    return [line.strip() for line in text.split("\n") if line.strip()]


def _is_held_out(line: str) -> bool:
    """By the prompt alone, so that the same prompt with other columns stays on one side."""
    row: dict[str, Any] = json.loads(line)
    asked = json.dumps(row.get("prompt") or row.get("messages"), sort_keys=True)
    return int.from_bytes(hashlib.sha256(asked.encode()).digest()[:4]) % HELD_OUT_SHARE == 0
