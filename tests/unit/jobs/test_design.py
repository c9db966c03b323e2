"""The verifiable domain: every target verifies, nothing else does, and garbage never raises."""

import json
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from jobs.design.parts import FIELDS, HEADS, is_valid, verify, write
from jobs.design.requests import OPENERS, draw, request, rows, write_jsonl
from jobs.design.reward import reward, success

seeds = st.integers(0, 10**9)
values = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.lists(st.integers())
)


@given(seeds)
def test_every_target_is_valid_and_verifies(seed: int) -> None:
    target = write(draw(Random(seed)))
    found = verify(target, target)
    assert found.success and found.parameters_right == 1
    assert reward([target], [target]) == success([target], [target]) == [1.0]


@given(seeds, st.data())
def test_any_changed_parameter_fails(seed: int, data) -> None:
    design = draw(Random(seed))
    target = write(design)
    field = data.draw(st.sampled_from(FIELDS[design["part"]]))
    other = data.draw(st.sampled_from(HEADS) if field == "head" else st.integers(0, 10**4))
    changed = write(design | {field: other})
    same = other == design[field]
    assert verify(target, changed).success == same
    if not same:
        assert 0 < reward([changed], [target])[0] < 1


@given(seeds, st.text())
def test_any_text_is_graded(seed: int, text: str) -> None:
    target = write(draw(Random(seed)))
    assert 0 <= reward([text], [target])[0] < 1


@given(seeds, st.dictionaries(st.sampled_from(["part", *FIELDS["gear"], "x"]), values))
def test_any_json_is_graded(seed: int, answer: dict) -> None:
    target = write(draw(Random(seed)))
    answer["part"] = answer.get("part", "gear")
    text = json.dumps(answer)
    assert 0 <= reward([text], [target])[0] <= 1
    assert is_valid(answer) in (True, False)


def test_extra_fields_and_true_for_one_are_not_success() -> None:
    target = '{"part":"gear","teeth":20,"module":1,"bore":6}'
    assert not verify(target, target[:-1] + ',"colour":"blue"}').success
    assert not verify(target, target.replace('"module":1', '"module":true')).success


def test_numbers_beyond_any_float_are_graded() -> None:
    target = '{"part":"gear","teeth":20,"module":1.5,"bore":6}'
    for number in ("9" * 400, "-" + "9" * 400, "9" * 5000, "1e999", "NaN", "-Infinity"):
        for field in ('"teeth":20', '"module":1.5', '"bore":6'):
            answer = target.replace(field, f"{field.split(':')[0]}:{number}")
            assert 0 <= reward([answer], [target])[0] < 1


def test_geometry_rules() -> None:
    gear = {"part": "gear", "teeth": 20, "module": 2, "bore": 6}
    assert is_valid(gear)
    root = 2 * (20 - 2.5)
    assert is_valid(gear | {"bore": root - 4})
    assert not is_valid(gear | {"bore": root - 3.9})
    assert not is_valid(gear | {"module": 2.2})
    bracket = {"part": "bracket", "nema": 23, "width": 57, "thickness": 4}
    assert is_valid(bracket)
    assert not is_valid(bracket | {"width": 56})
    assert not is_valid(bracket | {"nema": 18})
    screw = {"part": "screw", "thread": 6, "length": 20, "head": "hex"}
    assert is_valid(screw)
    assert not is_valid(screw | {"length": 21})
    assert not is_valid(screw | {"thread": 7})


def test_requests_are_deterministic_and_say_every_parameter(tmp_path) -> None:
    assert rows("train", 50, 1) == rows("train", 50, 1) != rows("train", 50, 2)
    for row in rows("held_out", 200, 3):
        design = json.loads(row["target"])
        for field in FIELDS[design["part"]]:
            value = design[field]
            said = [str(value)] + ([f"{value / 10:g} cm"] if isinstance(value, int) else [])
            assert any(text in row["prompt"] for text in said), row
    write_jsonl(tmp_path / "p.jsonl", "train", 3, 0)
    assert len((tmp_path / "p.jsonl").read_text().splitlines()) == 3


def test_held_out_phrasings_are_in_no_training_request() -> None:
    def words(prompt: str) -> str:
        return "".join("#" if c.isdigit() or c == "." else c for c in prompt)

    training = {words(request("train", Random(n))["prompt"]) for n in range(5000)}
    held_out = {words(request("held_out", Random(n))["prompt"]) for n in range(1000)}
    assert not training & held_out
    assert not set(OPENERS["train"]) & set(OPENERS["held_out"])
