"""Samples in PostgreSQL: only those of whole sessions are used."""

import pytest

from infra.records import benchmarks, runs
from infra.records.benchmarks import Sample


def samples(attempt, value, warm_up=False, rounds=3):
    return [
        Sample(
            figure="pairs",
            unit="pairs/s",
            side=side,
            attempt=attempt,
            round=number,
            position=position,
            warm_up=warm_up,
            value=value + number,
            raw=[value, value + 2 * number],
            load=1.5,
            time=1.8e9,
        )
        for number in range(rounds)
        for position, side in enumerate(("now", "beside"))
    ]


@pytest.fixture
def session(database):
    def begin(name, revision="abc"):
        run = runs.begin(database, "benchmarks", {"name": name})
        benchmarks.begin(database, f"{run.id}/x", run.id, "x", revision, None)
        return f"{run.id}/x"

    return begin


def test_only_whole_figures_of_whole_sessions_are_used(database, session):
    whole, killed = session("whole"), session("killed", "def")
    taken = [(one, False) for one in samples(1, 10)]  # killed in its middle
    taken += [(one, True) for one in samples(2, 20, warm_up=True) + samples(2, 30)]
    benchmarks.complete(database, whole, "key", {"cpu": "x"}, taken)
    found = benchmarks.measured(database, "x")
    assert [(one.session, one.side, one.values) for one in found] == [
        (whole, "beside", [30, 31, 32]),
        (whole, "now", [30, 31, 32]),
    ]
    assert benchmarks.raw(database, whole, "pairs") == [30, 30, 30, 32, 30, 34]
    assert benchmarks.last_revision(database, ["x"]) == "abc"
    with database.connection() as connection:
        stored = connection.execute("SELECT count(*) AS n FROM benchmark_samples").fetchone()
        row = connection.execute(
            "SELECT completed_at FROM benchmark_sessions WHERE id = %s", [killed]
        ).fetchone()
    assert stored["n"] == len(taken), "what was killed is there"
    assert row["completed_at"] is None


def test_a_session_is_completed_once_and_whole_or_not_at_all(database, session):
    whole = session("whole")
    taken = [(one, True) for one in samples(1, 10)]
    with pytest.raises(Exception, match="benchmark_samples_pkey"):
        benchmarks.complete(database, whole, "key", {}, taken + taken)
    assert benchmarks.measured(database, "x") == []
    for _ in range(2):
        benchmarks.complete(database, whole, "key", {}, taken)
    assert len(benchmarks.measured(database, "x")) == 2
    assert benchmarks.last_revision(database, ["y"]) is None


def test_the_last_whole_run_of_a_suite_is_no_killed_one(database, session):
    older, newer, killed = session("a", "r1"), session("b", "r2"), session("c", "r3")
    for one in (older, newer):
        benchmarks.complete(database, one, "key", {}, [(each, True) for each in samples(1, 10)])
    assert killed not in [one.session for one in benchmarks.measured(database, "x")]
    assert benchmarks.last_runs(database, ["x", "y"]) == {"x": (newer.removesuffix("/x"), "r2")}
    assert benchmarks.last_revision(database, ["x"]) == "r2"
