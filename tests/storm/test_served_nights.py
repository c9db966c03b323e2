"""The loop closes: a champion is served, the night trains on its answers, and what it makes takes
over the endpoint by a rollout, or does not.

Real nights, a real endpoint: minutes, and so no part of `make test`.
"""

import gzip
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.helpers.quantising import REWARD
from tests.helpers.serving import Endpoint, register, stored
from tests.helpers.users import CYCLE, User

SERVED = 40
NIGHT = [
    *CYCLE,
    *("--name", "tiny", "--model", "models/base", "--trajectories", str(SERVED)),
    *("--reward", "lively.py:lively"),  # the gate tells nothing of a model that never says a vowel
    *("--since-hours", "24", "--iterations", "3", "--learning-rate", "0.003"),
    *("--minimum-gain", "-1", "--min-distinct-ratio", "0", "--max-cost", "5"),
]
STAGES = "--stage-minutes 0.1 --stage-requests 12 --wait-minutes 4".split()
pytestmark = pytest.mark.timeout(3600)


def night(user: User, *more: str) -> dict[str, Any]:
    """The report of a night."""
    process = user.start(*NIGHT, *more, "--json")
    out, err = process.communicate(timeout=1500)
    assert process.returncode == 0, out + err
    return json.loads(out)


@contextmanager
def users(endpoint: Endpoint, opinion: Callable[[str], str | None]) -> Iterator[list[str]]:
    """Somebody asks some times a second meanwhile, and gives the thumb that `opinion` has of the
    answer's interaction; what was answered. No request may fail."""
    answers: list[str] = []
    failed: list[Exception] = []
    over = threading.Event()

    def ask() -> None:
        while not over.wait(0.05):
            try:
                answers.append(answer := endpoint.ask())
                if thumb := opinion(answer):
                    endpoint.post("feedback", id=answer, thumb=thumb)
            except httpx.HTTPError as error:
                failed.append(error)

    clients = [threading.Thread(target=ask) for _ in range(2)]
    for one in clients:
        one.start()
    try:
        yield answers
    finally:
        over.set()
        for one in clients:
            one.join()
    assert not failed


def version_of(user: User, answer: str) -> str:
    """Which version gave an answer; it is in the table within seconds."""
    for _ in range(100):
        rows = stored(user, f"interactions WHERE key = '{answer}/0'")
        if rows:
            return rows[0]["model_version"]
        time.sleep(0.1)
    raise AssertionError(answer)


def versions(user: User) -> dict[str, Any]:
    return {one["version"]: one for one in user.json("models", "list", "tiny")}


def test_what_was_served_trains_what_takes_over(user: User, train_python: Path) -> None:
    register(user, train_python)
    (user.folder / "lively.py").write_text(REWARD)
    endpoint = Endpoint(user)
    try:
        endpoint.wait_for(endpoint.has_said("version 3 answers"))
        close_the_loop(user, endpoint)
    finally:
        assert endpoint.end() == 0, endpoint.said
    assert [one["state"] for one in stored(user, "rollouts")] == ["finished", "rolled back"]
    user.wait_until_nothing_runs("jobs.")


def close_the_loop(user: User, endpoint: Endpoint) -> None:
    """A night whose candidate takes over from version 3, and one whose candidate users dislike."""
    for number in range(SERVED):
        endpoint.post("feedback", id=endpoint.ask(), stars=1 + number % 5)
    endpoint.wait_for(lambda: len(stored(user, "feedback")) == SERVED, 60)
    user.settings["NIGHTSHIFT_SERVED_MODELS"] = "tiny"

    with users(endpoint, lambda _: None) as answers:
        first = night(user, *STAGES)
    assert first["verdict"]["promote"], first["verdict"]
    assert first["not_promoted"] is None and first["served_from"], first
    assert_trained_on_what_was_served(user, first)
    assert "champion" in versions(user)["5"]["aliases"]
    assert version_of(user, endpoint.ask()) == "5"
    assert {version_of(user, one) for one in answers} == {"3", "5"}

    def dislike(answer: str) -> str | None:
        if not [one for one in stored(user, "rollouts") if one["ended_at"] is None]:
            return None
        return "down" if version_of(user, answer) == "6" else "up"

    with users(endpoint, dislike):
        second = night(user, *STAGES, "--seed", "7")
    assert second["verdict"]["promote"], second["verdict"]
    assert second["served_from"] is None
    assert "the rollout of version 6: version 6 is worse by its feedback" in second["not_promoted"]
    told = Path(second["files"]["markdown"]).read_text()
    assert "Version 5 stays champion" in told and "worse by its feedback" in told
    assert user.json("runs", "show", second["run"])["report"]["not_promoted"]
    assert "champion" in versions(user)["5"]["aliases"]
    endpoint.wait_for(lambda: version_of(user, endpoint.ask()) == "5", 60)


def assert_trained_on_what_was_served(user: User, report: dict[str, Any]) -> None:
    """The behaviour policy's log-probabilities as they were stored; and since version 3 gave the
    answers and is where the training began, all importance ratios were 1 then."""
    assert report["collected"]["stored trajectories trained on"] == SERVED, report
    kept = {
        tuple(row["completion_token_ids"]): row
        for row in stored(user, "interactions")
        if row["source"] == "served" and row["model_version"] == "3"
    }
    with gzip.open(user.home / "runs" / report["run"] / "trajectories.jsonl.gz", "rt") as stream:
        rows = [json.loads(line) for line in stream]
    assert len(rows) == SERVED
    for row in rows:
        assert row["logprobs"] == kept[tuple(row["completion_token_ids"])]["logprobs"]
    assert versions(user)["5"]["metrics"]["stored_kl"] < 1e-4
