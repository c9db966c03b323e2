"""The shapes in which people have preferences, and how a row of each is read. No torch here, so no
TRL: that ours are what its helpers make of the same rows, tests/jobs/train shows.

A shape makes of a row one or more of ours: {"prompt", "chosen", "rejected"}, or feedback with a
`kind`, as jobs.dpo.data has them. docs/dpo-training.md shows two rows of each.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from jobs.dpo import argilla
from jobs.dpo.compared import COMPARED, UNTOLD, asked, better, ranked, summaries, webgpt, winner
from jobs.dpo.messages import (
    LeftOut,
    answer_of,
    is_conversation,
    is_transcript,
    messages_of,
    split_conversations,
    transcript_messages,
)
from jobs.policy.data import require_text_alone

Row = dict[str, Any]
NAMELESS = {"", "nan", "none", "null", "<na>"}
TRUE, FALSE = {"true", "yes", "1"}, {"false", "no", "0"}


@dataclass(frozen=True)
class Shape:
    """`needs` are the fields that make a row one of this shape, `fits` what they must hold; `reads`
    are further fields that it understands. All others are columns for the reward that judges."""

    name: str
    needs: tuple[str, ...]
    rows: Callable[[Row], Iterator[Row]]
    fits: Callable[[Row], bool] = lambda _: True
    reads: tuple[str, ...] = ()

    @property
    def fields(self) -> set[str]:
        return {*self.needs, *self.reads}


def flag(value: Any, name: str) -> bool:
    """True or false, also as converters write it; what is missing is false. Raises ValueError."""
    text = "" if missing(value) else str(value).strip().lower().removesuffix(".0")
    if text in NAMELESS | FALSE:
        return False
    if text in TRUE:
        return True
    raise ValueError(f"`{name}` is {value!r}, not true or false")


def missing(value: Any) -> bool:
    """None, or the NaN that pandas writes for it."""
    return value is None or (isinstance(value, float) and value != value)


def name_of(value: Any) -> str:
    """The name of a user or group; empty where it is missing. Raises ValueError for no name."""
    if missing(value):
        return ""
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # pandas makes floats of whole numbers where some are missing
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(f"a name must be a text, not {value!r}")
    return "" if str(value).strip().lower() in NAMELESS else str(value)


def _pair(row: Row) -> Iterator[Row]:
    """A prompt with two answers, each a text, a message, or a conversation that begins with it."""
    prompt, answers = row["prompt"], (row["chosen"], row["rejected"])
    is_chat = is_conversation(prompt)
    if is_chat:
        prompt = messages_of(prompt)
        asked = len(prompt)
        whole = [is_conversation(a) and messages_of(a)[:asked] == prompt for a in answers]
        answers = tuple(
            a[asked:] if begins else a for a, begins in zip(answers, whole, strict=True)
        )
        if any(isinstance(a, list) and len(a) > 1 for a in answers):
            raise LeftOut("conversations that part before their last answer")
    elif isinstance(prompt, str) and (is_conversation(answers[0]) or "system" in row):
        prompt = [{"role": "user", "content": prompt}]
    elif all(_repeats(answer, prompt) for answer in answers):
        answers = tuple(answer.removeprefix(prompt) for answer in answers)
    system = row.get("system")
    if isinstance(prompt, list) and isinstance(system, str) and system.strip():
        prompt = [{"role": "system", "content": system}, *prompt]
    chosen, rejected = answer_of(answers[0], "chosen"), answer_of(answers[1], "rejected")
    yield {"prompt": prompt, "chosen": chosen, "rejected": rejected}


def _repeats(answer: Any, prompt: Any) -> bool:
    """Whether an answer begins with the prompt; a word or two may well be an answer's beginning."""
    return (
        isinstance(prompt, str)
        and isinstance(answer, str)
        and len(prompt.split()) > 2
        and answer.startswith(prompt)
    )


def _asked_by(name: str) -> Callable[[Row], Iterator[Row]]:
    return lambda row: _pair({**row, "prompt": asked(row, name)})


def _whole(row: Row) -> Iterator[Row]:
    prompt, chosen, rejected = split_conversations(row["chosen"], row["rejected"])
    given = row.get("prompt")
    if isinstance(given, str) and given.strip() not in {m["content"].strip() for m in prompt}:
        raise ValueError("`prompt` is no message of the conversations in `chosen` and `rejected`")
    yield {"prompt": prompt, "chosen": chosen, "rejected": rejected}


def _transcripts(row: Row) -> Iterator[Row]:
    sides = (transcript_messages(row[name]) for name in ("chosen", "rejected"))
    prompt, chosen, rejected = split_conversations(*sides)
    yield {"prompt": prompt, "chosen": chosen, "rejected": rejected}


def _debate(row: Row) -> Iterator[Row]:
    debate, _, side = str(row["topic_stance"]).rpartition("_")
    prompt = f"{debate.replace('-', ' ')}? {side.replace('-', ' ')}.\n"
    sides = {name: answer_of(row[name], name) for name in ANSWERS}
    yield sides | {"prompt": prompt, "group": name_of(row.get("group")) or debate}


def _sharegpt(row: Row) -> Iterator[Row]:
    asked = {**row, "prompt": row["conversations"]}
    yield from _pair(asked)


def _openai(row: Row) -> Iterator[Row]:
    given = row["input"]
    if not isinstance(given, dict) or not is_conversation(given.get("messages")):
        raise ValueError("`input` needs `messages`")
    require_text_alone(given)
    yield from _pair(
        {
            "prompt": given["messages"],
            "chosen": row["preferred_output"],
            "rejected": row["non_preferred_output"],
        }
    )


def _arena(row: Row) -> Iterator[Row]:
    sign = winner(row["winner"])
    if sign is None:
        raise ValueError(f"`winner` is {row['winner']!r}: model_a, model_b, tie or tie (bothbad)")
    if sign == 0:
        raise LeftOut("ties")
    prompt, first, second = split_conversations(row["conversation_a"], row["conversation_b"])
    yield better(sign, prompt, first, second) | {"user": row.get("user", row.get("judge"))}


def _arena_55k(row: Row) -> Iterator[Row]:
    """The arena's contest: the turns of a side in a list as JSON, a column for each outcome."""
    outcomes = ("winner_model_a", "winner_model_b", "winner_tie")
    won = [name for name in outcomes if flag(row[name], name)]
    if len(won) != 1:
        raise ValueError(f"{len(won)} of {', '.join(outcomes)} are 1, not one")
    asked, ours, theirs = (_turns(row[name]) for name in ("prompt", "response_a", "response_b"))
    if len(asked) != 1:
        raise LeftOut("conversations that part before their last answer")
    sides = [
        [{"role": "user", "content": asked[0]}, {"role": "assistant", "content": answers[0]}]
        for answers in (ours, theirs)
    ]
    who = won[0].removeprefix("winner_")
    yield from _arena({"winner": who, "conversation_a": sides[0], "conversation_b": sides[1]})


def _turns(value: Any) -> list[str]:
    """The turns of a side; a null is an answer of nothing, and a plain text is one turn."""
    if isinstance(value, str):
        value = json.loads(value) if value.lstrip().startswith(("[", "null")) else [value]
    turns = ["" if turn is None else turn for turn in value] if isinstance(value, list) else []
    if not turns or not all(isinstance(t, str) for t in turns):
        raise ValueError("`prompt`, `response_a` and `response_b` must be lists of texts")
    return turns


def _kto(row: Row) -> Iterator[Row]:
    if str(row["label"]).strip().lower() in NAMELESS:
        raise LeftOut(UNTOLD)
    yield {
        "kind": "thumb",
        "prompt": row["prompt"],
        "completion": answer_of(row["completion"], "completion"),
        "value": 1 if flag(row["label"], "label") else -1,
    }


def _ultrafeedback(row: Row) -> Iterator[Row]:
    """Each answer with the mean of its aspects' ratings as its stars."""
    found = row["completions"]
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise ValueError("`completions` must be a list of answers")
    rated = [one for one in found if not missing(one.get("fine-grained_score"))]
    if not rated:
        raise LeftOut(UNTOLD)
    for one in rated:
        yield {
            "kind": "rating",
            "prompt": row["instruction"],
            "completion": one.get("response"),
            "value": one["fine-grained_score"],
        }


ANSWERS = ("chosen", "rejected")
OWN = ("source", "user", "simulated", "group", "confidence", "columns", "id", "messages")
"""What a row of any shape may hold beside its own."""
SHAPES = (
    Shape(
        "feedback",
        ("kind", "prompt", "completion"),
        lambda row: iter([row]),
        reads=("value", "against", "correction"),
    ),
    Shape("OpenAI", ("input", "preferred_output", "non_preferred_output"), _openai),
    Shape(
        "arena",
        ("winner", "conversation_a", "conversation_b"),
        _arena,
        reads=("judge",),
    ),
    Shape(
        "arena, 55k",
        ("prompt", "response_a", "response_b", "winner_model_a", "winner_model_b", "winner_tie"),
        _arena_55k,
    ),
    *(Shape(one.name, one.needs, one.rows, reads=("input",)) for one in COMPARED),
    Shape("WebGPT", ("question", "answer_0", "answer_1", "score_0", "score_1"), webgpt),
    Shape("OpenAI, summaries", ("info", "summaries", "choice"), summaries),
    Shape("Nectar", ("prompt", "answers"), ranked),
    Shape("UltraFeedback, raw", ("instruction", "completions"), _ultrafeedback),
    Shape(
        "Argilla, chosen and rejected",
        ("instruction", "chosen_response", "rejected_response"),
        argilla.ready,
    ),
    Shape("KTO", ("prompt", "completion", "label"), _kto),
    Shape("ShareGPT", ("conversations", *ANSWERS), _sharegpt, reads=("system", "tools")),
    Shape(
        "UltraFeedback, binarised",
        ("prompt", *ANSWERS),
        _whole,
        fits=lambda row: (
            isinstance(row["prompt"], str)
            and all(is_conversation(row[name]) and len(row[name]) > 1 for name in ANSWERS)
        ),
    ),
    Shape("pairs", ("prompt", *ANSWERS), _pair, reads=("system", "tools")),
    Shape("UKPConvArg1", ("topic_stance", *ANSWERS), _debate),
    Shape(
        "whole conversations",
        ANSWERS,
        _whole,
        fits=lambda row: all(is_conversation(row[name]) for name in ANSWERS),
        reads=("tools",),
    ),
    Shape(
        "HH-RLHF",
        ANSWERS,
        _transcripts,
        fits=lambda row: all(is_transcript(row[name]) for name in ANSWERS),
    ),
    *(
        Shape(name, (prompt, *ANSWERS), _asked_by(prompt), reads=("system", "input", "tools"))
        for name, prompt in (
            ("Orca", "question"),
            ("Alpaca", "instruction"),
            ("Orca, Argilla", "input"),
        )
    ),
    Shape(
        "Argilla, votes",
        (),
        argilla.votes,
        fits=argilla.is_votes,
        reads=("fields", "responses", "preference", "instruction", "prompt"),
    ),
)
MAPPED = sorted({name for shape in SHAPES for name in shape.fields} | set(OWN))
"""What --map may name."""


def shape_of(row: Row) -> Shape:
    """The first shape that a row has. Raises ValueError naming its fields and the nearest shape."""
    there = {name for name, value in row.items() if not missing(value)}
    for shape in SHAPES:
        if there.issuperset(shape.needs) and shape.fits(row):
            require_text_alone(row)
            return shape
    shares = {s.name: len(there & {*s.needs}) / len(s.needs) for s in SHAPES if s.needs}
    near = (s for s in SHAPES if s.needs and not there.issuperset(s.needs))
    nearest = max(near, key=lambda s: (shares[s.name], s.name == "pairs"))
    lacking = [name for name in nearest.needs if name not in there]
    raise ValueError(
        f"no shape is known of the fields {', '.join(sorted(there)) or '(none)'}; the nearest is "
        f"{nearest.name}, which wants {', '.join(lacking)} too"
    )


def renamed(row: Row, mapping: dict[str, str]) -> Row:
    """A row with the fields that --map names under our names. Raises ValueError."""
    lacking = sorted(set(mapping.values()) - set(row))
    if lacking:
        there = ", ".join(sorted(row))
        raise ValueError(f"--map names {lacking[0]}, which is no field; there are {there}")
    rest = {name: value for name, value in row.items() if name not in mapping.values()}
    return rest | {ours: row[theirs] for ours, theirs in mapping.items()}
