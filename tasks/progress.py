"""A job's progress where people look: a progress artifact in the Prefect UI, lines in the log."""

import logging
import time
from uuid import UUID

from prefect.artifacts import create_progress_artifact, update_progress_artifact

from jobs.contract import Progress

log = logging.getLogger("nightshift")

SECONDS_BETWEEN = 2.0


class Watch:
    """Called with each new progress of one job."""

    def __init__(self, step: str) -> None:
        self.step = step
        self.artifact: UUID | None = None
        self.shown = 0.0

    def __call__(self, progress: Progress) -> None:
        last = progress.step >= progress.total
        if not last and time.monotonic() - self.shown < SECONDS_BETWEEN:
            return
        self.shown = time.monotonic()
        figures = [
            f"{name.replace('_', ' ')} {value:.3g}"
            for name, value in list(progress.metrics.items())[:3]
        ]
        told = [progress.message, *figures] if progress.message else figures
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
