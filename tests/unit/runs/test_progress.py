"""A job's progress is told in one line: how far, what it does, its figures."""

import logging
import time
from uuid import uuid4

import pytest

from infra.contract import Progress
from tasks.runs import progress
from tasks.runs.progress import Watch
from tests.helpers.clocks import set_clock


@pytest.mark.parametrize(
    ("step", "message", "metrics", "line"),
    [
        (0, "compiling", {}, "work 0 of 9 · compiling"),
        (9, "", {}, "work 9 of 9"),
        (
            9,
            "fold 1",
            {"loss": 0.5, "mean_error": 2.0},
            "work 9 of 9 · fold 1 · loss 0.5 · mean error 2",
        ),
    ],
)
def test_a_line_says_what_is_done(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    step: int,
    message: str,
    metrics: dict[str, float],
    line: str,
) -> None:
    told = []
    monkeypatch.setattr(progress, "create_progress_artifact", lambda **_: uuid4())
    monkeypatch.setattr(progress, "update_progress_artifact", lambda _, **new: told.append(new))
    watch = Watch("work", "train", 2)
    with caplog.at_level(logging.INFO, "nightshift"):
        watch(Progress(step=step, total=9, message=message, metrics=metrics, time=0))
        watch(Progress(step=9, total=9, message=message, metrics=metrics, time=0))
    assert caplog.messages[0] == line
    assert f"work 9 of 9 · {told[0]['description']}".removesuffix(" · ") == caplog.messages[1]


def told(caplog: pytest.LogCaptureFixture, words: str) -> bool:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if any(words in line for line in caplog.messages):
            return True
        time.sleep(0.01)
    return False


def test_a_step_says_that_it_begins_and_is_never_silent(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(progress, "create_progress_artifact", lambda **_: uuid4())
    monkeypatch.setattr(progress, "update_progress_artifact", lambda *_, **__: None)
    monkeypatch.setattr(progress, "SILENCE_SECONDS", 0.01)
    with caplog.at_level(logging.INFO, "nightshift"):
        with Watch("train", "train", 12, usual=240.0) as watch:
            begins, *_ = caplog.messages
            assert begins == (
                "train begins: waits for its job in the environment train, 12 h at most, "
                "usually 4 min"
            )
            assert told(caplog, "no progress yet · waits for its machine, the environment train")
            assert told(caplog, "about 4 min left")
            watch(Progress(step=0, total=2, message="", metrics={}, time=0))
            watch(Progress(step=1, total=2, message="rollouts", metrics={}, time=0))
            assert told(caplog, "1 of 2 done · waits for rollouts · about")
        assert caplog.messages[-1].startswith("train has ended after")
        silent = len(caplog.messages)
    assert len(caplog.messages) == silent


def test_the_time_left_is_told_by_the_steps_that_were_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [100.0]
    set_clock(monkeypatch, progress, monotonic=lambda: now[0])
    monkeypatch.setattr(progress, "create_progress_artifact", lambda **_: uuid4())
    monkeypatch.setattr(progress, "update_progress_artifact", lambda *_, **__: None)
    watch = Watch("train", "train", 12)
    for step in (4, 5):  # it goes on from its checkpoint
        watch(Progress(step=step, total=15, message="", metrics={}, time=0))
        now[0] += 60
    assert watch._left() == "about 20 min left"
