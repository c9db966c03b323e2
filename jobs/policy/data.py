"""Prompts, trajectories and preferences as JSON lines, plain or gzipped. No torch here: the
control plane checks the user's files with this before money is spent.

    {"prompt": "a spur gear with 20 teeth", "teeth": 20}         other columns go to the reward
    {"messages": [{"role": "user", "content": "..."}]}           for a model with a chat template
"""

import gzip
import json
import math
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError, model_validator

from infra.errors import InputError, first_fault

Message = dict[str, str]
RESERVED = {
    *("prompts", "completions", "completion", "completion_ids"),
    *("trainer_state", "log_extra", "log_metric"),
}
"""What reward functions are called with beside the columns."""


ROLES = {
    **{name: name for name in ("system", "developer", "user", "assistant", "tool", "function")},
    **dict.fromkeys(("human", "prompter"), "user"),
    **dict.fromkeys(("gpt", "chatgpt", "bot", "model", "ai"), "assistant"),
    "observation": "tool",
}
"""Roles, in any case → those of chat templates; others stay as they are."""


@dataclass(frozen=True)
class Prompt:
    """What the policy is asked: a text, or chat messages; `line` is its number in its file."""

    content: str | list[Message]
    columns: dict[str, Any] = field(default_factory=dict)
    line: int = 0

    @property
    def text(self) -> str:
        """The prompt as one string; messages as JSON."""
        if isinstance(self.content, str):
            return self.content
        return json.dumps(self.content, ensure_ascii=False)


class Trajectory(BaseModel):
    """One completion with what was known when it was sampled.

    `logprobs` are natural logarithms under the behaviour policy at its temperature, one for each
    completion token, the end-of-sequence token included.
    """

    prompt: str
    completion: str
    prompt_token_ids: list[int]
    completion_token_ids: list[int]
    logprobs: list[float]
    reward: float
    model_version: str = "0"
    columns: dict[str, Any] = {}

    @model_validator(mode="after")
    def _whole(self) -> "Trajectory":
        if not self.prompt_token_ids or not self.completion_token_ids:
            raise ValueError("prompt_token_ids and completion_token_ids must not be empty")
        if len(self.logprobs) != len(self.completion_token_ids):
            raise ValueError(
                f"{len(self.logprobs)} logprobs for {len(self.completion_token_ids)} tokens"
            )
        if not math.isfinite(self.reward) or not all(map(math.isfinite, self.logprobs)):
            raise ValueError("reward and logprobs must be finite")
        return self

    @property
    def length(self) -> int:
        """Tokens of prompt and completion."""
        return len(self.prompt_token_ids) + len(self.completion_token_ids)


@dataclass(frozen=True)
class Preference:
    """Two completions of one prompt, the better one first."""

    prompt: str | list[Message]
    chosen: str
    rejected: str


def read_prompts(path: Path, option: str = "--prompts") -> list[Prompt]:
    """The prompts of a file in its order; a line that repeats an earlier one whole is left out.

    Raises InputError naming the file, the line and `option`.
    """
    prompts: list[Prompt] = []
    seen: set[str] = set()
    for number, row in _rows(path, option):
        try:
            fields = ", ".join(row)
            content = content_of(row.pop("prompt", None) or row.pop("messages", None), fields)
            if isinstance(content, str):
                content = stored_content(content)
            _require_open(content)
            check_columns(row)
            require_text_alone(row)
        except ValueError as error:
            raise _broken(path, number, str(error), option) from None
        key = json.dumps([content, row], sort_keys=True)
        if key not in seen:
            seen.add(key)
            prompts.append(Prompt(content, row, number))
    if not prompts:
        raise InputError(f"{path} holds no prompt.", f"Name a file with prompts in {option}.")
    return prompts


def check_apart(training: list[Prompt], held_out: list[Prompt]) -> None:
    """Raises InputError where a held-out prompt is also trained on."""
    trained = {prompt.text: prompt.line for prompt in training}
    for prompt in held_out:
        if prompt.text in trained:
            raise InputError(
                f"the held-out prompt of line {prompt.line} is also line {trained[prompt.text]} "
                "of the training prompts",
                "Remove it from one of the two files: a policy is not judged on what it trained.",
            )


def read_preferences(path: Path) -> list[Preference]:
    """Pairs of completions, {"prompt", "chosen", "rejected"} a line. Raises InputError."""
    option = "--preferences"
    pairs = []
    for number, row in _rows(path, option):
        try:
            pairs.append(_preference(row))
        except ValueError as error:
            raise _broken(path, number, str(error), option) from None
    if len(pairs) < 2:
        raise InputError(f"{path} holds {len(pairs)} preferences.", f"Give at least 2 in {option}.")
    return pairs


def read_texts(path: Path) -> list[str]:
    """Reference texts, {"text"} a line. Raises InputError naming file and line."""
    texts = []
    for number, row in _rows(path, "--reference"):
        if not isinstance(row.get("text"), str) or not row["text"].strip():
            raise _broken(path, number, "`text` must be a text", "--reference")
        texts.append(row["text"])
    return texts


def read_trajectories(path: Path) -> list[Trajectory]:
    """Stored trajectories in the order of the file. Raises InputError naming file and line."""
    found = []
    for number, row in _rows(path, "the trajectories"):
        try:
            found.append(Trajectory.model_validate(row))
        except ValidationError as error:
            where, message = first_fault(error)
            fault = f"{'.'.join(where)}: {message}"
            raise _broken(path, number, fault, "the trajectories") from None
    return found


def write_trajectories(path: Path, trajectories: Iterable[Trajectory]) -> None:
    """Write JSON lines, gzipped where the name ends so; the same rows give the same bytes."""
    lines = "".join(trajectory.model_dump_json() + "\n" for trajectory in trajectories)
    data = lines.encode()
    path.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)


def _rows(path: Path, option: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number, object) of each line that is not blank."""
    for number, line in read_lines(path, option):
        yield number, _parse(path, number, line, option)


def read_lines(path: Path, option: str) -> Iterator[tuple[int, bytes]]:
    """(number, bytes) of each line of a plain or gzipped file that is not blank.

    Raises InputError naming `option` where the file cannot be read on.
    """
    number = 0
    try:
        with path.open("rb") as raw:
            zipped = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            stream = gzip.GzipFile(fileobj=raw) if zipped else raw
            for number, line in enumerate(stream, 1):
                if number == 1 and b"\0" in line:  # as UTF-16 and archives have it
                    raise InputError(
                        f"{path} is no UTF-8 text", f"Save {option} as UTF-8, plain or gzipped."
                    )
                if line.strip():
                    yield number, line
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(
            f"{path} cannot be read after line {number}: {error}", f"Correct {option}."
        ) from None


def _parse(path: Path, number: int, line: bytes, option: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
        if b"\\ud" in line.lower():  # only an escape can give half of a pair, which is no text
            json.dumps(row, ensure_ascii=False).encode()
    except UnicodeDecodeError:
        raise _broken(path, number, "no UTF-8", option) from None
    except UnicodeEncodeError:
        raise _broken(path, number, "an escape is half of a surrogate pair", option) from None
    except (ValueError, RecursionError) as error:
        raise _broken(path, number, f"no JSON ({error})", option) from None
    if not isinstance(row, dict):
        raise _broken(path, number, "each line must be a JSON object", option)
    return row


def content_of(content: object, fields: str = "") -> str | list[Message]:
    """The text or messages as they are. Raises ValueError saying what is wrong, and which `fields`
    there are where there is neither."""
    if isinstance(content, str) and content.strip():
        return content
    if not content or isinstance(content, str):
        there = f"; there are {fields}" if fields else ""
        raise ValueError(
            f"the prompt is empty; it needs `prompt` (text) or `messages` (list){there}"
        )
    if not isinstance(content, list):
        raise ValueError("the prompt must be a text, or a list of messages")
    for message in content:
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise ValueError("each message needs `role` and `content`")
        if not isinstance(message.get("content"), str):
            raise ValueError("`content` of each message must be a text")
    if not content[-1]["content"].strip():
        raise ValueError("the last message is empty")
    return content


def _require_open(content: str | list[Message]) -> None:
    """Raises ValueError for a conversation that is answered already, or has roles of others."""
    if isinstance(content, str):
        return
    if ROLES.get(content[-1]["role"].lower()) == "assistant":
        raise ValueError(
            "the messages end with the assistant's answer, as those for supervised training do; "
            "leave that message out"
        )
    for message in content:
        role = message["role"]
        if ROLES.get(role.lower(), role) != role:
            raise ValueError(f"the role {role!r} must be {ROLES[role.lower()]!r}")


def require_text_alone(row: dict[str, Any]) -> None:
    """Raises ValueError for columns that are parts of the prompt in TRL's files."""
    for name in ("tools", "image", "images", "videos", "audios"):
        value = row.get(name)
        if value and value == value and value not in ("[]", "null"):
            what = (
                "defines tools, which no prompt is given yet"
                if name == "tools"
                else ("would be a part of the prompt, and only texts are read")
            )
            raise ValueError(f"`{name}` {what}: leave it out")


def stored_content(text: str) -> str | list[Message]:
    """The prompt that `Prompt.text` made a text of."""
    if text.startswith("[{"):
        try:
            return content_of(json.loads(text))
        except ValueError:
            return text
    return text


def check_columns(row: dict[str, Any]) -> None:
    """Raises ValueError for a column that a reward is called with already."""
    taken = RESERVED & set(row)
    if taken:
        raise ValueError(f"a column must not be called {min(taken)!r}")


def _preference(row: dict[str, Any]) -> Preference:
    chosen, rejected = row.get("chosen"), row.get("rejected")
    if not isinstance(chosen, str) or not isinstance(rejected, str):
        raise ValueError("`chosen` and `rejected` must be texts")
    if chosen == rejected:
        raise ValueError("`chosen` and `rejected` are the same")
    return Preference(content_of(row.get("prompt")), chosen, rejected)


def _broken(path: Path, number: int, problem: str, option: str) -> InputError:
    remedy = f"Correct that line of {option}."
    if number == 1 and "JSON" in problem:
        remedy = f"Give {option} JSON lines: one object a line, and no array or CSV."
    return InputError(f"{path}, line {number}: {problem}", remedy)
