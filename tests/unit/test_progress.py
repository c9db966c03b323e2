"""A job's progress is told in one line: how far, what it does, its figures."""

import logging
from uuid import uuid4

import pytest

from jobs.contract import Progress
from tasks import progress
from tasks.progress import Watch


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
    watch = Watch("work")
    with caplog.at_level(logging.INFO, "nightshift"):
        watch(Progress(step=step, total=9, message=message, metrics=metrics, time=0))
        watch(Progress(step=9, total=9, message=message, metrics=metrics, time=0))
    assert caplog.messages[0] == line
    assert f"work 9 of 9 · {told[0]['description']}".removesuffix(" · ") == caplog.messages[1]
