"""Lines of every form become pairs and feedback, and feedback becomes pairs."""

import gzip
import json
from collections import Counter
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from infra.errors import InputError
from jobs.dpo.config import PairChoice
from jobs.dpo.data import (
    Feedback,
    Pair,
    Reading,
    check_file,
    normalised,
    parse,
)
from jobs.dpo.messages import LeftOut
from jobs.dpo.opinions import ALONE, pairs, simulated_pairs
from jobs.dpo.scrub import scrub
from jobs.policy.data import Trajectory
from tasks.dpo.parameters import DPOTrainingParameters, PreferenceParameters
from tasks.dpo.preferences import given_dataset
from tasks.dpo.steps import (
    _judge_resources,
    prepare_inputs,
)
from tasks.policy.parameters import resources
from tasks.ppo.parameters import NightlyPPOParameters

CHOICE = PairChoice.model_validate({})
ASKED = [{"role": "user", "content": "say a"}]


def same(text: str) -> str:
    return text


def read(row: dict) -> Pair | Feedback:
    (found,) = parse(json.dumps(row), same)[1]
    return found


def made(*rows: dict, **choice) -> list[Pair]:
    records = [read(row) for row in rows]
    assert all(isinstance(record, Feedback) for record in records)
    return list(pairs(records, PairChoice.model_validate(choice), Counter()))


@pytest.mark.parametrize(
    ("row", "prompt", "is_chat"),
    [
        ({"prompt": "p", "chosen": "a", "rejected": "b"}, "p", False),
        ({"prompt": ASKED, "chosen": "a", "rejected": "b"}, json.dumps(ASKED), True),
        ({"messages": ASKED, "chosen": "a", "rejected": "b"}, json.dumps(ASKED), True),
        (
            {
                "prompt": ASKED,
                "chosen": [{"role": "assistant", "content": "a"}],
                "rejected": [{"role": "assistant", "content": "b"}],
            },
            json.dumps(ASKED),
            True,
        ),
        (
            {
                "chosen": [*ASKED, {"role": "assistant", "content": "a"}],
                "rejected": [*ASKED, {"role": "assistant", "content": "b"}],
            },
            json.dumps(ASKED),
            True,
        ),
        (
            {"topic_stance": "ban-cars_no-we-need-them", "chosen": "a", "rejected": "b"},
            "ban cars? no we need them.\n",
            False,
        ),
    ],
)
def test_pairs_are_read_in_every_form(row, prompt, is_chat) -> None:
    pair = read(row)
    assert isinstance(pair, Pair)
    assert (pair.prompt, pair.chosen, pair.rejected, pair.is_chat) == (prompt, "a", "b", is_chat)


def test_other_columns_are_kept_for_the_reward_and_debates_are_groups() -> None:
    pair = read({"topic_stance": "ban-cars_no", "chosen": "a", "rejected": "b", "target": 7})
    assert isinstance(pair, Pair)
    assert (pair.group, pair.columns) == ("ban-cars", {"target": 7})


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": "p", "chosen": "a"}, "the nearest is pairs, which wants rejected too"),
        ({"prompt": "", "chosen": "a", "rejected": "b"}, "prompt is empty"),
        ({"prompt": 3, "chosen": "a", "rejected": "b"}, "must be a text"),
        ({"prompt": "p", "chosen": " ", "rejected": ""}, "both answers are empty"),
        ({"prompt": "p", "chosen": "a", "rejected": "b", "confidence": 7}, "0.5 to 1"),
        ({"kind": "thumb", "prompt": "p", "completion": "a"}, "needs a `value`"),
        ({"kind": "rating", "prompt": "p", "completion": "a", "value": 9}, "1 to 5"),
        ({"kind": "comparison", "prompt": "p", "completion": "a", "value": 1}, "against"),
        ({"kind": "correction", "prompt": "p", "completion": "a", "correction": " "}, "correction"),
        ({"kind": "applause", "prompt": "p", "completion": "a"}, "kind"),
        ([1, 2], "JSON object"),
        ({"prompt": "p", "chosen": "\ud800", "rejected": "b"}, "surrogates"),
        ({"prompt": "p", "chosen": "a", "rejected": "b", "prompts": 1}, "must not be called"),
        (
            {
                "kind": "thumb",
                "prompt": "p",
                "completion": "a",
                "value": 1,
                "columns": {"completions": 1},
            },
            "must not be called",
        ),
    ],
)
def test_what_is_wrong_with_a_line_is_said(row, reason) -> None:
    with pytest.raises(ValueError, match=reason):
        read(row)


def test_equal_answers_are_no_preference() -> None:
    with pytest.raises(LeftOut, match="chosen equal to rejected"):
        read({"prompt": "p", "chosen": "a", "rejected": "a"})


def test_answers_that_are_equal_once_scrubbed_are_no_preference() -> None:
    row = {"prompt": "p", "chosen": "Ask a@b.org", "rejected": "Ask c@d.org"}
    with pytest.raises(LeftOut, match="chosen equal to rejected"):
        parse(json.dumps(row), scrub)


def test_an_escaped_emoji_is_a_text() -> None:
    pair = read({"prompt": "p", "chosen": "\U0001f600", "rejected": "b"})
    assert isinstance(pair, Pair) and pair.chosen == "\U0001f600"


def lines(path: Path, good: int, *bad: str) -> Path:
    rows = [json.dumps({"prompt": f"p{n}", "chosen": "a", "rejected": "b"}) for n in range(good)]
    with gzip.open(path, "wt") as stream:
        stream.write("\n".join([*bad, *rows]) + "\n")
    return path


def test_broken_lines_are_counted_and_named_and_too_many_stop(tmp_path: Path) -> None:
    few = Reading(lines(tmp_path / "few.gz", 199, "{", "\xff"), "--dataset")
    assert len(list(few.rows())) == 199
    assert (few.lines, few.broken) == (201, 2)
    assert few.named[0].startswith("line 1: ")
    with pytest.raises(InputError, match=r"2 of 101 lines are broken.*\nline 1: .*\nline 2: "):
        check_file(lines(tmp_path / "many.gz", 99, "{", "7"), "--dataset")
    with pytest.raises(InputError, match="holds no preference"):
        check_file(lines(tmp_path / "none.gz", 0), "--dataset")


def test_reasons_are_those_of_the_line(tmp_path: Path) -> None:
    reading = Reading(tmp_path / "pairs.jsonl", "--dataset")
    reading.path.write_bytes(b'{"prompt": \n{"prompt": "\xfc"}\n{"prompt": "\\uD800"}\n')
    with pytest.raises(InputError, match="3 of 3"):
        list(reading.rows())
    assert reading.named[0].startswith("line 1: no JSON: Expecting value, column")
    assert reading.named[1] == "line 2: no UTF-8"
    assert reading.named[2].startswith("line 3: an escape is half of a surrogate pair")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32", "latin-1"])
def test_another_encoding_is_told_as_one(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "pairs.jsonl"
    row = {"prompt": "wört", "chosen": "a", "rejected": "b"}
    text = (json.dumps(row, ensure_ascii=False) + "\n") * 9
    path.write_bytes(text.encode(encoding))
    with pytest.raises(InputError, match=r"(.|\n)*→ Save .*--dataset.* as UTF-8"):
        check_file(path, "--dataset")


@pytest.mark.parametrize("damage", ["cut off", "overwritten"])
def test_a_damaged_archive_is_refused(tmp_path: Path, damage: str) -> None:
    path = lines(tmp_path / "pairs.gz", 999)
    data = path.read_bytes()
    damaged = data[: len(data) // 2] if damage == "cut off" else data[:20] + b"\xff" * 500
    path.write_bytes(damaged)
    with pytest.raises(InputError, match=r"cannot be read after line(.|\n)*--dataset"):
        check_file(path, "--dataset")


def test_equal_answers_do_not_stop_a_file(tmp_path: Path) -> None:
    equal = json.dumps({"prompt": "p", "chosen": "a", "rejected": "a"})
    path = lines(tmp_path / "equal.gz", 3, equal, equal)
    reading = Reading(path, "--dataset")
    assert len(list(reading.rows())) == 3
    assert reading.skipped["chosen equal to rejected"] == 2
    assert check_file(path, "--dataset") == (3, 0)


def test_chats_and_texts_are_not_mixed(tmp_path: Path) -> None:
    chat = json.dumps({"prompt": ASKED, "chosen": "a", "rejected": "b"})
    with pytest.raises(InputError, match="texts and prompts that are chat"):
        check_file(lines(tmp_path / "mixed.gz", 3, chat), "--dataset")


def test_a_correction_is_chosen_and_is_the_reference() -> None:
    (pair,) = made({"kind": "correction", "prompt": "p", "completion": "bad", "correction": "good"})
    assert (pair.chosen, pair.rejected, pair.source) == ("good", "bad", "correction")
    assert pair.columns == {"reference": "good"}


def test_comparisons_go_both_ways_and_ties_give_nothing() -> None:
    row = {"kind": "comparison", "prompt": "p", "completion": "a", "against": "b", "value": 1}
    found = made(row, {**row, "value": -1}, {**row, "value": 0})
    assert [(p.chosen, p.rejected) for p in found] == [("a", "b"), ("b", "a")]


def thumb(completion: str, value: float, user: str, **more) -> dict:
    return {"kind": "thumb", "prompt": "p", "completion": completion, "value": value, "user": user,
            **more}  # fmt: skip


def test_thumbs_make_pairs_of_liked_and_disliked_answers() -> None:
    rows = [thumb("a", 1, "u"), thumb("a", 1, "v"), thumb("b", -1, "u"), thumb("b", -1, "v")]
    rows += [thumb("c", 1, "u"), thumb("d", 1, "u"), thumb("d", -1, "v"), thumb("b", -1, "v")]
    found = {(p.chosen, p.rejected): (p.votes, p.margin) for p in made(*rows)}
    assert found == {("a", "b"): (2, 1.0), ("c", "b"): (1, 1.0)}
    assert made(thumb("a", 1, "u"), thumb("b", -1, "u", simulated=True)) == []


def test_opinions_that_make_no_pair_are_counted() -> None:
    rows = [thumb("a", 1, "u"), thumb("b", 1, "v"), {**thumb("c", 1, "u"), "prompt": "q"}]
    skipped = Counter[str]()
    records = [record for record in map(read, rows) if isinstance(record, Feedback)]
    assert list(pairs(records, CHOICE, skipped)) == []
    assert skipped == {"read": 3, ALONE: 3, "changed later by the same user": 0}


@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.sampled_from([1, -1]), st.sampled_from(["", "u", "v"]))
    ),
    st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from([1, 0, -1]))),
    st.integers(1, 3),
)
def test_no_vote_is_lost(thumbs, comparisons, most) -> None:
    rows = [thumb(*one) for one in thumbs]
    rows += [stars(text, 3 + value) for text, value, _ in thumbs]
    rows += [
        {"kind": "comparison", "prompt": "p", "completion": text, "against": "a", "value": value}
        for text, value in comparisons
    ]
    counts = Counter[str]()
    records = [record for record in map(read, rows) if isinstance(record, Feedback)]
    choice = PairChoice.model_validate({"pairs_per_prompt": most})
    found = list(pairs(records, choice, counts))
    assert counts["read"] == len(rows)
    assert counts["read"] * 2 == sum(counts.values())
    assert bool(found) == bool(counts["used"])


def stars(completion: str, value: float) -> dict:
    return {"kind": "rating", "prompt": "p", "completion": completion, "value": value}


def test_ratings_make_pairs_beyond_the_margin() -> None:
    rows = [stars("a", 5), stars("b", 3), stars("c", 4)]
    found = {(p.chosen, p.rejected): p.margin for p in made(*rows, rating_margin=2)}
    assert found == {("a", "b"): 0.5}
    assert len(made(*rows)) == 3
    (only,) = made(*rows, pairs_per_prompt=1)
    assert (only.chosen, only.rejected) == ("a", "b")


def test_confidence_grows_with_source_users_and_margin() -> None:
    def weight(**fields) -> float:
        return Pair("p", "a", "b", **fields).weight

    assert weight(source="correction") > weight(source="comparison") > weight(source="rating")
    assert weight(source="thumb", votes=2) > weight(source="thumb")
    assert weight(source="rating", margin=1) > weight(source="rating", margin=0.25)
    assert weight(confidence=0.5) == 0


def test_simulated_pairs_are_marked() -> None:
    def answer(text: str, reward: float) -> Trajectory:
        return Trajectory(
            prompt="p",
            completion=text,
            prompt_token_ids=[1],
            completion_token_ids=[2],
            logprobs=[-1.0],
            reward=reward,
        )

    found = list(simulated_pairs([answer("a", 1), answer("b", 0.9), answer("c", 0.1)], CHOICE))
    assert [(p.chosen, p.rejected) for p in found] == [("a", "c"), ("b", "c")]
    assert all(p.simulated and p.source == "simulated" for p in found)


def test_personal_data_is_scrubbed_and_numbers_of_parts_are_not() -> None:
    text = "Mail jo.doe@example.org or call +49 (30) 1234-5678, 555-123-4567, from 10.0.0.1"
    assert scrub(text) == "Mail <email> or call <phone>, <phone>, from <ip>"
    assert scrub("IBAN DE89 3704 0044 0532 0130 00.") == "IBAN <iban>."
    for kept in ('{"part":"gear","teeth":20,"module":1.25}', "M8 x 40, 43.18 mm, 2026-11-21"):
        assert scrub(kept) == kept


@pytest.mark.parametrize("uri", ["nonsense://x", "http://example.org/x", "file:///nowhere/at/all"])
def test_an_artefact_that_is_not_there_names_the_option(uri: str) -> None:
    with pytest.raises(InputError, match="--dataset"):
        given_dataset.fn(PreferenceParameters(dataset=uri, max_cost=Decimal(1)))


@pytest.mark.parametrize("card", ["{", "{}", "[]", b"\xff"])
def test_a_dataset_with_another_card_is_refused(tmp_path: Path, card: str | bytes) -> None:
    for part in ("card.md", "train.parquet", "held_out.parquet", "prompts.jsonl"):
        (tmp_path / part).touch()
    (tmp_path / "card.json").write_bytes(card if isinstance(card, bytes) else card.encode())
    with pytest.raises(InputError, match=r"--dataset: card\.json(.|\n)*build-preferences"):
        given_dataset.fn(PreferenceParameters(dataset=str(tmp_path), max_cost=Decimal(1)))


@pytest.mark.parametrize("option", ["prompts", "held_out"])
def test_a_file_that_is_not_there_names_the_option(option: str) -> None:
    parameters = DPOTrainingParameters(**{option: "nowhere.jsonl"}, max_cost=Decimal(1))  # pyright: ignore[reportArgumentType]
    with pytest.raises(
        InputError, match=rf"--{option.replace('_', '-')}: there is no file nowhere"
    ):
        prepare_inputs.fn(parameters)


def test_the_demo_needs_no_completion_length() -> None:
    assert DPOTrainingParameters().answer_tokens == 32
    assert NightlyPPOParameters().answer_tokens == 32
    assert NightlyPPOParameters(model="./mine").answer_tokens == 128
    assert DPOTrainingParameters(model="mine").max_new_tokens == 128


def test_feedback_reaches_back_a_sane_time() -> None:
    assert PreferenceParameters(feedback_since="99999w", max_cost=Decimal(1)).since.days == 699993
    with pytest.raises(ValidationError):
        PreferenceParameters(feedback_since="100000d", max_cost=Decimal(1))


@given(st.binary(max_size=200))
def test_no_line_breaks_the_reader(line: bytes) -> None:
    try:
        parse(line, scrub)
    except (ValueError, TypeError, RecursionError) as error:
        assert error is not None


@given(st.text(max_size=60), st.text(max_size=20))
def test_normalising_is_idempotent_and_blind_to_white_space(text: str, more: str) -> None:
    assert normalised(normalised(text)) == normalised(text)
    assert normalised(f"  {text}\n\t{more} ") == normalised(f"{text} {more}")


def test_a_judge_learns_on_one_gpu_at_most_and_the_policy_on_all() -> None:
    asked = {"dataset": "pairs.jsonl", "model": "me/mine", "target": "sky"}
    for gpus, judge, policy in ((None, {}, {}), ("H100:4", {"H100": 1}, {"H100": 4})):
        parameters = DPOTrainingParameters.model_validate(asked | {"accelerators": gpus})
        assert _judge_resources(parameters).accelerators == judge
        assert resources(parameters).accelerators == policy
