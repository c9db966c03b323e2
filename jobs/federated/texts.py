"""A tenant's texts, read and checked where they lie; no torch here.

    {"prompt": "a spur gear with 20 teeth", "completion": "{...}"}

`prompt` may also be chat messages. What is wrong is an InputError whose text leaves the tenant: it
names line numbers, and never a text.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

from infra.errors import InputError
from jobs.federated.config import HELD_OUT_COLUMN
from jobs.federated.data import FEWEST_IN_A_PART, FEWEST_ROWS, is_held_out
from jobs.policy.data import Prompt, content_of

REMEDY = "Correct the tenant's texts.jsonl; it is asked again in the next run."


@dataclass(frozen=True)
class Text:
    """What is asked, and the answer to learn."""

    prompt: Prompt
    completion: str


@dataclass(frozen=True)
class Texts:
    """Those of one tenant, or of many."""

    train: list[Text] = field(default_factory=list)
    held_out: list[Text] = field(default_factory=list)


def read(path: Path) -> Texts:
    """The texts of a file. A prompt is held out by its hash, so that it stays in its part for ever;
    `held_out` of 0 or 1 says it instead. Raises InputError."""
    found, count = Texts(), 0
    try:
        with path.open(encoding="utf-8-sig") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    text, held_out = _row(line, number)
                    (found.held_out if held_out else found.train).append(text)
                    count += 1
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path.name} cannot be read ({type(error).__name__})", REMEDY) from error
    if count < FEWEST_ROWS:
        raise InputError(f"{count} texts, at least {FEWEST_ROWS} are needed", REMEDY)
    if min(len(found.train), len(found.held_out)) < FEWEST_IN_A_PART:
        raise InputError(f"fewer than {FEWEST_IN_A_PART} texts to train on, or to hold out", REMEDY)
    return found


def _row(line: str, number: int) -> tuple[Text, bool]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        row = None
    if not isinstance(row, dict):
        raise InputError(f"line {number} is no JSON object", REMEDY)
    completion, mark = row.get("completion"), row.get(HELD_OUT_COLUMN)
    try:
        content = content_of(row.get("prompt"))
    except ValueError:
        content = None
    if content is None or not isinstance(completion, str) or not completion.strip():
        raise InputError(f"line {number} has no `prompt` or no `completion`", REMEDY)
    if mark not in (None, 0, 1):
        raise InputError(f"line {number}: `{HELD_OUT_COLUMN}` is neither 0 nor 1", REMEDY)
    asked = json.dumps(content, sort_keys=True).encode()
    held_out = is_held_out(asked) if mark is None else bool(mark)
    return Text(Prompt(content, line=number), completion), held_out
