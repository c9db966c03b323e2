"""A live endpoint whose processes are killed in turn: what was answered is stored, all of it, once.

And what takes too long for `make test`: a base alone after an adapter, and a rollout whose process
is killed again and again.
"""

import random
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import httpx
import psutil

from infra.settings import REPOSITORY
from tests.helpers.serving import Endpoint, command, register, stored, under_load
from tests.helpers.users import User

KEYS = """
from infra import database
with database.pool().connection() as connection:
    for row in connection.execute("SELECT key FROM interactions"):
        print(row["key"])
"""
ROLLOUT = (
    "run serving-rollout --model tiny@3 --prompts prompts.jsonl --stage-minutes 0.2"
    " --stage-requests 12 --wait-minutes 0.1"
).split()
VICTIMS = ("ray::ServeReplica", "jobs.serving.serve", "bin/postgres -D")


def stored_of(user: User) -> list[str]:
    """Keys of what is stored, by a process that starts the user's PostgreSQL where none runs."""
    environment = user.environment() | {"PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-c", KEYS]
    return subprocess.run(
        command, check=True, env=environment, capture_output=True, text=True
    ).stdout.split()


def test_nothing_that_was_answered_is_lost(alone: User, train_python: Path, kills: int) -> None:
    register(alone, train_python)
    endpoint = Endpoint(alone)
    answers: list[str] = []

    def answers_again() -> bool:
        try:
            answers.append(endpoint.ask())
        except httpx.HTTPError:
            return False
        return True

    try:
        endpoint.wait_for(answers_again)
        for number in range(kills):
            victim = VICTIMS[number % len(VICTIMS)]

            def running(victim: str = victim) -> list[psutil.Process]:
                there = endpoint.below() + alone.processes("postgres")
                return [one for one in there if victim in command(one)]

            def kill() -> None:
                endpoint.wait_for(running)  # it may be starting after the kill before
                for process in running():
                    with suppress(psutil.NoSuchProcess):  # it has died with another
                        process.kill()
                endpoint.wait_for(answers_again)

            answers += under_load(endpoint, kill)[0]
    finally:
        assert endpoint.end() == 0, endpoint.said
    assert set(stored_of(alone)) >= {f"{answer}/0" for answer in answers}
    alone.wait_until_nothing_runs()


def test_the_change_to_a_base_alone_drops_no_request(user: User, train_python: Path) -> None:
    register(user, train_python)
    endpoint = Endpoint(user)
    try:
        endpoint.wait_for(endpoint.has_said("version 3 answers"))

        def promote() -> None:
            assert user.run("models", "promote", "tiny", "1")[0] == 0
            endpoint.wait_for(endpoint.has_said("version 1 answers"))

        answers, failed = under_load(endpoint, promote)
    finally:
        assert endpoint.end() == 0, endpoint.said
    assert not failed
    rows = stored(user, "interactions")
    assert {row["key"] for row in rows} == {f"{answer}/0" for answer in answers}
    assert {row["model_version"] for row in rows} == {"1", "3"}


def test_a_rollout_is_finished_however_often_it_is_killed(
    user: User, train_python: Path, kills: int
) -> None:
    register(user, train_python)
    (user.folder / "prompts.jsonl").write_text('{"prompt": "ab"}\n{"prompt": "cd"}\n')
    assert user.run("models", "promote", "tiny", "1")[0] == 0
    endpoint = Endpoint(user)
    try:
        endpoint.wait_for(endpoint.has_said("version 1 answers"))

        def roll_out() -> None:
            for _ in range(kills):
                process = user.start(*ROLLOUT)
                time.sleep(random.uniform(5, 60))
                process.kill()
                process.communicate()
                if [row["state"] for row in stored(user, "rollouts")][-1:] == ["finished"]:
                    return
            assert user.json(*ROLLOUT)["state"] == "finished"

        answers, failed = under_load(endpoint, roll_out)
        endpoint.wait_for(endpoint.has_said("version 3 answers"))
        assert user.run("models", "rollback", "tiny")[0] == 0
        endpoint.wait_for(lambda: endpoint.said[-1].startswith("tiny version 1 answers"))
        answers.append(endpoint.ask())
    finally:
        assert endpoint.end() == 0, endpoint.said
    assert not failed
    assert {row["state"] for row in stored(user, "rollouts")} == {"finished"}
    rows = {row["key"]: row for row in stored(user, "interactions")}
    assert rows.keys() >= {f"{answer}/0" for answer in answers}
    assert {rows[f"{answer}/0"]["model_version"] for answer in answers} == {"1", "3"}
