"""Runs, trajectories, verdicts and model versions against the real PostgreSQL and MLflow."""

import gzip
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from infra import database as db
from infra.errors import GateError, InputError
from infra.models import registry, verdicts
from infra.models.registry import ModelVersion
from infra.models.verdicts import Verdict
from infra.records import experience, runs

LONG_AGO = datetime.now(UTC) - timedelta(days=1)


def rows(count: int) -> list[dict]:
    return [
        {
            "prompt": f"prompt {number}",
            "completion": f"answer {number}",
            "prompt_token_ids": [1, 2],
            "completion_token_ids": [3, number],
            "logprobs": [-0.5, -1.25],
            "reward": number / 10,
            "columns": {"target": str(number)},
        }
        for number in range(count)
    ]


def test_a_begun_run_is_taken_up_again_and_an_ended_one_is_not(database: db.Pool) -> None:
    first = runs.begin(database, "nightly-ppo", {"seed": 1})
    assert runs.pin(database, first, "champion", {"version": "1"}) == {"version": "1"}
    assert runs.pin(database, first, "champion", {"version": "2"}) == {"version": "1"}
    assert not first.resumed
    again = runs.begin(database, "nightly-ppo", {"seed": 1})
    assert (again.id, again.resumed) == (first.id, True)
    assert runs.begin(database, "nightly-ppo", {"seed": 2}).id != first.id
    runs.end(database, first, "finished", {"gain": 0.1})
    runs.end(database, first, "failed")
    assert runs.begin(database, "nightly-ppo", {"seed": 1}).id != first.id


def test_sampled_rows_are_stored_once_and_trained_on_by_one_run(
    database: db.Pool, tmp_path: Path
) -> None:
    night = runs.begin(database, "nightly-ppo", {"night": 1})
    assert experience.add_sampled(database, night, "design", "1", rows(5), "f") == 5
    assert experience.add_sampled(database, night, "design", "1", rows(5), "f") == 0
    assert experience.choose(database, night, "design", ["1"], LONG_AGO, "f", 3) == 3
    assert experience.choose(database, night, "design", ["1"], LONG_AGO, "f", 5) == 3, "chosen once"
    path = tmp_path / "trajectories.jsonl.gz"
    assert experience.export(database, night, path) == 3
    first = path.read_bytes()
    experience.export(database, night, path)
    assert path.read_bytes() == first
    with gzip.open(path, "rt") as stream:
        stored = [json.loads(line) for line in stream]
    assert [row["completion"] for row in stored] == ["answer 2", "answer 3", "answer 4"]
    assert stored[0]["logprobs"] == [-0.5, -1.25]
    assert stored[0]["columns"] == {"target": "2"}
    tomorrow = runs.begin(database, "nightly-ppo", {"night": 2})
    assert experience.choose(database, tomorrow, "design", ["1"], LONG_AGO, "f", 9) == 2


def test_what_another_function_rewarded_is_not_trained_on(database: db.Pool) -> None:
    night = runs.begin(database, "nightly-ppo", {"night": 1})
    experience.add_sampled(database, night, "design", "1", rows(5), "rewards.py:f 1234")
    with database.connection() as connection:
        connection.execute("UPDATE interactions SET source = 'served' WHERE reward = 0.1")
        connection.execute("UPDATE interactions SET reward = NULL WHERE reward = 0.2")
        connection.execute(
            "INSERT INTO feedback (interaction_id, kind, value)"
            " SELECT id, 'thumb', 1 FROM interactions WHERE reward IS NULL"
        )
    given = (database, night, "design", ["1"], LONG_AGO)
    assert experience.count_usable(*given, "rewards.py:f 1234") == 5
    assert experience.count_usable(*given, "rewards.py:f 5678") == 2, "served, and a user's vote"
    assert experience.choose(*given, "rewards.py:g 1234", 9) == 2


def test_texts_with_nul_are_stored(database: db.Pool) -> None:
    night = runs.begin(database, "nightly-ppo", {"night": 1})
    odd = rows(1)[0] | {"prompt": "a\0b", "completion": "\0", "columns": {"target": "\0"}}
    assert experience.add_sampled(database, night, "design", "1", [odd], "f") == 1
    experience.choose(database, night, "design", ["1"], LONG_AGO, "f", 1)
    (stored,) = experience.trajectories(database, night)
    assert (stored["prompt"], stored["completion_token_ids"]) == ("a\ufffdb", [3, 0])


def test_other_models_versions_and_rows_without_reward_are_not_chosen(database: db.Pool) -> None:
    night = runs.begin(database, "nightly-ppo", {"night": 1})
    unrewarded = [row | {"reward": None} for row in rows(2)]
    experience.add_sampled(database, night, "design", "1", unrewarded, "f")
    assert experience.choose(database, night, "design", ["1"], LONG_AGO, "f", 9) == 0
    assert experience.choose(database, night, "other", ["1"], LONG_AGO, "f", 9) == 0
    assert experience.choose(database, night, "design", ["2"], LONG_AGO, "f", 9) == 0


def version(sha256: str) -> ModelVersion:
    return ModelVersion(
        kind="policy",
        model="design",
        version="",
        uri=f"file:///models/{sha256}",
        sha256=sha256,
        base="file:///models/base",
        metrics={"reward": 0.5},
    )


def test_champion_moves_only_with_a_verdict(database: db.Pool) -> None:
    registry._client.cache_clear()
    night = runs.begin(database, "nightly-ppo", {"night": 1})
    first = registry.register(night.id, version("a"))
    assert registry.register(night.id, version("a")) == first, "once for a run"
    with pytest.raises(GateError):
        registry.promote("design", first.version)
    yes = Verdict(promote=True, gain=0.1, confidence_interval=(0.05, 0.15), checks=[])
    no = Verdict(promote=False, gain=0.0, confidence_interval=(-0.1, 0.1), checks=[])
    verdicts.save(database, night, "design", first.version, "0", yes)
    registry.promote("design", first.version)

    tomorrow = runs.begin(database, "nightly-ppo", {"night": 2})
    second = registry.register(tomorrow.id, version("b"))
    verdicts.save(database, tomorrow, "design", second.version, first.version, no)
    verdicts.save(database, tomorrow, "design", second.version, first.version, yes)
    with pytest.raises(GateError):
        registry.promote("design", second.version)
    third_night = runs.begin(database, "nightly-ppo", {"night": 3})
    third = registry.register(third_night.id, version("c"))
    verdicts.save(database, third_night, "design", third.version, first.version, yes)
    for _ in range(2):  # as after a crash
        registry.promote("design", third.version)
    assert aliases() == {"1": ["previous"], "2": [], "3": ["champion"]}
    assert registry.rollback("design").version == "1"
    assert aliases() == {"1": ["champion"], "2": [], "3": ["previous"]}


def aliases() -> dict[str, list[str]]:
    return {v.version: v.aliases for v in registry.versions("design")}


def test_unknown_models_are_clear(database: db.Pool) -> None:
    registry._client.cache_clear()
    assert registry.versions("nobody") == []
    assert registry.by_alias("nobody", "champion") is None
    with pytest.raises(InputError, match="no previous champion"):
        registry.rollback("nobody")
    with pytest.raises(InputError, match="no model name"):
        registry.versions("a'b")
