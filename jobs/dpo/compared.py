"""Two answers side by side with what says which is better, and ranked answers, as jobs.dpo.shapes
reads them. No torch here."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from jobs.dpo.messages import LeftOut, answer_of

Row = dict[str, Any]
UNTOLD = "rows without a vote"
TIES = ("tie", "tie (bothbad)", "tie (inconsistent)", "both_bad", "bothbad")
WINNERS = {"model_a": 1, "model_b": -1} | dict.fromkeys(TIES, 0)
INVALID = -100
"""HelpSteer's mark of a preference that does not count."""


@dataclass(frozen=True)
class Compared:
    """Names of the fields; `meaning` has what `verdict` may be and its `sign`: 1 where the first
    answer is better, -1 where the second one is, 0 for a tie."""

    name: str
    prompt: str
    first: str
    second: str
    verdict: str
    sign: Callable[[Any], int | None]
    meaning: str

    @property
    def needs(self) -> tuple[str, ...]:
        return self.prompt, self.first, self.second, self.verdict

    def rows(self, row: Row) -> Iterator[Row]:
        told = row[self.verdict]
        sign = self.sign(told)
        if sign is None:
            raise ValueError(f"`{self.verdict}` is {told!r}: {self.meaning}")
        first, second = (answer_of(row[name], name) for name in (self.first, self.second))
        yield better(sign, asked(row, self.prompt), first, second)


def better(sign: int, prompt: Any, first: Any, second: Any) -> Row:
    """The pair of two answers, the first of which is better where `sign` is 1."""
    if sign == 0:
        raise LeftOut("ties")
    chosen, rejected = (first, second) if sign > 0 else (second, first)
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected, "source": "comparison"}


def asked(row: Row, name: str) -> Any:
    """The prompt of a row: an `instruction` goes on in `input`, as Alpaca has it."""
    more = row.get("input") if name == "instruction" else None
    return f"{row[name]}\n{more}" if isinstance(more, str) and more.strip() else row[name]


def whole(value: Any) -> int | None:
    """The whole number that a value is, also as converters write it."""
    try:
        number = float(value)
        return int(number) if number.is_integer() else None
    except (TypeError, ValueError, OverflowError):
        return {"true": 1, "false": 0}.get(str(value).strip().lower())


def _by(signs: dict[int, int]) -> Callable[[Any], int | None]:
    return lambda value: signs.get(number) if (number := whole(value)) is not None else None


def _strength(value: Any) -> int | None:
    """-3 to 3, below 0 where the first answer is better."""
    if (number := whole(value)) == INVALID:
        raise LeftOut(UNTOLD)
    return None if number is None or abs(number) > 3 else (number < 0) - (number > 0)


def winner(value: Any) -> int | None:
    """The sign of an arena's winner."""
    return WINNERS.get(str(value).strip().lower())


STRENGTH = "-3 to 3, below 0 where the first answer is better"
COMPARED = (
    Compared("SHP", "history", "human_ref_A", "human_ref_B", "labels", _by({1: 1, 0: -1}),
        "1 where human_ref_A is better, else 0"),
    Compared("PKU-SafeRLHF", "prompt", "response_0", "response_1", "better_response_id",
        _by({0: 1, 1: -1}), "0 or 1"),
    Compared("AlpacaFarm", "instruction", "output_1", "output_2", "preference",
        _by({1: 1, 2: -1}), "1 or 2"),
    Compared("HelpSteer2, preferences", "prompt", "response_1", "response_2",
        "preference_strength", _strength, STRENGTH),
    Compared("HelpSteer3", "context", "response1", "response2", "overall_preference", _strength,
        STRENGTH),
    Compared("arena, single answers", "prompt", "response_a", "response_b", "winner", winner,
        "model_a, model_b, tie or tie (bothbad)"),
)  # fmt: skip


def webgpt(row: Row) -> Iterator[Row]:
    """Two answers with the scores that people gave them."""
    question = row["question"]
    prompt = question["full_text"] if isinstance(question, dict) else question
    first, second = float(row["score_0"]), float(row["score_1"])
    sign = (first > second) - (first < second)
    yield better(sign, prompt, row["answer_0"], row["answer_1"])


def summaries(row: Row) -> Iterator[Row]:
    """OpenAI's comparisons of two summaries of a post or an article."""
    choice, texts = whole(row["choice"]), [one["text"] for one in row["summaries"]]
    if choice not in (0, 1) or len(texts) != 2:
        raise ValueError("`choice` must be 0 or 1, of two `summaries`")
    post = row["info"].get("post") or row["info"].get("article")
    yield better(1 if choice == 0 else -1, post, *texts)


def ranked(row: Row) -> Iterator[Row]:
    """Answers with their ranks, 1 the best, as Nectar has them: every two of different ranks."""
    answers = row["answers"]
    ranks = [rank for one in answers if (rank := whole(one.get("rank"))) is not None]
    if len(ranks) < len(answers):
        raise ValueError("each of `answers` needs a `rank`, a whole number")
    pairs = [
        better(1 if ours < theirs else -1, row["prompt"], first["answer"], second["answer"])
        for (ours, first), (theirs, second) in combinations(zip(ranks, answers, strict=True), 2)
        if ours != theirs
    ]
    if not pairs:
        raise LeftOut("ties")
    yield from pairs
