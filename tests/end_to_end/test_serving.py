"""A champion goes live, changes under load without a dropped request, and its answers are stored; a
challenger takes over step by step, and a broken one does not.

One endpoint lives through all of it; the official client is in tests/jobs/serve.
"""

import socket
from pathlib import Path

import httpx
import pytest

from tests.helpers.serving import Endpoint, register, stored, under_load
from tests.helpers.users import User, wait_for

ROLLOUT = "run serving-rollout --stage-minutes 0.05 --stage-requests 6 --wait-minutes 0.05".split()
pytestmark = pytest.mark.timeout(1200)


@pytest.mark.long
def test_a_champion_answers_changes_and_is_recorded(user: User, train_python: Path) -> None:
    register(user, train_python)
    endpoint = Endpoint(user)
    try:
        endpoint.wait_for(endpoint.has_said("version 3 answers"))
        code, _, error = user.run("serve", "policy", "--name", "tiny", "--port", str(endpoint.port))
        assert code == 4 and f"port {endpoint.port}" in error and "--port" in error

        def roll_back() -> None:
            assert user.run("models", "rollback", "tiny")[0] == 0
            endpoint.wait_for(endpoint.has_said("version 2 answers"))

        answers, failed = under_load(endpoint, roll_back)
        assert not failed and answers
        answers.append(liked := endpoint.ask())
        endpoint.post("feedback", id=liked, thumb="up")
        endpoint.wait_for(lambda: stored(user, "feedback"), 60)

        def roll_out() -> None:
            report = user.json(*ROLLOUT, "--model", "tiny@3", "--prompts", "prompts.jsonl")
            assert report["state"] == "finished" and report["champion"] == "2", report
            assert all(pairs >= 6 for pairs in report["stages"].values()), report

        (user.folder / "prompts.jsonl").write_text('{"prompt": "ab"}\n{"prompt": "cd"}\n')
        more, failed = under_load(endpoint, roll_out)
        assert not failed
        answers += more
        endpoint.wait_for(endpoint.has_said("version 3 gets 25% of all"))
        code, _, error = user.run(*ROLLOUT, "--model", "tiny@challenger")
        assert code == 8 and "version 4 cannot be served" in error

        code, key, _ = user.run("keys", "create", "acme")
        assert code == 0
        endpoint.wait_for(lambda: is_refused(endpoint, answers), 60)
        answers.append(endpoint.ask(key.strip()))
    finally:
        code = endpoint.end()
    assert code == 0, endpoint.said
    kept = {row["key"]: row for row in stored(user, "interactions")}
    rows = {key: row for key, row in kept.items() if row["tenant"][0] != "@"}
    assert rows.keys() == {f"{answer}/0" for answer in answers}
    ours = {
        (row["tenant"], row["model_version"]) for row in kept.values() if row not in rows.values()
    }
    assert ("@canary", "3") in ours, "the first prompts, to the challenger alone"
    assert ours <= {("@canary", "3"), ("@champion", "2")}, "both, where too few people ask"
    assert {row["model_version"] for row in rows.values()} == {"2", "3"}
    assert rows[f"{answers[-1]}/0"]["tenant"] == "acme"
    (left,) = stored(user, "feedback")
    assert left["interaction_id"] == rows[f"{liked}/0"]["id"] and left["value"] == 1
    assert not list((user.home / "live" / "tiny" / "spool").iterdir())


def is_refused(endpoint: Endpoint, answers: list[str]) -> bool:
    """Whether a request without a key is; if not, its answer is one more."""
    try:
        answers.append(endpoint.ask())
    except httpx.HTTPStatusError as error:
        return error.response.status_code == 401
    return False


def test_without_a_champion_nothing_is_served(user: User) -> None:
    code, _, error = user.run("serve", "policy", "--name", "nobody")
    assert code == 2 and "no champion" in error


@pytest.mark.long
def test_up_serves_the_models_of_the_setting(user: User, train_python: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    user.settings |= {"NIGHTSHIFT_SERVED_MODELS": "tiny", "NIGHTSHIFT_SERVING_PORT": str(port)}
    told = user.json("up", "--detach")
    try:
        assert told["models"] == {"tiny": f"http://127.0.0.1:{port}/v1"}
        log = user.home / "endpoints" / "tiny" / "log.txt"
        wait_for(lambda: "has no champion" in log.read_text(), 600, 1)
        register(user, train_python)
        wait_for(lambda: f"{port}/v1, version 3" in str(user.run("status")), 600, 1)
        asked = {"model": "tiny", "prompt": "ab", "max_tokens": 4}
        answer = httpx.post(f"{told['models']['tiny']}/completions", json=asked, timeout=60)
        assert answer.status_code == 200, answer.text
        code, _, error = user.run("serve", "policy", "--name", "tiny", "--port", "1")
        assert code == 4 and "served by another process" in error
    finally:
        user.json("down")
    user.wait_until_nothing_runs()
