"""What serving recorded comes into PostgreSQL once, in its order, whatever happened before."""

import fcntl
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from infra.database import Pool
from infra.errors import InputError
from infra.records import experience
from infra.records.runs import Run
from infra.serving import keys
from infra.serving.spool import deliver
from infra.settings import settings

NOW = datetime.now(UTC)


def answer(key: str, **other: Any) -> dict[str, Any]:
    return {
        "kind": "answer",
        "key": key,
        "model": "mine",
        "model_version": "3",
        "model_sha256": "abc",
        "tenant": "acme",
        "prompt": "a",
        "completion": "b",
        "prompt_token_ids": [1],
        "completion_token_ids": [2, 3],
        "logprobs": [-0.5, -1.5],
        "sampling": {"temperature": 1.0, "top_p": 1.0},
        "finish_reason": "stop",
        "latency_ms": 12.5,
        "created_at": NOW.isoformat(),
    } | other


def thumb(key: str, **other: Any) -> dict[str, Any]:
    return {
        "kind": "feedback",
        "key": f"{key}/thumb",
        "interaction": key,
        "feedback": "thumb",
        "value": 1,
        "correction": None,
        "author": "acme",
        "created_at": datetime.now(UTC).isoformat(),  # how long it waits is counted from here
    } | other


def write(folder: Path, name: str, *rows: dict[str, Any], torn: str = "") -> Path:
    path = folder / f"{name}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + torn)
    return path


def stored(pool: Pool, table: str) -> list[dict[str, Any]]:
    with pool.connection() as connection:
        return connection.execute(f"SELECT * FROM {table} ORDER BY id").fetchall()  # noqa: S608


def test_rows_are_stored_once_and_their_segment_goes(database: Pool, tmp_path: Path) -> None:
    rows = [thumb("1/0"), answer("1/0"), answer("2/0", prompt="nul \0, half \ud800")]
    write(tmp_path, "1", *rows)
    assert deliver(database, tmp_path) == 3
    assert not list(tmp_path.iterdir())
    write(tmp_path, "2", *rows)  # as after a kill between commit and removal
    deliver(database, tmp_path)
    first, second = stored(database, "interactions")
    assert first["tenant"] == "acme" and first["latency_ms"] == 12.5
    assert first["sampling"] == {"temperature": 1.0, "top_p": 1.0}
    assert first["created_at"] == NOW and first["source"] == "served"
    assert second["prompt"] == "nul \ufffd, half ?"
    (left,) = stored(database, "feedback")
    assert (left["interaction_id"], left["value"], left["author"]) == (first["id"], 1, "acme")


def test_what_is_being_written_waits_and_a_torn_line_is_none(
    database: Pool, tmp_path: Path
) -> None:
    path = write(tmp_path, "1", answer("1/0"), torn='{"kind": "ans')
    with path.open() as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        assert deliver(database, tmp_path) == 0
    assert deliver(database, tmp_path) == 1
    assert len(stored(database, "interactions")) == 1


def test_feedback_waits_for_its_answer_for_a_while(database: Pool, tmp_path: Path) -> None:
    old = (NOW - timedelta(hours=1)).isoformat()
    write(tmp_path, "1", thumb("1/0"), thumb("2/0", created_at=old))
    deliver(database, tmp_path)
    refused = json.loads((tmp_path / "refused.txt").read_text())
    assert refused["why"] == "its answer never came" and refused["row"]["interaction"] == "2/0"
    write(tmp_path, "3", answer("1/0"))
    deliver(database, tmp_path)
    deliver(database, tmp_path)
    assert len(stored(database, "feedback")) == 1


def test_one_row_that_cannot_be_stored_keeps_no_other(database: Pool, tmp_path: Path) -> None:
    write(tmp_path, "1", answer("1/0", logprobs=[-1.0]), answer("2/0"), {"kind": "unknown"})
    deliver(database, tmp_path)
    assert [row["key"] for row in stored(database, "interactions")] == ["2/0"]
    kept = [json.loads(line) for line in (tmp_path / "refused.txt").read_text().splitlines()]
    assert len(kept) == 2 and "CheckViolation" in kept[0]["why"]


def test_a_night_takes_what_was_sampled_and_not_what_was_greedy(
    database: Pool, tmp_path: Path
) -> None:
    greedy = answer("2/0", sampling={"temperature": 0.0})
    write(tmp_path, "1", answer("1/0"), greedy, answer("3/0"), thumb("1/0"), thumb("2/0"))
    deliver(database, tmp_path)
    with database.connection() as connection:
        connection.execute(
            "INSERT INTO runs (id, flow, parameters, fingerprint) VALUES ('r', 'f', '{}', 'x')"
        )
    run = Run(id="r", flow="f", resumed=False)
    since = NOW - timedelta(hours=24)
    assert experience.choose(database, run, "mine", ["3"], since, "any", 10) == 1
    (row,) = experience.trajectories(database, run)
    assert row["reward"] == 1 and row["logprobs"] == [-0.5, -1.5]


def test_a_key_opens_until_it_is_revoked_and_is_not_kept(
    database: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    nobody = {"keys": {}, "limits": {}}
    assert keys.valid(database) == nobody | {"keys_required": False}
    with monkeypatch.context() as patch:
        patch.setattr(settings(), "serving_keys_required", True)
        assert keys.valid(database) == nobody | {"keys_required": True}
    key = keys.create(database, "acme")
    assert not keys.valid(database)["limits"]
    ((digest, tenant),) = keys.valid(database)["keys"].items()
    assert tenant == "acme" and key not in str(keys.all_keys(database)) and len(digest) == 64
    keys.revoke(database, keys.all_keys(database)[0]["number"])
    assert keys.valid(database) == nobody | {"keys_required": True}
    keys.create(database, "acme", tokens_per_minute=20_000)
    (limit,) = keys.valid(database)["limits"].values()
    assert limit == {"requests_per_minute": None, "tokens_per_minute": 20_000}
    with pytest.raises(InputError, match="no key 99"):
        keys.revoke(database, 99)
    with pytest.raises(InputError, match="TENANT"):
        keys.create(database, "Acme Inc")


def test_while_the_database_is_away_everything_stays(database: Pool, tmp_path: Path) -> None:
    path = write(tmp_path, "1", answer("1/0"))
    database.close()
    with pytest.raises(psycopg.OperationalError):
        deliver(database, tmp_path)
    assert path.exists()
