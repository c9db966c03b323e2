"""Preferences in the shapes in which people have them: each is recognised, said and counted."""

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.errors import InputError
from jobs.dpo.data import Feedback, Pair, Reading, check_file
from jobs.dpo.shapes import SHAPES

CASES = Path(__file__).parents[4] / "shared" / "data" / "public-cases"


def said(role: str, content: Any, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


def turns(*contents: str) -> list[dict[str, Any]]:
    return [said("user" if n % 2 == 0 else "assistant", c) for n, c in enumerate(contents)]


FRUIT = [said("user", "Name a fruit.")]
SYSTEM = said("system", "Be brief.")
RATED = [
    {"model": "x", "response": "An apple.", "fine-grained_score": 4.5, "overall_score": 8.0},
    {"model": "y", "response": "A stone.", "fine-grained_score": 1.5, "overall_score": 2.0},
]
RANKING = [{"rank": 2, "value": "response1"}, {"rank": 1, "value": "response2"}]
PAIRS: dict[str, tuple[dict[str, Any], Any]] = {
    "pairs": ({"prompt": "Name a fruit.", "chosen": "An apple.", "rejected": "A stone."}, "text"),
    "UltraFeedback, binarised": (
        {
            "prompt": "Name a fruit.",
            "prompt_id": "0",
            "chosen": turns("Name a fruit.", "An apple."),
            "rejected": turns("Name a fruit.", "A stone."),
            "messages": turns("Name a fruit.", "An apple."),
            "score_chosen": 8.0,
        },
        FRUIT,
    ),
    "whole conversations": (
        {
            "chosen": [SYSTEM, *turns("Hi", "Hi!", "Name a fruit.", "An apple.")],
            "rejected": [SYSTEM, *turns("Hi", "Hi!", "Name a fruit.", "A stone.")],
        },
        [SYSTEM, *turns("Hi", "Hi!", "Name a fruit.")],
    ),
    "HH-RLHF": (
        {
            "chosen": "\n\nHuman: Hi\n\nAssistant: Hi!\n\nHuman: Name a fruit.\n\nAssistant: "
            "An apple.",
            "rejected": "\n\nHuman: Hi\n\nAssistant: Hi!\n\nHuman: Name a fruit.\n\nAssistant: "
            "A stone.",
        },
        turns("Hi", "Hi!", "Name a fruit."),
    ),
    "SHP": (
        {
            "history": "Name a fruit.",
            "human_ref_A": "A stone.",
            "human_ref_B": "An apple.",
            "labels": 0,
            "score_A": 2,
        },
        "text",
    ),
    "arena": (
        {
            "winner": "model_b",
            "judge": "arena_user_7",
            "model_a": "x",
            "model_b": "y",
            "conversation_a": turns("Name a fruit.", "A stone."),
            "conversation_b": turns("Name a fruit.", "An apple."),
        },
        FRUIT,
    ),
    "arena, 55k": (
        {
            "prompt": '["Name a fruit."]',
            "response_a": '["An apple."]',
            "response_b": '["A stone."]',
            "winner_model_a": 1,
            "winner_model_b": 0,
            "winner_tie": 0,
        },
        FRUIT,
    ),
    "OpenAI": (
        {
            "input": {"messages": FRUIT, "tools": [], "parallel_tool_calls": True},
            "preferred_output": [said("assistant", "An apple.")],
            "non_preferred_output": [said("assistant", "A stone.")],
        },
        FRUIT,
    ),
    "ShareGPT": (
        {
            "conversations": [{"from": "human", "value": "Name a fruit."}],
            "chosen": {"from": "gpt", "value": "An apple."},
            "rejected": {"from": "gpt", "value": "A stone."},
        },
        FRUIT,
    ),
    "Argilla, chosen and rejected": (
        {
            "source": "evol_instruct",
            "instruction": "Name a fruit.",
            "chosen_response": "An apple.",
            "rejected_response": "A stone.",
        },
        "text",
    ),
    "Argilla, votes": (
        {
            "prompt": "Name a fruit.",
            "response1": "A stone.",
            "response2": "An apple.",
            "preference": [{"user_id": "u", "value": RANKING, "status": "submitted"}],
        },
        "text",
    ),
}


def file(folder: Path, rows: list[Any]) -> Path:
    path = folder / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read(path: Path) -> tuple[list[Any], Reading]:
    reading = Reading(path, "--dataset")
    return [row for _, row in reading.rows()], reading


def one(folder: Path, row: dict[str, Any]) -> Any:
    (found,), _ = read(file(folder, [row]))
    return found


@pytest.mark.parametrize("shape", PAIRS)
def test_each_shape_is_read_and_named(tmp_path: Path, shape: str) -> None:
    row, prompt = PAIRS[shape]
    (pair,), reading = read(file(tmp_path, [row]))
    assert isinstance(pair, Pair)
    assert (pair.chosen, pair.rejected) == ("An apple.", "A stone.")
    if prompt == "text":
        assert (pair.prompt, pair.is_chat) == ("Name a fruit.", False)
    else:
        assert (json.loads(pair.prompt), pair.is_chat) == (prompt, True)
    assert reading.shapes == {shape: 1}
    assert reading.shown[0] | {"prompt": ""} == {
        "shape": shape,
        "prompt": "",
        "chosen": "An apple.",
        "rejected": "A stone.",
    }


@pytest.mark.parametrize(
    ("preference", "user"),
    [
        ({"preference": [{"user_id": "u", "value": {"rank": [2, 1], "value": ["response1",
            "response2"]}, "status": "submitted"}]}, "u"),
        ({"preference.responses": ["response2"], "preference.responses.users": ["u"],
            "preference.responses.status": ["submitted"]}, "u"),
        ({"preference.responses": [["response2", "response1"]]}, ""),
        ({"responses": {"preference": [{"value": "response2", "user_id": "u"}]}}, "u"),
    ],
)  # fmt: skip
def test_votes_of_argilla_are_those_that_were_submitted(tmp_path, preference, user) -> None:
    fields = {"instruction": "Name a fruit.", "response1": "A stone.", "response2": "An apple."}
    row = {"fields": fields} if "responses" in preference else fields
    pair = one(tmp_path, row | preference)
    assert (pair.chosen, pair.rejected, pair.user) == ("An apple.", "A stone.", user)
    draft = {"preference": [{"user_id": "u", "value": RANKING, "status": "discarded"}]}
    found, reading = read(file(tmp_path, [fields | draft]))
    assert not found and reading.skipped == {"rows without a vote": 1}


def test_ultrafeedback_as_it_was_made_is_stars_and_kto_is_thumbs(tmp_path: Path) -> None:
    rows = [
        {"source": "s", "instruction": "Name a fruit.", "models": ["x"], "completions": RATED},
        {"prompt": "Name a fruit.", "completion": "A pear.", "label": True},
        {"prompt": "Name a fruit.", "completion": "A rock.", "label": "false"},
    ]
    found, reading = read(file(tmp_path, rows))
    assert all(isinstance(row, Feedback) for row in found)
    assert [(row.kind, row.completion, row.value) for row in found] == [
        ("rating", "An apple.", 4.5),
        ("rating", "A stone.", 1.5),
        ("thumb", "A pear.", 1),
        ("thumb", "A rock.", -1),
    ]
    assert reading.shapes == {"UltraFeedback, raw": 1, "KTO": 2}


@pytest.mark.parametrize(
    ("winner", "count"),
    [("tie", "ties"), ("tie (bothbad)", "ties"), ("both_bad", "ties"), ("model_c", "broken")],
)
def test_ties_of_the_arena_are_counted(tmp_path: Path, winner: str, count: str) -> None:
    rows = [PAIRS["arena"][0]] * 300 + [PAIRS["arena"][0] | {"winner": winner}]
    found, reading = read(file(tmp_path, rows))
    assert len(found) == 300
    assert (reading.skipped["ties"], reading.broken) == ((1, 0) if count == "ties" else (0, 1))
    assert found[0].user == "arena_user_7" and found[0].source == "comparison"


def test_conversations_that_part_early_are_left_out_and_counted(tmp_path: Path) -> None:
    early = {"chosen": turns("a", "b", "c", "d"), "rejected": turns("a", "x", "c", "e")}
    unanswered = {"chosen": turns("a", "b", "c"), "rejected": turns("a", "b", "d")}
    found, reading = read(file(tmp_path, [early, unanswered]))
    assert not found and not reading.broken
    assert reading.skipped == {
        "conversations that part before their last answer": 1,
        "conversations that do not end with an answer": 1,
    }


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"prompt": "Another."}, "`prompt` is no message of the conversations"),
        ({"chosen": [*FRUIT, said("assistant", None, tool_calls=[{}])]}, "tool call"),
        ({"chosen": [*FRUIT, said("assistant", [{"type": "image_url"}])]}, "'image_url'"),
    ],
)
def test_what_would_be_misread_is_refused(tmp_path: Path, change, reason) -> None:
    row = PAIRS["UltraFeedback, binarised"][0] | change
    with pytest.raises(InputError, match=reason):
        read(file(tmp_path, [row]))


def test_a_system_prompt_beside_a_text_makes_a_chat_of_it(tmp_path: Path) -> None:
    pair = one(tmp_path, PAIRS["pairs"][0] | {"system": "Be brief."})
    assert json.loads(pair.prompt) == [SYSTEM, *FRUIT]


def test_calls_of_tools_stay_in_the_prompt_and_definitions_are_refused(tmp_path: Path) -> None:
    call = {"type": "function", "function": {"name": "look_up", "arguments": "{}"}}
    asked = [*FRUIT, said("assistant", None, tool_calls=[call]), said("tool", "An apple.")]
    row = PAIRS["pairs"][0] | {"prompt": asked}
    pair = one(tmp_path, row)
    assert json.loads(pair.prompt)[1] == said("assistant", "", tool_calls=[call])
    with pytest.raises(InputError, match="`tools` defines tools"):
        one(tmp_path, row | {"tools": [call]})


def test_a_given_prompt_is_not_replaced_by_a_topic(tmp_path: Path) -> None:
    pair = one(tmp_path, PAIRS["pairs"][0] | {"topic_stance": "ban-cars_no"})
    assert (pair.prompt, pair.columns) == ("Name a fruit.", {"topic_stance": "ban-cars_no"})


def test_an_unknown_shape_names_its_fields_and_the_nearest(tmp_path: Path) -> None:
    row = {"history": "Name a fruit.", "human_ref_A": "a", "better": "b"}
    with pytest.raises(InputError) as found:
        check_file(file(tmp_path, [row] * 9), "--dataset")
    text = str(found.value)
    assert text.count("no shape is known") == 2
    assert "the fields better, history, human_ref_A; the nearest is SHP" in text
    assert "wants human_ref_B, labels" in text and "--map" in text


def test_other_fields_are_mapped(tmp_path: Path) -> None:
    rows = [{"q": "Name a fruit.", "good": "An apple.", "bad": "A stone.", "n": 7}]
    mapping = {"prompt": "q", "chosen": "good", "rejected": "bad"}
    reading = Reading(file(tmp_path, rows), "--dataset", mapping)
    ((_, pair),) = reading.rows()
    assert isinstance(pair, Pair)
    assert (pair.prompt, pair.chosen, pair.columns) == ("Name a fruit.", "An apple.", {"n": 7})
    with pytest.raises(InputError, match=r"--map names nope(.|\n)*bad, good, n, q"):
        list(Reading(reading.path, "--dataset", {**mapping, "chosen": "nope"}).rows())


ROWS = [{"prompt": f"p {n}", "chosen": f"good, {n}\n", "rejected": "bad"} for n in range(4)]


def test_csv_and_json_arrays_are_read(tmp_path: Path) -> None:
    path = tmp_path / "pairs"
    path.write_text(json.dumps(ROWS, indent=1))
    expected = [(row["prompt"], row["chosen"]) for row in ROWS]
    assert [(p.prompt, p.chosen) for p in read(path)[0]] == expected
    for delimiter in ",;\t":
        with path.open("w", newline="", encoding="utf-8-sig") as stream:
            writer = csv.DictWriter(stream, [*ROWS[0], "simulated"], delimiter=delimiter)
            writer.writeheader()
            writer.writerows(row | {"simulated": "false"} for row in ROWS)
        found, reading = read(path)
        assert [(p.prompt, p.chosen, p.simulated) for p in found] == [(*e, False) for e in expected]
        assert reading.lines == 4


def test_conversations_in_the_cells_of_a_csv_are_read(tmp_path: Path) -> None:
    path = tmp_path / "pairs"
    row = PAIRS["whole conversations"][0]
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(row))
        writer.writeheader()
        writer.writerow({name: json.dumps(value) for name, value in row.items()})
    assert read(path)[0][0].chosen == "An apple."


@pytest.mark.parametrize(
    ("case", "count"),
    [
        ("pairs-bom-crlf/pairs.jsonl", 4),
        ("pairs-content-in-parts/pairs.jsonl", 4),
        ("pairs-csv/pairs.csv", 4),
        ("pairs-json-array/pairs.json", 4),
        ("pairs-prompt-and-whole-conversations/pairs.jsonl", 4),
        ("pairs-whole-conversations-system-many-turns/pairs.jsonl", 4),
        ("pairs-simulated-as-text/pairs.jsonl", 4),
        ("pairs-tool-calls/pairs.jsonl", 4),
        ("feedback-nan-users/feedback.jsonl", 6),
        ("feedback-thumb-1-2/feedback.jsonl", None),
    ],
)
def test_public_cases(case: str, count: int | None) -> None:
    if not CASES.is_dir():
        pytest.skip("needs ../shared/data/public-cases")
    if count is None:
        with pytest.raises(InputError, match="1 or -1"):
            check_file(CASES / case, "--dataset")
        return
    found, reading = read(CASES / case)
    assert len(found) == reading.lines == count
    assert not any(row.simulated or row.user for row in found)
    if "pairs" in case:
        assert [row.chosen for row in found] == ["An apple.", "Iron.", "The Rhine.", "Helium."]


PAGE = Path(__file__).parents[3] / "docs" / "dpo-training.md"
SHOWN = re.findall(
    r"\*\*([A-Z][^*]+)\*\*[^`]*(?:`[^`]+`[^`]*)*\n\n```\n(\{.*?)```", PAGE.read_text(), re.DOTALL
)


def test_the_page_shows_two_rows_of_every_shape(tmp_path: Path) -> None:
    told = dict[str, int]()
    for _, block in SHOWN:
        path = tmp_path / "rows"
        path.write_text(block)
        found, reading = read(path)
        assert reading.taken == reading.lines == 2
        assert all(isinstance(row, Pair) or row.kind for row in found)
        told |= reading.shapes
    assert {shape.name for shape in SHAPES} - set(told) == {"feedback"}


def test_a_long_line_is_read(tmp_path: Path) -> None:
    pair = one(tmp_path, {"prompt": "x " * 6_000_000, "chosen": "a", "rejected": "b"})
    assert len(pair.prompt) == 12_000_000


FIELDS = sorted({name for row, _ in PAIRS.values() for name in row} | {"kind", "value", "label"})
CELLS = st.sampled_from(
    [cell for row, _ in PAIRS.values() for cell in row.values()]
    + ["tie", "", None, float("nan"), 7, {}, [], "thumb", "comparison", RATED]
)
ANY_ROW = st.dictionaries(st.sampled_from(FIELDS), CELLS, max_size=8)
SPOILT = st.builds(
    lambda row, change: row | change,
    st.sampled_from([row for row, _ in PAIRS.values()]),
    st.dictionaries(st.sampled_from(FIELDS), CELLS, max_size=1),
)


@given(st.lists(ANY_ROW | SPOILT, max_size=6))
@settings(max_examples=150, deadline=None)
def test_no_row_is_lost(rows: list[dict[str, Any]]) -> None:
    lines = [(n, json.dumps(row)) for n, row in enumerate(rows)]
    reading, numbers = Reading(Path("rows"), "--dataset", rows_given=lines), set[int]()
    try:
        numbers = {number for number, _ in reading.rows()}
    except InputError:
        assert reading.broken
    else:
        assert len(numbers) == reading.taken
    assert len(rows) == reading.lines
    assert reading.lines == reading.taken + reading.broken + sum(reading.skipped.values())
    assert sum(reading.shapes.values()) == reading.taken
