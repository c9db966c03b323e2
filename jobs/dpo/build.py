"""Make a dataset of preferences from feedback, files and simulated answers.

    python -m jobs.dpo.build JOB_FOLDER

Inputs, each optional: `feedback`, `pairs` and `held_out` (files as jobs.dpo.files and
jobs.dpo.shapes know them; the last holds the user's own pairs to judge with), `trajectories`
(rewarded answers of the champion, to be paired as simulated ones), `scrub` (the user's function).
Artefact: `dataset`, a folder with train.parquet, held_out.parquet, prompts.jsonl (the held-out
prompts, with the columns that a reward needs), card.json and card.md.

A prompt stays on one side: what is held out of it by a group is not trained on without one.
Rows go to an Arrow file once, and by numbers of 8 bytes from there on: a million pairs need two
passes over that file and less than 4 GB.
"""

import json
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import load_dataset

from infra.errors import InputError
from jobs.dpo import card, opinions
from jobs.dpo.config import BuildConfig
from jobs.dpo.data import Feedback, Pair, Reading, normalised, require_one_kind, scrubbed
from jobs.dpo.duplicates import near_duplicates, number_of, settle, vote_of
from jobs.dpo.opinions import READ, USED
from jobs.policy.data import read_trajectories, stored_content
from jobs.policy.reward import load_function
from jobs.runtime import Job, Outcome, main, optional_input, stop_when_told

BATCH = 10_000
MOST_PROMPTS = 1000
"""Held-out prompts that are answered when a candidate is judged."""
SCHEMA = pa.schema(
    [
        ("prompt", pa.string()),
        ("chosen", pa.string()),
        ("rejected", pa.string()),
        ("source", pa.string()),
        ("simulated", pa.bool_()),
        ("is_chat", pa.bool_()),
        ("group", pa.string()),
        ("columns", pa.string()),
    ]
)
FULL = SCHEMA.append(pa.field("confidence", pa.float32())).append(pa.field("votes", pa.int32()))


class Numbers:
    """What is kept in memory of each pair that was read."""

    def __init__(self) -> None:
        self.pair, self.voter = array("Q"), array("Q")
        self.group, self.prompt = array("Q"), array("Q")
        self.forward, self.simulated, self.apart = array("b"), array("b"), array("b")
        self.weight, self.votes = array("d"), array("q")
        self.sources: Counter[str] = Counter()

    def add(self, pair: Pair, apart: bool) -> None:
        vote = vote_of(pair, apart)
        self.apart.append(apart)
        self.pair.append(vote.pair)
        self.voter.append(vote.voter)
        self.forward.append(vote.forward)
        prompt = normalised(pair.prompt)
        self.group.append(number_of(pair.group or prompt))
        self.prompt.append(number_of(prompt))
        self.simulated.append(pair.simulated)
        self.weight.append(pair.weight)
        self.votes.append(pair.votes)
        self.sources[pair.source] += 1

    def __len__(self) -> int:
        return len(self.pair)


def program(job: Job[BuildConfig]) -> Outcome:
    config = job.config
    raw, told = job.scratch / "pairs.arrow", Told()
    numbers, kinds = Numbers(), set[bool]()
    with pa.OSFile(str(raw), "wb") as sink, pa.ipc.new_file(sink, SCHEMA) as writer:
        for batch in _batches(_pairs(job, told)):
            for pair, apart in batch:
                numbers.add(pair, apart)
                kinds.add(pair.is_chat)
            columns = _columns([pair for pair, _ in batch])
            writer.write_batch(pa.record_batch(columns, schema=SCHEMA))
            job.progress(len(numbers), len(numbers), "read", pairs=float(len(numbers)))
            stop_when_told(job)
    require_one_kind(kinds, "the feedback")
    settled = settle(*(_array(getattr(numbers, name)) for name in _VOTE))
    sure = settled.confidence >= config.min_confidence
    rows, confidence, votes = settled.rows[sure], settled.confidence[sure], settled.votes[sure]
    repeated = near_duplicates(raw, rows, config.near_duplicate, config.workers)
    rows, confidence, votes = rows[~repeated], confidence[~repeated], votes[~repeated]
    simulated = _array(numbers.simulated)[rows] != 0
    groups, prompts = _array(numbers.group)[rows], _array(numbers.prompt)[rows]
    apart = _array(numbers.apart)[rows] != 0
    held_out = apart if apart.any() else _held_out(groups, config.held_out_share)
    dropped = held_out & simulated
    judged = held_out & ~simulated
    leaking = ~held_out & (np.isin(prompts, prompts[judged]) | np.isin(groups, groups[judged]))
    counts = {
        "read": len(numbers) + told.equal,
        **settled.left_out,
        "simulated answers that are equal": told.equal,
        "below the least confidence": int((~sure).sum()),
        "near duplicates": int(repeated.sum()),
        "simulated, of held-out prompts": int((dropped | leaking & simulated).sum()),
        "of prompts or groups that are held out": int((leaking & ~simulated).sum()),
    }
    split = {"train": ~held_out & ~leaking, "held_out": judged}
    _require_pairs(counts | told.left_out, split, config, simulated=bool(simulated.any()))
    folder = job.scratch / "dataset"
    folder.mkdir(exist_ok=True)
    statistics = card.Statistics()
    for name, chosen in split.items():
        tables = _tables(raw, rows[chosen], confidence[chosen], votes[chosen])
        with pq.ParquetWriter(folder / f"{name}.parquet", FULL, compression="zstd") as writer:
            for table in tables:
                writer.write_table(table)
                statistics.add(name, table)
    _write_prompts(folder)
    if told.equal:
        numbers.sources["simulated"] += told.equal
    made = statistics.card(counts, dict(numbers.sources), told.readings, told.votes)
    made["conflicts"] = settled.conflicts
    (folder / "card.json").write_text(json.dumps(made, indent=1))
    (folder / "card.md").write_text(card.markdown(made), "utf-8")
    metrics = {name: float(made["splits"][name]["pairs"]) for name in split}
    return Outcome(
        {**metrics, "confidence": made["mean_confidence"], "longer_wins": made["longer_wins"]},
        {"dataset": folder},
    )


_VOTE = ("pair", "forward", "voter", "weight", "votes")


class Told:
    """What is told of the inputs beside their pairs: how files were read, how votes were used, and
    how many simulated pairs had equal answers."""

    def __init__(self) -> None:
        self.readings: list[Reading] = []
        self.votes: Counter[str] = Counter()
        self.equal = 0

    @property
    def left_out(self) -> Counter[str]:
        """Rows and votes that make no pair, by reason."""
        found = Counter({n: c for n, c in self.votes.items() if n not in (READ, USED)})
        for reading in self.readings:
            found.update(reading.skipped)
            found["broken lines"] += reading.broken
        return found


def _pairs(job: Job[BuildConfig], told: Told) -> Iterator[tuple[Pair, bool]]:
    """Every pair of every input and whether the user holds it out; these come first, so that what
    nearly repeats them is not trained on. Feedback comes after the pairs of its file."""
    config, scrub = job.config, _scrub(job)
    for reading, apart in _readings(job):
        told.readings.append(reading)
        left: list[Feedback] = []
        for _, row in reading.rows(scrub):
            if isinstance(row, Pair):
                yield row, apart
            else:
                left.append(row)
        for pair in opinions.pairs(left, config, told.votes):
            yield pair, apart
    path = optional_input(job, "trajectories")
    if path is not None:
        for pair in opinions.simulated_pairs(read_trajectories(path), config):
            pair.prompt = scrubbed(stored_content(pair.prompt), scrub)
            pair.chosen, pair.rejected = scrub(pair.chosen), scrub(pair.rejected)
            if pair.chosen == pair.rejected:
                told.equal += 1
            else:
                yield pair, False


def _readings(job: Job[BuildConfig]) -> Iterator[tuple[Reading, bool]]:
    """What is read, and whether the user holds it out."""
    mapping, hub = job.config.map or {}, job.config.hub
    if path := optional_input(job, "held_out"):
        yield Reading(path, "--held-out", mapping), True
    if path := optional_input(job, "pairs"):
        yield Reading(path, "--dataset", mapping), False
    if hub is not None:
        yield Reading(Path(hub), "--dataset", mapping, rows_given=_hub_rows(hub)), False
    if path := optional_input(job, "feedback"):
        yield Reading(path, "the feedback"), False


def _hub_rows(spec: str) -> Iterator[tuple[int, Any]]:
    """The rows of a dataset of the hub. Raises InputError naming --dataset."""
    name, _, split = spec.partition(":")
    try:
        rows: Iterable[Any] = load_dataset(name, split=split or "train", streaming=True)
        yield from enumerate(rows, 1)
    except Exception as error:
        why = str(error).strip().partition("\n")[0] or type(error).__name__
        raise InputError(
            f"--dataset: {spec} is no file here, and cannot be read from the hub: {why}",
            "Give a file, or an id as ORG/NAME or ORG/NAME:SPLIT where a hub can be reached.",
        ) from error


def _scrub(job: Job[BuildConfig]) -> Callable[[str], str]:
    spec = job.config.scrub
    if spec == "none":
        return lambda text: text
    function = load_function(spec, optional_input(job, "scrub"), "--scrub")

    def checked(text: str) -> str:
        try:
            found: Any = function(text)
        except Exception as error:
            raise InputError(
                f"--scrub {spec} raised {type(error).__name__}: {error}",
                "Correct the function; it is called as f(text).",
            ) from error
        if not isinstance(found, str):
            raise InputError(
                f"--scrub {spec} returned {type(found).__name__}, not a text",
                "Return the text without personal data.",
            )
        return found

    checked("a text")
    return checked


def _batches(pairs: Iterator[tuple[Pair, bool]]) -> Iterator[list[tuple[Pair, bool]]]:
    batch: list[tuple[Pair, bool]] = []
    for pair in pairs:
        batch.append(pair)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def _columns(batch: list[Pair]) -> dict[str, list[Any]]:
    plain = {
        name: [getattr(pair, name) for pair in batch] for name in SCHEMA.names if name != "columns"
    }
    return {**plain, "columns": [json.dumps(p.columns, default=str) for p in batch]}


def _array(values: array) -> np.ndarray:
    found = np.frombuffer(values, dtype=values.typecode) if values else np.array([], "q")
    return found != 0 if values.typecode == "b" else found


def _held_out(groups: np.ndarray, share: float) -> np.ndarray:
    """[N] bool by a hash of the group alone, so that what is held out stays so as data grows; one
    group at least, where there are two."""
    if len(groups) == 0:
        return np.zeros(0, bool)
    held_out = groups < np.uint64(share * 2**64)
    return held_out if held_out.any() else groups == groups.min()


def _require_pairs(
    counts: dict[str, int], split: dict[str, np.ndarray], config: BuildConfig, *, simulated: bool
) -> None:
    """Raises InputError where one side is empty; with simulated pairs, prompts of the user's own
    can judge."""
    if split["train"].any() and (split["held_out"].any() or simulated):
        return
    why = ", ".join(
        f"{count:,} {what}" for what, count in counts.items() if count or what == "read"
    )
    if not split["train"].any() and not split["held_out"].any():
        raise InputError(
            f"no pair is left: {why}",
            f"Lower --min-confidence ({config.min_confidence:g}) or --rating-margin "
            f"({config.rating_margin:g}), or wait for more feedback: thumbs and stars need two "
            "answers to the same prompt.",
        )
    side = "train on" if split["held_out"].any() else "judge with"
    raise InputError(
        f"no pair is left to {side}: all real ones have one prompt or group ({why})",
        f"Give pairs of more prompts, or change --held-out-share ({config.held_out_share:g}); "
        "simulated pairs are never held out.",
    )


def _tables(
    raw: Path, rows: np.ndarray, confidence: np.ndarray, votes: np.ndarray
) -> Iterator[pa.Table]:
    """The rows of the Arrow file with their confidence, a batch of the file at a time."""
    with pa.memory_map(str(raw)) as source:
        batches, begin = pa.ipc.open_file(source), 0
        for number in range(batches.num_record_batches):
            batch = batches.get_batch(number)
            low, high = np.searchsorted(rows, [begin, begin + batch.num_rows])
            if high > low:
                table = pa.table(batch.take(pa.array(rows[low:high] - begin)))
                table = table.append_column(
                    "confidence", pa.array(confidence[low:high].astype(np.float32))
                )
                yield table.append_column("votes", pa.array(votes[low:high].astype(np.int32)))
            begin += batch.num_rows


def _write_prompts(folder: Path) -> None:
    """The held-out prompts, each once, as a prompts file."""
    seen: set[str] = set()
    with (folder / "prompts.jsonl").open("w") as stream:
        for batch in pq.ParquetFile(folder / "held_out.parquet").iter_batches():
            for row in batch.to_pylist():
                if row["prompt"] in seen or len(seen) == MOST_PROMPTS:
                    continue
                seen.add(row["prompt"])
                asked = json.loads(row["prompt"]) if row["is_chat"] else row["prompt"]
                line = {**json.loads(row["columns"]), "prompt": asked}
                if row["group"]:
                    line["group"] = row["group"]
                stream.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main(BuildConfig, program)
