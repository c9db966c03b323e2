"""Pairs and feedback, and the files they come in. No torch here: the control plane checks the
user's files with this before money is spent.

Ours, one object a row and in one file also mixed; jobs.dpo.shapes makes them of others':

    {"prompt": "...", "chosen": "...", "rejected": "..."}                      a pair
    {"prompt": [messages], "chosen": [message], "rejected": [message]}         a pair of chats
    {"kind": "thumb", "prompt": "...", "completion": "...", "value": 1}        1 up, -1 down
    {"kind": "rating", "prompt": "...", "completion": "...", "value": 4}       1 to 5 stars
    {"kind": "comparison", "prompt": "...", "completion": "...", "against": "...", "value": 1}
    {"kind": "correction", "prompt": "...", "completion": "...", "correction": "..."}

Optional in each: `user`, `simulated`, `group` (what is held out together; else the prompt); in
pairs `confidence` (0.5 to 1) and `source`. Other fields go to the reward that judges.
"""

import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field, ValidationError, model_validator

from infra.errors import InputError, first_fault
from jobs.dpo.files import readable_here, rows_of
from jobs.dpo.messages import LeftOut, messages_of, unwritten
from jobs.dpo.shapes import MAPPED, OWN, flag, missing, name_of, renamed, shape_of
from jobs.policy.data import Message, check_columns, content_of, stored_content

RELIABILITY = {
    "correction": 0.9,
    "comparison": 0.8,
    "dataset": 0.85,
    "rating": 0.75,
    "thumb": 0.7,
    "simulated": 0.75,
}
"""Source → how often one vote of it is right, by our assumption; annotators of preference data
agree with each other in 63 to 77 % of the pairs (Ouyang et al. 2022; Bai et al. 2022)."""
MOST_BROKEN = 0.01
"""Share of broken lines beyond which a file is refused."""
NAMED = 10
"""Broken lines that are named."""
SHOWN = 2
"""Rows that are shown as they were read; lines that are named for the same reason."""
NO_UTF8 = "no UTF-8"
OURS = frozenset("prompt chosen rejected kind completion against correction value".split())
"""Fields that are never columns for a reward."""
READ_OF = frozenset(MAPPED)


@dataclass(slots=True)
class Pair:
    """Two answers to one prompt, the better one first.

    `prompt` is a text, or messages as JSON where `is_chat`. `votes` users agree; `margin`, 0 to 1,
    is how clearly; `confidence` is what the file itself says.
    """

    prompt: str
    chosen: str
    rejected: str
    source: str = "dataset"
    user: str = ""
    votes: int = 1
    margin: float = 1.0
    confidence: float | None = None
    simulated: bool = False
    is_chat: bool = False
    group: str = ""
    columns: dict[str, Any] = field(default_factory=dict)

    @property
    def weight(self) -> float:
        """Log-odds that the order is right, every vote independent and as reliable as its source
        (the one-coin model of Dawid and Skene 1979)."""
        if self.confidence is not None:
            return logit(self.confidence)
        return self.votes * self.margin * logit(RELIABILITY.get(self.source, 0.75))


class Feedback(BaseModel):
    """What one user left about one answer."""

    kind: Literal["thumb", "rating", "comparison", "correction"]
    prompt: str
    completion: str
    value: float | None = None
    against: str | None = None
    correction: str | None = None
    user: str = ""
    simulated: bool = False
    is_chat: bool = False
    group: str = ""
    columns: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _whole(self) -> "Feedback":
        if self.kind in ("thumb", "rating") and self.value is None:
            raise ValueError(f"a {self.kind} needs a `value`")
        if self.value is not None and not math.isfinite(self.value):
            raise ValueError("`value` must be finite")
        if self.kind == "thumb" and self.value not in (1, -1):
            raise ValueError("a thumb's `value` is 1 or -1")
        if self.kind == "rating" and not 1 <= (self.value or 0) <= 5:
            raise ValueError("a rating's `value` is 1 to 5 stars")
        if self.kind == "comparison" and self.value not in (1, 0, -1):
            raise ValueError("a comparison's `value` is 1, 0 or -1")
        if self.kind == "comparison" and self.against is None:
            raise ValueError("a comparison needs the other answer in `against`")
        if self.kind == "correction" and not (self.correction or "").strip():
            raise ValueError("a correction needs the corrected text in `correction`")
        return self


@dataclass
class Reading:
    """What was found in a file: each row is taken, broken, or left out for a reason that is
    counted. `mapping` has our names of fields and the file's; `rows_given` come from elsewhere."""

    path: Path
    option: str
    mapping: dict[str, str] = field(default_factory=dict)
    rows_given: Iterable[tuple[int, Any]] | None = None
    lines: int = 0
    taken: int = 0
    broken: int = 0
    named: list[str] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    shapes: Counter[str] = field(default_factory=Counter)
    shown: list[dict[str, Any]] = field(default_factory=list)

    def rows(
        self, scrub: Callable[[str], str] = lambda text: text
    ) -> Iterator[tuple[int, Pair | Feedback]]:
        """(line number, pair or feedback) of each row that holds some, every text scrubbed.

        Raises InputError at the end where more than 1 % of the rows are broken.
        """
        given = self.rows_given
        for number, row in rows_of(self.path, self.option) if given is None else given:
            self.lines += 1
            try:
                shape, found = parse(row, scrub, self.mapping)
            except LeftOut as error:
                self.skipped[str(error)] += 1
                self._name(number, str(error))
            except (ValueError, TypeError, RecursionError) as error:
                self.broken += 1
                self._name(number, _first(error))
            else:
                self.taken += 1
                self.shapes[shape] += 1
                self.shown += [_shown(shape, one) for one in found][: SHOWN - len(self.shown)]
                for one in found:
                    yield number, one
        if self.broken > MOST_BROKEN * self.lines:
            raise InputError(
                f"{self.path}: {self.broken} of {self.lines} lines are broken, more than "
                f"{MOST_BROKEN:.0%}:\n" + "\n".join(self.named),
                self._remedy(),
            )

    def _name(self, number: int, reason: str) -> None:
        alike = sum(line.endswith(f": {reason}") for line in self.named)
        if len(self.named) < NAMED and alike < SHOWN:
            self.named.append(f"line {number}: {reason}")

    def _remedy(self) -> str:
        remedy = f"Correct these lines of {self.option}, or remove them."
        if any(line.endswith(NO_UTF8) for line in self.named):
            return f"Save {self.option} as UTF-8. {remedy}"
        if any("no shape is known" in line for line in self.named):
            return (
                "Say with --map what its fields are, e.g. --map prompt=question chosen=better "
                "rejected=worse. docs/dpo-training.md shows every shape."
            )
        if all(": no JSON" in line for line in self.named):
            return (
                f"Give {self.option} one JSON object a line, a JSON array, CSV with a header "
                "(comma, semicolon or tab), or Parquet."
            )
        return remedy


def parse(
    row: Any, scrub: Callable[[str], str], mapping: dict[str, str] | None = None
) -> tuple[str, list[Pair | Feedback]]:
    """(shape, what it holds) of a row: a JSON line, or an object. Raises ValueError saying what is
    wrong, LeftOut for a whole row without a preference."""
    if isinstance(row, ValueError):
        raise row
    if isinstance(row, bytes | str):
        row = _loaded(row)
    if not isinstance(row, dict):
        raise ValueError("each line must be a JSON object")
    row = renamed(row, mapping) if mapping else row
    row = {name: unwritten(value) if name in READ_OF else value for name, value in row.items()}
    if missing(row.get("prompt")) and _ends_with_a_question(row.get("messages")):
        row["prompt"] = row["messages"]
    shape = shape_of(row)
    columns = {**row["columns"]} if isinstance(row.get("columns"), dict) else {}
    known = shape.fields | OURS | set(OWN)
    columns |= {name: value for name, value in row.items() if name not in known}
    check_columns(columns)
    found: list[Pair | Feedback] = []
    try:
        for made in shape.rows(row):
            make = _feedback if "kind" in made else _pair
            one = _made(make, {**row, **made}, columns, scrub)
            _require_unicode(one)
            found.append(one)
    except (KeyError, AttributeError) as error:
        raise ValueError(f"it is not as {shape.name} has it: {error}") from error
    return shape.name, found


def _require_unicode(one: Pair | Feedback) -> None:
    """Raises UnicodeEncodeError for half of a surrogate pair, which no file can hold."""
    names = Pair.__slots__ if isinstance(one, Pair) else Feedback.model_fields
    for name in names:
        if isinstance(value := getattr(one, name), str):
            value.encode()


def _loaded(line: bytes | str) -> Any:
    text = line.decode("utf-8-sig") if isinstance(line, bytes) else line
    row = json.loads(text)
    if "\\ud" in text.lower():  # only an escape can give half of a pair
        json.dumps(row, ensure_ascii=False).encode()
    return row


def _ends_with_a_question(messages: Any) -> bool:
    if not isinstance(messages, list) or not messages or not isinstance(messages[-1], dict):
        return False
    return messages[-1].get("role") != "assistant"


def _made(
    make: Callable[..., Pair | Feedback],
    row: dict[str, Any],
    columns: dict[str, Any],
    scrub: Callable[[str], str],
) -> Pair | Feedback:
    """The pair or the feedback of a row of ours."""
    prompt = row.get("prompt")
    prompt = content_of(messages_of(prompt) if isinstance(prompt, list) else prompt)
    if not isinstance(prompt, str) and prompt[-1]["role"] == "assistant":
        raise LeftOut("prompts that end with an answer already")
    common: dict[str, Any] = {
        "user": name_of(row.get("user")),
        "group": name_of(row.get("group")),
        "simulated": flag(row.get("simulated"), "simulated"),
        "columns": columns,
    }
    return make(row, prompt, common, scrub)


def _pair(
    row: dict[str, Any], prompt: Any, common: dict[str, Any], scrub: Callable[[str], str]
) -> Pair:
    chosen, rejected = scrub(row["chosen"]), scrub(row["rejected"])
    if chosen == rejected:
        raise LeftOut("chosen equal to rejected")
    if not chosen.strip() and not rejected.strip():
        raise ValueError("both answers are empty")
    if not chosen.strip():
        raise LeftOut("chosen answers that are empty")
    told: Any = row.get("confidence")
    confidence = None if missing(told) or told == "" else float(told)
    if confidence is not None and not 0.5 <= confidence <= 1:
        raise ValueError("`confidence` is 0.5 to 1")
    source = row.get("source") if isinstance(row.get("source"), str) else None
    return Pair(
        scrubbed(prompt, scrub),
        chosen,
        rejected,
        source="simulated" if common["simulated"] else source or "dataset",
        confidence=confidence,
        is_chat=not isinstance(prompt, str),
        **common,
    )


def _feedback(
    row: dict[str, Any], prompt: Any, common: dict[str, Any], scrub: Callable[[str], str]
) -> Feedback:
    if isinstance(prompt, str):
        prompt = stored_content(prompt)
    value = row.get("value")
    value = None if missing(value) or value == "" else value
    if isinstance(value, bool) and row["kind"] != "thumb":
        raise ValueError(f"a {row['kind']}'s `value` is a number, not {value}")
    if row["kind"] == "comparison" and value is None:
        raise LeftOut("comparisons without a value")
    texts = {name: row.get(name) for name in ("completion", "against", "correction")}
    return Feedback(
        kind=row["kind"],
        prompt=scrubbed(prompt, scrub),
        value=value,
        is_chat=not isinstance(prompt, str),
        **{k: scrub(v) if isinstance(v, str) else None for k, v in texts.items()},  # pyright: ignore[reportArgumentType]
        **common,
    )


def _shown(shape: str, one: Pair | Feedback) -> dict[str, Any]:
    names = ("prompt", "chosen", "rejected")
    if isinstance(one, Feedback):
        names = ("kind", "prompt", "completion", "value", "against", "correction")
    values = {name: getattr(one, name) for name in names}
    return {"shape": shape} | {name: v for name, v in values.items() if v is not None}


def check_file(path: Path, option: str, mapping: dict[str, str] | None = None) -> tuple[int, int]:
    """(pairs, feedback) in a user's file; (0, 0) for one that only `dpo.build` can read.

    Raises InputError for one that holds neither, or too many broken lines, or chats and texts.
    """
    if not readable_here(path):
        return 0, 0
    reading, pairs, feedback, kinds = Reading(path, option, mapping or {}), 0, 0, set[bool]()
    for _, row in reading.rows():
        pairs, feedback = pairs + isinstance(row, Pair), feedback + isinstance(row, Feedback)
        kinds.add(row.is_chat)
    if not pairs and not feedback:
        why = "; ".join(reading.named) or "it is empty"
        raise InputError(f"{path} holds no preference: {why}", f"Correct {option}.")
    require_one_kind(kinds, option)
    return pairs, feedback


def holds_preferences(path: Path, option: str, mapping: dict[str, str] | None = None) -> bool:
    """Whether a user's file holds pairs or feedback, by its first row; prompts are JSON lines."""
    if not readable_here(path):
        return True
    _, row = next(rows_of(path, option), (0, None))
    try:
        parse(row, str, mapping)
    except LeftOut:
        return True
    except (ValueError, TypeError, RecursionError):
        return False
    return True


def require_one_kind(kinds: set[bool], option: str) -> None:
    """Raises InputError where chats and texts are mixed: TRL takes the first row for all."""
    if len(kinds) > 1:
        raise InputError(
            f"{option} holds prompts that are texts and prompts that are chat messages",
            "Give one kind: write the texts as messages, or the messages as texts.",
        )


def logit(probability: float) -> float:
    """Natural log of the odds; 0.999 is the most that counts."""
    bounded = min(max(probability, 0.001), 0.999)
    return math.log(bounded / (1 - bounded))


def normalised(text: str) -> str:
    """What counts as the same text: case and white space do not."""
    return " ".join(text.lower().split())


def scrubbed(content: str | list[Message], scrub: Callable[[str], str]) -> str:
    """A prompt without personal data, as a text; messages as JSON."""
    if isinstance(content, str):
        return scrub(content)
    return json.dumps(_all_scrubbed(content, scrub), ensure_ascii=False)


def _all_scrubbed(value: Any, scrub: Callable[[str], str]) -> Any:
    """Every text in a message: of its content, and of its calls of tools."""
    if isinstance(value, list):
        return [_all_scrubbed(one, scrub) for one in value]
    if isinstance(value, dict):
        return {k: v if k == "role" else _all_scrubbed(v, scrub) for k, v in value.items()}
    return scrub(value) if isinstance(value, str) else value


def _first(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"no JSON: {error.msg}, column {error.colno}"
    if isinstance(error, UnicodeDecodeError):
        return NO_UTF8
    if isinstance(error, UnicodeEncodeError):
        return "an escape is half of a surrogate pair, which is no text"
    if isinstance(error, ValidationError):
        where, message = first_fault(error)
        return f"{'.'.join(where)} {message}".strip()
    return str(error) or type(error).__name__
