"""Rows as public datasets, spreadsheets and converters write them: read rightly, or refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from infra.errors import InputError
from jobs.dpo.data import Pair, Reading

Q, GOOD, BAD = "Name a fruit.", "An apple.", "A stone."
USER = {"role": "user", "content": Q}
PAIR = {"prompt": Q, "chosen": GOOD, "rejected": BAD}
HELPSTEER = {"prompt": Q, "response_1": BAD, "response_2": GOOD}
PKU = {"prompt": Q, "response_0": BAD, "response_1": GOOD}
SHP = {"history": Q, "human_ref_A": GOOD, "human_ref_B": BAD}
SINGLE = {"prompt": Q, "response_a": GOOD, "response_b": BAD}
CONTEST = {**SINGLE, "winner_model_a": 1, "winner_model_b": 0, "winner_tie": 0}
WEBGPT = {"question": {"full_text": Q}, "answer_0": BAD, "answer_1": GOOD, "score_0": -0.5}
SUMMARIES = {"info": {"post": Q}, "summaries": [{"text": BAD}, {"text": GOOD}]}
TRANSCRIPT = f"\n\nHuman: {Q}\n\nAssistant:"


def said(content: str, role: str = "assistant") -> dict[str, str]:
    return {"role": role, "content": content}


def whole(role: str = "assistant", asked: dict[str, str] = USER) -> dict[str, Any]:
    return {"chosen": [asked, said(GOOD, role)], "rejected": [asked, said(BAD, role)]}


def ranks(*found: Any) -> dict[str, Any]:
    texts = (GOOD, BAD)
    return {
        "prompt": Q,
        "answers": [
            {"answer": text, "rank": rank} for text, rank in zip(texts, found, strict=True)
        ],
    }


def read(folder: Path, content: bytes) -> tuple[list[Any], Reading]:
    path = folder / "data"
    path.write_bytes(content)
    reading = Reading(path, "--dataset")
    return [row for _, row in reading.rows()], reading


def lines(*rows: Any) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


@pytest.mark.parametrize(
    "row",
    [
        {"question": Q, "chosen": GOOD, "rejected": BAD, "system": ""},
        {"input": Q, "chosen": GOOD, "rejected": BAD, "system": "Be brief.", "rating": [9, 8]},
        {"instruction": Q, "input": "", "chosen": GOOD, "rejected": BAD},
        {"instruction": Q, "output_1": BAD, "output_2": GOOD, "preference": 2},
        {**PKU, "better_response_id": 1, "safer_response_id": 0},
        {**HELPSTEER, "preference_strength": 2},
        {**HELPSTEER, "preference_strength": "1.0"},
        {"context": [USER], "response1": GOOD, "response2": BAD, "overall_preference": -3},
        {**WEBGPT, "score_1": 0.5},
        {**SUMMARIES, "choice": 1},
        ranks(1, 2),
        ranks(1.0, 3.0),
        {**SHP, "labels": True},
        {**SHP, "labels": "1"},
        {**SINGLE, "winner": "model_a"},
        CONTEST,
        {**CONTEST, "response_a": [GOOD], "response_b": [BAD, None]},
        whole("model"),
        whole("ASSISTANT", said(Q, "Human")),
        {name: json.dumps(value) for name, value in whole().items()},
        {"prompt": Q, **{name: str(value) for name, value in whole().items()}},
    ],
)  # fmt: skip
def test_the_better_answer_is_chosen(tmp_path: Path, row: dict[str, Any]) -> None:
    (pair,), _ = read(tmp_path, lines(row))
    assert (pair.chosen, pair.rejected) == (GOOD, BAD)
    assert Q in pair.prompt and "Human" not in pair.prompt


@pytest.mark.parametrize("prompt", [Q + " ", TRANSCRIPT])
def test_a_prompt_that_both_answers_repeat_is_taken_off(tmp_path: Path, prompt: str) -> None:
    row = {"prompt": prompt, "chosen": prompt + GOOD, "rejected": prompt + BAD}
    (pair,), _ = read(tmp_path, lines(row))
    assert (pair.prompt, pair.chosen, pair.rejected) == (prompt, GOOD, BAD)
    (pair,), _ = read(tmp_path, lines({"prompt": "Hi", "chosen": "Hi you", "rejected": "Hi!"}))
    assert pair.chosen == "Hi you"


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({**HELPSTEER, "preference_strength": 0}, "ties"),
        ({**HELPSTEER, "preference_strength": -100}, "rows without a vote"),
        ({**WEBGPT, "score_1": -0.5}, "ties"),
        (ranks(1, 1), "ties"),
        ({"prompt": Q, "completion": GOOD, "label": ""}, "rows without a vote"),
        ({**PAIR, "chosen": " "}, "chosen answers that are empty"),
        ({**PAIR, "prompt": [USER, said(GOOD)]}, "prompts that end with an answer already"),
        (
            {"conversations": [{"from": "human", "value": Q}, {"from": "gpt", "value": GOOD}],
                "chosen": GOOD, "rejected": BAD},
            "prompts that end with an answer already",
        ),
    ],
)  # fmt: skip
def test_what_is_no_preference_is_counted(tmp_path: Path, row: Any, reason: str) -> None:
    found, reading = read(tmp_path, lines(row))
    assert not found and not reading.broken
    assert reading.skipped == {reason: 1}


ARRAY = "[{'role': 'user', 'content': 'q'}\n {'role': 'assistant', 'content': 'a'}]"
"""An array of messages as pandas prints it."""


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (lines({**HELPSTEER, "preference_strength": 4}), "`preference_strength` is 4"),
        (lines({**PKU, "better_response_id": 2}), "`better_response_id` is 2: 0 or 1"),
        (lines({**SUMMARIES, "choice": None, "x": 1}), "the nearest is OpenAI, summaries"),
        (lines({**SUMMARIES, "choice": 7}), "`choice`"),
        (lines(ranks(1, None)), "`rank`"),
        (lines({**PAIR, "chosen": ARRAY}), "write it as JSON"),
        (lines({**PAIR, "images": ["a.png"]}), "`images`"),
        (lines(whole("ipython")), "the role 'ipython'"),
        (lines({**PAIR, "kind": "rating", "completion": "a", "value": True}), "a number, not True"),
        (b'[{"prompt": "p", "chosen": "\\ud800", "rejected": "b"}]', "half of a surrogate pair"),
        (b'prompt,chosen,rejected\n"p,a,b\nq,a,b\n', "cannot be read"),
        (lines({"chosen": GOOD, "rejected": BAD}), "pairs, which wants prompt too"),
        (json.dumps(PAIR, indent=1).encode(), "one JSON object a line, a JSON array, CSV"),
        (b"sep=;\nprompt;chosen;rejected\nq;a;b\n", "CSV with a header"),
        (b"PK\x03\x04\0\0", "JSON lines, a JSON array or CSV"),
    ],
)  # fmt: skip
def test_what_would_be_misread_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    with pytest.raises(InputError) as caught:
        read(tmp_path, content)
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        b",prompt,chosen,rejected\n0,q,a,b\n1,q,a,b\n",
        b"prompt, chosen, rejected\nq, a, b\nq, \"a\", b\n",
        b"Unnamed: 0,prompt,chosen,rejected,better (1-5)?\n0,q,a,b,4\n1,q,a,b,4\n",
        b"prompt,chosen,rejected\rq,a,b\rq,a,b\r",
    ],
)  # fmt: skip
def test_tables_as_programs_write_them_are_read(tmp_path: Path, content: bytes) -> None:
    found, _ = read(tmp_path, content)
    assert [(p.prompt, p.chosen, p.rejected) for p in found] == [("q", "a", "b")] * 2
    assert all(isinstance(p, Pair) and "" not in p.columns for p in found)


def test_blanks_that_begin_a_cell_stay_where_the_header_has_none(tmp_path: Path) -> None:
    (pair,), _ = read(tmp_path, b"prompt,chosen,rejected\nq, a,b\n")
    assert pair.chosen == " a"
