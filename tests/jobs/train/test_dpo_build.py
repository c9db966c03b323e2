"""The dataset: votes settled, near duplicates gone, nothing in both splits, everything counted."""

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.errors import InputError
from jobs.dpo import build
from jobs.dpo.config import BuildConfig
from jobs.dpo.data import Pair, normalised
from jobs.dpo.duplicates import near_duplicates, settle, vote_of
from jobs.policy.data import Trajectory, write_trajectories

UKP = Path(__file__).parents[4] / "shared" / "data" / "preferences-ukpconvarg1" / "pairs.jsonl"


def row(number: int, chosen: str = "good", rejected: str = "bad", **more) -> dict:
    return {"prompt": f"prompt {number}", "chosen": chosen, "rejected": rejected, **more}


@pytest.fixture
def dataset(run_job, write_lines):
    """dataset(rows, config, **inputs) → (card, rows by split)"""

    def make(rows, config=None, **inputs):
        files = {"pairs": write_lines(f"{len(rows)}-pairs.jsonl", rows), **inputs}
        config = {"workers": 1, **(config or {})}
        _, outcome = run_job(build.program, BuildConfig, "dpo.build", config, **files)
        folder = outcome.artifacts["dataset"]
        card = json.loads((folder / "card.json").read_text())
        splits = {
            name: pq.read_table(folder / f"{name}.parquet").to_pylist()
            for name in ("train", "held_out")
        }
        assert (folder / "card.md").read_text().startswith("# Data card")
        return card, splits, folder

    return make


def test_votes_are_counted_and_conflicts_settled(dataset):
    rows = [row(n) for n in range(40)]
    rows += [row(1), row(2, "  GOOD "), row(3, user="u"), row(3, user="v"), row(3, user="v")]
    rows += [row(4, "bad", "good")]  # one against one: dropped
    rows += [row(5, user="u"), row(5, "bad", "good", user="v")]  # two against one: settled
    card, splits, _ = dataset(rows)
    found = {r["prompt"]: r for r in splits["train"] + splits["held_out"]}
    assert len(found) == 39 and "prompt 4" not in found
    assert card["left_out"]["exact duplicates"] == 3
    assert card["conflicts"] == {"resolved": 1, "dropped": 1}
    assert card["left_out"]["outvoted"] == 1
    assert card["left_out"]["cancelled by opposite votes"] == 2
    assert card["left_out"]["of other users with the same choice"] == 3
    assert card["read"] == sum(card["left_out"].values()) + 39
    assert (found["prompt 3"]["votes"], found["prompt 5"]["votes"]) == (3, 2)
    assert found["prompt 3"]["confidence"] > found["prompt 0"]["confidence"] > 0.8
    assert found["prompt 5"]["confidence"] == pytest.approx(found["prompt 0"]["confidence"])
    assert found["prompt 5"]["chosen"] == "good"


def test_everything_is_counted_and_the_prompts_keep_their_columns(dataset):
    rows = [row(n, "a longer one", target=n) for n in range(200)]
    rows += [row(n, confidence=0.51) for n in range(300, 310)] + [row(7, "same", "same")]
    card, splits, folder = dataset(rows)
    assert card["left_out"]["below the least confidence"] == 10
    assert card["files"][0]["left_out"] == {"chosen equal to rejected": 1}
    assert (card["files"][0]["rows"], card["files"][0]["taken"]) == (211, 210)
    assert card["longer_wins"] == 1
    assert sum(card["confidence_histogram"]) == 200
    assert 5 < len(splits["held_out"]) < 50
    prompts = [json.loads(line) for line in (folder / "prompts.jsonl").read_text().splitlines()]
    assert [p["prompt"] for p in prompts] == [r["prompt"] for r in splits["held_out"]]
    assert all(p["prompt"] == f"prompt {p['target']}" for p in prompts)


def test_nothing_is_in_both_splits_and_held_out_stays_held_out(dataset):
    rows = [row(n % 90, f"good {n}", f"bad {n}") for n in range(400)]
    _, splits, _ = dataset(rows)
    trained = {r["prompt"] for r in splits["train"]}
    held_out = {r["prompt"] for r in splits["held_out"]}
    assert not trained & held_out
    _, more, _ = dataset([row(n + 1000) for n in range(300)] + rows)
    assert {r["prompt"] for r in more["held_out"]} >= held_out


def test_groups_are_held_out_whole(dataset):
    rows = [row(n, group=f"debate {n % 7}") for n in range(300)]
    _, splits, folder = dataset(rows, {"held_out_share": 0.3})
    groups = [{r["group"] for r in splits[name]} for name in ("train", "held_out")]
    assert groups[0] and groups[1] and not groups[0] & groups[1]
    prompts = [json.loads(line) for line in (folder / "prompts.jsonl").read_text().splitlines()]
    assert {prompt["group"] for prompt in prompts} == groups[1], "the gate draws them together"


def answers(prompts: Iterable[str]) -> list[Trajectory]:
    """A good and a poor answer to each prompt."""
    return [
        Trajectory(
            prompt=prompt,
            completion=text,
            prompt_token_ids=[1],
            completion_token_ids=[2],
            logprobs=[-1.0],
            reward=reward,
        )
        for prompt in prompts
        for text, reward in (("perfect, says Jo", 1.0), ("poor", 0.0))
    ]


def test_a_prompt_that_a_group_holds_out_is_not_trained_on_without_the_group(dataset, tmp_path):
    rows = [row(n, group=f"debate {n % 7}") for n in range(100)]
    rows += [row(n, "GOOD again", "BAD again") | {"prompt": f"Prompt  {n}"} for n in range(100)]
    path = tmp_path / "sampled.jsonl.gz"
    write_trajectories(path, answers(f"prompt {n}" for n in range(100)))
    card, splits, _ = dataset(rows, {"held_out_share": 0.3}, trajectories=path)
    trained, held_out = (
        {normalised(r["prompt"]) for r in splits[name]} for name in ("train", "held_out")
    )
    assert trained and held_out and not trained & held_out
    assert card["left_out"]["of prompts or groups that are held out"] > 5
    assert card["left_out"]["simulated, of held-out prompts"] == len(held_out)
    left_out = sum(card["left_out"].values())
    assert left_out + len(splits["train"]) + len(splits["held_out"]) == 300


def test_simulated_pairs_are_scrubbed_too(dataset, tmp_path):
    mine = tmp_path / "mine.py"
    mine.write_text("def hide(text): return text.replace('Jo', 'someone')")
    chats = [json.dumps([{"role": "user", "content": f"Jo {n}"}]) for n in range(20)]
    for name, prompts in (("texts", [f"Jo {n}" for n in range(20)]), ("chats", chats)):
        path = tmp_path / f"{name}.jsonl.gz"
        write_trajectories(path, answers(prompts))
        _, splits, _ = dataset([], {"scrub": "mine.py:hide"}, trajectories=path, scrub=mine)
        assert splits["train"]
        for found in splits["train"]:
            assert "someone" in found["prompt"] and "someone" in found["chosen"]
            assert "Jo" not in found["prompt"] + found["chosen"] + found["rejected"]


def test_simulated_pairs_are_never_held_out(dataset, tmp_path):
    write_trajectories(tmp_path / "sampled.jsonl.gz", answers(f"prompt {n}" for n in range(300)))
    rows = [row(n) for n in range(0, 300, 3)]
    card, splits, _ = dataset(rows, trajectories=tmp_path / "sampled.jsonl.gz")
    assert card["left_out"]["simulated, of held-out prompts"] > 10
    assert {r["source"] for r in splits["train"]} == {"dataset", "simulated"}
    assert all(r["simulated"] == (r["source"] == "simulated") for r in splits["train"])
    assert {r["source"] for r in splits["held_out"]} == {"dataset"}
    trained = {r["prompt"] for r in splits["train"]}
    assert not trained & {r["prompt"] for r in splits["held_out"]}


def test_simulated_pairs_alone_leave_judging_to_prompts_of_ones_own(dataset):
    _, splits, folder = dataset([row(n, simulated=True) for n in range(99)])
    assert len(splits["train"]) > 80 and splits["held_out"] == []
    assert (folder / "prompts.jsonl").read_text() == ""


def test_feedback_and_a_scrubbing_function_of_ones_own(dataset, tmp_path, write_lines):
    mine = tmp_path / "mine.py"
    mine.write_text("def hide(text): return text.replace('Jo', 'someone')")
    left = [
        {"kind": "correction", "prompt": f"Jo {n}", "completion": "x", "correction": f"Jo {n}!"}
        for n in range(50)
    ]
    feedback = write_lines("feedback.jsonl", left)
    card, splits, _ = dataset([], {"scrub": "mine.py:hide"}, feedback=feedback, scrub=mine)
    assert card["sources_read"] == {"correction": 50}
    assert all("Jo" not in r["prompt"] + r["chosen"] for r in splits["train"])
    with pytest.raises(InputError, match="--scrub"):
        dataset([], {"scrub": "mine.py:no_such"}, feedback=feedback, scrub=mine)


@pytest.mark.parametrize("body", ["raise ValueError('no')", "return text if 'a' in text else 7"])
def test_a_scrubbing_function_that_fails_is_no_broken_line(dataset, tmp_path, body):
    mine = tmp_path / "mine.py"
    mine.write_text(f"def hide(text): {body}")
    rows = [row(n) for n in range(300)] + [row(300, "good", "odd one")]
    with pytest.raises(InputError, match=r"--scrub mine\.py:hide r"):
        dataset(rows, {"scrub": "mine.py:hide"}, scrub=mine)


@pytest.mark.parametrize(
    ("rows", "config", "said"),
    [
        ([row(n) for n in range(9)], {"min_confidence": 0.95}, "no pair is left.*9 below"),
        ([row(1, "a", str(n)) for n in range(9)], {}, "one prompt or group"),
        ([row(n, confidence=0.5) for n in range(9)], {}, "no pair is left.*9 below"),
        ([row(n, "a", "b", confidence=0.5) for n in range(9)], {}, "no pair is left.*9 below"),
        (
            [{"kind": "thumb", "prompt": "p", "completion": f"{n}", "value": 1} for n in range(9)],
            {},
            r"no pair is left.*9 thumbs and stars(.|\n)*two answers to the same prompt",
        ),
    ],
)
def test_what_leaves_nothing_says_why(dataset, rows, config, said):
    with pytest.raises(InputError, match=said):
        dataset(rows, config)


WORDS = [f"w{n}" for n in range(60)]


def text_file(path: Path, rows: list[tuple[str, str, str]]) -> Path:
    columns = map(list, zip(*rows, strict=True))
    table = dict(zip(("prompt", "chosen", "rejected"), columns, strict=True))
    with pa.OSFile(str(path), "wb") as sink:
        batch = pa.record_batch(table)
        with pa.ipc.new_file(sink, batch.schema) as writer:
            writer.write_batch(batch)
            writer.write_batch(batch.slice(0, 1))
    return path


def test_near_duplicates_need_a_near_prompt_and_near_answers(tmp_path):
    long, other = " ".join(WORDS), " ".join(reversed(WORDS))
    near = long.replace("w59", "another")
    rows = [
        (long, long, other),
        (near, near, other),  # a repetition of the first
        (long, other, long),  # the other way round is no repetition
        (long, "yes", "no"),
        (other, "yes", "no"),
        (long, "yes", "perhaps"),
    ]
    path = text_file(tmp_path / "pairs.arrow", rows)
    found = [near_duplicates(path, np.arange(7), 0.9, workers) for workers in (1, 2)]
    assert found[0].tolist() == [False, True, False, False, False, False, True]
    assert (found[0] == found[1]).all()
    assert not near_duplicates(path, np.arange(7), 1, 1).any()


VOTES = st.lists(
    st.tuples(st.integers(0, 3), st.booleans(), st.sampled_from(["", "u", "v"]), st.booleans()),
    max_size=30,
)


@given(VOTES)
@settings(max_examples=200, deadline=None)
def test_settling_is_that_of_a_plain_loop(cast):
    pairs = [
        Pair(f"p{number}", *(("a", "b") if ahead else ("b", "a")), user=user,
             source="comparison" if strong else "thumb")
        for number, ahead, user, strong in cast
    ]  # fmt: skip
    votes = [vote_of(pair) for pair in pairs]
    settled = settle(
        np.array([v.pair for v in votes], np.uint64),
        np.array([v.forward for v in votes], bool),
        np.array([v.voter for v in votes], np.uint64),
        np.array([p.weight for p in pairs], float),
        np.array([p.votes for p in pairs], np.int64),
    )
    net: dict[str, float] = {}
    seen = set()
    for pair in pairs:
        voter = (pair.prompt, pair.chosen, pair.user, "" if pair.user else pair.source)
        if voter not in seen:
            seen.add(voter)
            sign = 1 if pair.chosen == "a" else -1
            net[pair.prompt] = net.get(pair.prompt, 0) + sign * pair.weight
    both = {p for p in net if len({q.chosen for q in pairs if q.prompt == p}) == 2}
    expected = {
        (prompt, "a" if total > 0 else "b")
        for prompt, total in net.items()
        if prompt not in both or abs(total) >= 0.1
    }
    found = {(pairs[row].prompt, pairs[row].chosen) for row in settled.rows}
    assert found == expected
    assert len(settled.rows) == len(found)
    assert settled.duplicates == len(pairs) - len(seen)
    assert len(settled.rows) + sum(settled.left_out.values()) == len(pairs)
    assert (settled.confidence >= 0.5).all()


@pytest.mark.skipif(not UKP.exists(), reason="needs ../shared/data")
def test_the_debates_of_ukpconvarg1_are_split_whole(run_job):
    _, outcome = run_job(build.program, BuildConfig, "dpo.build", {"workers": 1}, pairs=UKP)
    assert outcome.metrics["longer_wins"] == pytest.approx(0.77, abs=0.01)
    folder = outcome.artifacts["dataset"]
    groups = [
        set(pq.read_table(folder / f"{name}.parquet")["group"].to_pylist())
        for name in ("train", "held_out")
    ]
    assert groups[0] and groups[1] and not groups[0] & groups[1]
