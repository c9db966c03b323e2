"""A job's progress where people look: a progress artifact in the Prefect UI, lines in the log.

Each step says its name when it begins, and none is silent for longer than `SILENCE_SECONDS`:
making an environment, renting a machine and loading a model take minutes without a word of the job.
"""

import contextvars
import logging
import threading
import time
from types import TracebackType
from typing import Self
from uuid import UUID

from prefect.artifacts import create_progress_artifact, update_progress_artifact

from infra.contract import Progress

log = logging.getLogger("nightshift")

SECONDS_BETWEEN = 2.0
SILENCE_SECONDS = 30.0


class Watch:
    """Called with each new progress of one job; as a context it tells of the time between, too.

    `environment`: of the job; `max_hours`: its window; `usual`: seconds that it took before.
    """

    def __init__(
        self, step: str, environment: str, max_hours: float, usual: float | None = None
    ) -> None:
        self.step = step
        self.environment = environment
        self.max_hours = max_hours
        self.usual = usual
        self.artifact: UUID | None = None
        self.begun = self.shown = time.monotonic()
        self.first: tuple[int, float] | None = None
        self.newest: Progress | None = None
        self._over = threading.Event()
        # with the context of the flow run, by which Prefect's handler knows whose line it is
        context = contextvars.copy_context()
        self._thread = threading.Thread(target=context.run, args=[self._break_silence], daemon=True)

    def __enter__(self) -> Self:
        usual = f", usually {_duration(self.usual)}" if self.usual else ""
        log.info(
            "%s begins: waits for its job in the environment %s, %s at most%s",
            *(self.step, self.environment, _duration(self.max_hours * 3600), usual),
        )
        self.begun = self.shown = time.monotonic()
        self._thread.start()
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        error: BaseException | None,
        _: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join()
        if error is None:
            log.info("%s has ended after %s", self.step, _duration(time.monotonic() - self.begun))

    def __call__(self, progress: Progress) -> None:
        last = progress.step >= progress.total
        self.newest = progress
        if self.first is None or progress.step < self.first[0]:
            self.first = progress.step, time.monotonic()
        if self.artifact and not last and time.monotonic() - self.shown < SECONDS_BETWEEN:
            return
        self.shown = time.monotonic()
        figures = [
            f"{name.replace('_', ' ')} {value:.3g}"
            for name, value in list(progress.metrics.items())[:3]
        ]
        told = [progress.message, *figures] if progress.message else figures
        if left := self._left():
            told.append(left)
        log.info(" · ".join([f"{self.step} {progress.step} of {progress.total}", *told]))
        percent = 100.0 * progress.step / max(1, progress.total)
        if self.artifact is None:
            made = create_progress_artifact(
                progress=percent, description=f"Progress of the job {self.step}"
            )
            assert isinstance(made, UUID)
            self.artifact = made
        else:
            update_progress_artifact(self.artifact, progress=percent, description=" · ".join(told))

    def _break_silence(self) -> None:
        while not self._over.wait(max(0.01, self.shown + SILENCE_SECONDS - time.monotonic())):
            if time.monotonic() - self.shown >= SILENCE_SECONDS:
                self.shown = time.monotonic()
                log.info(self._still())

    def _still(self) -> str:
        known = self.newest
        done = f"{known.step} of {known.total} done" if known else "no progress yet"
        waits = f"waits for {known.message}" if known and known.message else "waits for its job"
        if known is None:
            waits = f"waits for its machine, the environment {self.environment} and its inputs"
        so_far = f"{self.step}: {_duration(time.monotonic() - self.begun)} so far, {done}"
        return " · ".join(part for part in (so_far, waits, self._left()) if part)

    def _left(self) -> str:
        """An estimate of the time that is left: by the steps that it took, else by earlier jobs."""
        now = time.monotonic()
        if self.first and self.newest and self.newest.step > self.first[0]:
            step, at = self.first
            pace = (now - at) / (self.newest.step - step)
            seconds = pace * (self.newest.total - self.newest.step)
        elif self.usual:
            seconds = self.usual - (now - self.begun)
        else:
            return ""
        return f"about {_duration(seconds)} left" if seconds > 0 else ""


def _duration(seconds: float) -> str:
    """'40 s', '3 min', '2 h'"""
    if seconds < 90:
        return f"{max(1.0, seconds):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.3g} h"
