"""Pairs and feedback, and the files they come in. No torch here: the control plane checks the
user's files with this before money is spent.

JSON lines, plain or gzipped, in one file also mixed:

    {"prompt": "...", "chosen": "...", "rejected": "..."}                      a pair
    {"prompt": [messages], "chosen": [message], "rejected": [message]}         a pair of chats
    {"chosen": [messages], "rejected": [messages]}                   the prompt is their beginning
    {"topic_stance": "debate_side", "chosen": "...", "rejected": "..."}        UKPConvArg1
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
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field, ValidationError, model_validator

from infra.errors import InputError, first_fault
from jobs.ppo.data import Message, check_columns, content_of, read_lines, stored_content

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
NO_UTF8 = "no UTF-8"
KNOWN = frozenset(
    "id prompt messages chosen rejected topic_stance confidence source simulated group user kind "
    "completion against correction value columns".split()
)


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
        if self.kind == "rating" and not 1 <= (self.value or 0) <= 5:
            raise ValueError("a rating's `value` is 1 to 5 stars")
        if self.kind == "comparison" and self.against is None:
            raise ValueError("a comparison needs the other answer in `against`")
        if self.kind == "correction" and not (self.correction or "").strip():
            raise ValueError("a correction needs the corrected text in `correction`")
        return self


@dataclass
class Reading:
    """What was found in a file: how many lines, and which are broken and why."""

    path: Path
    option: str
    lines: int = 0
    broken: int = 0
    named: list[str] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)

    def rows(
        self, scrub: Callable[[str], str] = lambda text: text
    ) -> Iterator[tuple[int, Pair | Feedback]]:
        """(line number, row) of each line that holds one, every text scrubbed.

        Raises InputError at the end where more than 1 % of the lines are broken.
        """
        for number, line in read_lines(self.path, self.option):
            self.lines += 1
            try:
                yield number, parse(line, scrub)
            except EqualAnswers:
                self.skipped["chosen equal to rejected"] += 1
                self._name(number, "`chosen` and `rejected` are the same")
            except (ValueError, TypeError, RecursionError) as error:
                self.broken += 1
                self._name(number, _first(error))
        if self.broken > MOST_BROKEN * self.lines:
            remedy = f"Correct these lines of {self.option}, or remove them."
            if any(line.endswith(NO_UTF8) for line in self.named):
                remedy = f"Save {self.option} as UTF-8. {remedy}"
            raise InputError(
                f"{self.path}: {self.broken} of {self.lines} lines are broken, more than "
                f"{MOST_BROKEN:.0%}:\n" + "\n".join(self.named),
                remedy,
            )

    def _name(self, number: int, reason: str) -> None:
        if len(self.named) < NAMED:
            self.named.append(f"line {number}: {reason}")


class EqualAnswers(ValueError):
    """Chosen and rejected are the same: no preference."""


def parse(line: bytes | str, scrub: Callable[[str], str]) -> Pair | Feedback:
    """One line. Raises ValueError saying what is wrong, EqualAnswers."""
    text = line.decode("utf-8-sig") if isinstance(line, bytes) else line
    row = json.loads(text)
    if not isinstance(row, dict):
        raise ValueError("each line must be a JSON object")
    if "\\ud" in text.lower():  # only an escape can give half of a pair, which no file can hold
        json.dumps(row, ensure_ascii=False).encode()
    columns = {**row.pop("columns", {})} if isinstance(row.get("columns"), dict) else {}
    columns |= {name: value for name, value in row.items() if name not in KNOWN}
    check_columns(columns)
    common: dict[str, Any] = {
        "user": str(row.get("user") or ""),
        "simulated": bool(row.get("simulated")),
        "columns": columns,
    }
    if "kind" in row:
        return _feedback(row, common, scrub)
    prompt, chosen, rejected = _contents(row)
    chosen, rejected = scrub(chosen), scrub(rejected)
    if chosen == rejected:
        raise EqualAnswers
    if not chosen.strip() and not rejected.strip():
        raise ValueError("both answers are empty")
    group = str(row.get("group") or "")
    if "topic_stance" in row:
        group = group or str(row["topic_stance"]).rpartition("_")[0]
    confidence = row.get("confidence")
    if confidence is not None and not 0.5 <= float(confidence) <= 1:
        raise ValueError("`confidence` is 0.5 to 1")
    source = str(row.get("source") or "dataset")
    return Pair(
        scrubbed(prompt, scrub),
        chosen,
        rejected,
        source="simulated" if common["simulated"] else source,
        confidence=None if confidence is None else float(confidence),
        is_chat=not isinstance(prompt, str),
        group=group,
        **common,
    )


def check_file(path: Path, option: str) -> tuple[int, int]:
    """(pairs, feedback) in a user's file.

    Raises InputError for one that holds neither, or too many broken lines, or chats and texts.
    """
    reading, pairs, feedback, kinds = Reading(path, option), 0, 0, set[bool]()
    for _, row in reading.rows():
        pairs, feedback = pairs + isinstance(row, Pair), feedback + isinstance(row, Feedback)
        kinds.add(row.is_chat)
    if not pairs and not feedback:
        why = "; ".join(reading.named) or "it is empty"
        raise InputError(f"{path} holds no preference: {why}", f"Correct {option}.")
    require_one_kind(kinds, option)
    return pairs, feedback


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


def _feedback(row: dict[str, Any], common: dict[str, Any], scrub: Callable[[str], str]) -> Feedback:
    prompt = content_of(row.get("prompt", row.get("messages")))
    if isinstance(prompt, str):
        prompt = stored_content(prompt)
    texts = {name: row.get(name) for name in ("completion", "against", "correction")}
    return Feedback(
        kind=row["kind"],
        prompt=scrubbed(prompt, scrub),
        value=row.get("value"),
        is_chat=not isinstance(prompt, str),
        group=str(row.get("group") or ""),
        **{k: scrub(v) if isinstance(v, str) else v for k, v in texts.items()},  # pyright: ignore[reportArgumentType]
        **common,
    )


def _contents(row: dict[str, Any]) -> tuple[str | list[Message], str, str]:
    """(prompt, chosen, rejected) of a pair in any of its forms."""
    chosen, rejected = row.get("chosen"), row.get("rejected")
    if "topic_stance" in row:
        debate, _, side = str(row["topic_stance"]).rpartition("_")
        prompt: Any = f"{debate.replace('-', ' ')}? {side.replace('-', ' ')}.\n"
    else:
        prompt = row.get("prompt", row.get("messages"))
    if isinstance(chosen, list) and isinstance(rejected, list) and prompt is None:
        same = 0
        while same < min(len(chosen), len(rejected)) - 1 and chosen[same] == rejected[same]:
            same += 1
        prompt, chosen, rejected = chosen[:same], chosen[same:], rejected[same:]
    return content_of(prompt), _answer(chosen, "chosen"), _answer(rejected, "rejected")


def _answer(answer: Any, name: str) -> str:
    """The text of an answer: a text, or messages of which the last one is the assistant's."""
    if isinstance(answer, list) and len(answer) == 1 and isinstance(answer[0], dict):
        answer = answer[0].get("content")
    if not isinstance(answer, str):
        raise ValueError(f"`{name}` must be a text, or one message")
    return answer


def scrubbed(content: str | list[Message], scrub: Callable[[str], str]) -> str:
    """A prompt without personal data, as a text; messages as JSON."""
    if isinstance(content, str):
        return scrub(content)
    messages = [{**message, "content": scrub(message["content"])} for message in content]
    return json.dumps(messages, ensure_ascii=False)


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
