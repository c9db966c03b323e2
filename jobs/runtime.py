"""What every job program shares: spec in, progress and checkpoints on the way, result out.

    python -m jobs.ppo.train JOB_FOLDER

The folder holds `spec.json`; the job adds `progress.jsonl`, `checkpoints/` and, as its last act,
`result.json`. A program is a function `program(job) -> Outcome` handed to `main`. It may be killed
at any instruction and started again in the same folder: it then goes on from its last whole
checkpoint, and a job that already has its result ends at once.
"""

import json
import math
import os
import shutil
import signal
import sys
import threading
import time
import traceback
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, NoReturn, TypeVar

from pydantic import BaseModel, ValidationError

from infra.contract import CONTINUE_EXIT_CODE, Artifact, JobResult, JobSpec, Progress
from infra.errors import (
    InputError,
    IntegrityError,
    NightshiftError,
    ObjectAccessDenied,
    ObjectError,
    StorageFull,
    first_fault,
)
from infra.objects import get, put
from infra.objects.local import disk_errors, flush
from jobs.usage import Meter

Config = TypeVar("Config", bound=BaseModel, covariant=True)
"""Read only: a job with a special config is one with a general config, too."""

KEPT_CHECKPOINTS = 2
LEAST_FREE_BYTES = 1 << 16
"""With less the disk is full, in whatever words a library says so."""


class Interrupted(Exception):
    """Raised by a program after it checkpointed because `job.stopping` became true."""


@dataclass
class Outcome:
    """What a program returns: metrics by name, and local files or folders to be stored."""

    metrics: dict[str, float]
    artifacts: dict[str, Path] = field(default_factory=dict)


class Job(Generic[Config]):
    """A running job, as its program sees it."""

    def __init__(self, folder: Path, config_model: type[Config]) -> None:
        self.folder = folder
        self.spec = JobSpec.model_validate_json((folder / "spec.json").read_text())
        self.config = config_model.model_validate(self.spec.config)
        self.scratch = folder / "scratch"
        self.scratch.mkdir(exist_ok=True)
        self.stopping = False
        self.resumed_from: int | None = None

    def input(self, name: str) -> Path:
        """The local copy of one input artefact, which is the one that the job was given."""
        uri, sha256 = self.spec.inputs[name], self.spec.checksums.get(name)
        return get(uri, self.folder / "inputs" / name, sha256)

    def progress(self, step: int, total: int, message: str = "", **metrics: float) -> None:
        """Report step `step` of `total`; `metrics` become points of the learning curve."""
        line = Progress(step=step, total=total, message=message, metrics=metrics, time=time.time())
        with (self.folder / "progress.jsonl").open("a") as stream:
            stream.write(line.model_dump_json() + "\n")
        figures = [f"{name.replace('_', ' ')} {value:.4g}" for name, value in metrics.items()]
        told = [f"{step} of {total}", *([message] if message else []), *figures]
        print(" · ".join(told), flush=True)  # in the log, `nightshift jobs logs`

    def save_checkpoint(self, step: int, write: Callable[[Path], object]) -> None:
        """Let `write(folder)` fill a checkpoint; it becomes visible whole or not at all."""
        with disk_errors():
            self._save_checkpoint(step, write)

    def _save_checkpoint(self, step: int, write: Callable[[Path], object]) -> None:
        checkpoints = self.folder / "checkpoints"
        checkpoints.mkdir(exist_ok=True)
        partial = checkpoints / ".partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        write(partial)
        for path in partial.rglob("*"):
            if path.is_file():
                flush(path)
        final = checkpoints / f"step-{step:08d}"
        shutil.rmtree(final, ignore_errors=True)
        partial.rename(final)
        flush(checkpoints)
        for old in self._checkpoints()[:-KEPT_CHECKPOINTS]:
            shutil.rmtree(old)

    def latest_checkpoint(self) -> tuple[int, Path] | None:
        """(step, folder) of the newest whole checkpoint, if there is one."""
        found = self._checkpoints()
        if not found:
            return None
        self.resumed_from = int(found[-1].name.removeprefix("step-"))
        return self.resumed_from, found[-1]

    def _checkpoints(self) -> list[Path]:
        return sorted((self.folder / "checkpoints").glob("step-*"))


def main(config_model: type[Config], program: Callable[[Job[Config]], Outcome]) -> None:
    """Run `program` in the job folder named on the command line and exit with its status."""
    if len(sys.argv) != 2 or not (Path(sys.argv[1]) / "spec.json").is_file():
        sys.exit("usage: python -m jobs.<name> JOB_FOLDER (with its spec.json)")
    folder = Path(sys.argv[1]).resolve()
    if _succeeded_before(folder):
        sys.exit(0)
    began, meter = time.monotonic(), Meter()
    meter.start()
    try:
        job = Job(folder, config_model)

        def stop(_signal: int, _frame: object) -> None:
            job.stopping = True

        signal.signal(signal.SIGTERM, stop)
        outcome = program(job)
        require_finite(outcome.metrics)
        result = JobResult(
            status="succeeded",
            metrics=outcome.metrics,
            artifacts={
                name: _store(path, f"{job.spec.output}/{name}")
                for name, path in outcome.artifacts.items()
            },
            seconds=time.monotonic() - began,
            resumed_from=job.resumed_from,
            usage=meter.read(),
        )
        code = 0
    except Interrupted:
        result, code = JobResult(status="continue"), CONTINUE_EXIT_CODE
    except Exception as error:
        traceback.print_exc()
        storage = _storage_error(error, folder)
        if storage:
            result, code = JobResult(status="continue", error=str(storage)), CONTINUE_EXIT_CODE
        else:
            result, code = JobResult(status="failed", error=_explain(error)), 1
    write_whole(folder / "result.json", result.model_dump_json(indent=1))
    _leave(code)


def _leave(code: int) -> NoReturn:
    """Exit, also where the user's code has left a thread that Python would wait for."""
    here = threading.current_thread()
    if any(not thread.daemon and thread is not here for thread in threading.enumerate()):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def require_finite(metrics: dict[str, float]) -> None:
    """Raise InputError for a metric that JSON and PostgreSQL cannot hold."""
    for name, value in metrics.items():
        if not math.isfinite(value):
            raise InputError(
                f"the metric {name} is {value}, not a finite number",
                "Read the job's log: training diverged, or there was nothing to measure.",
            )


def _store(path: Path, uri: str) -> Artifact:
    """Store an artefact at `uri`, or beside what a start that was killed before its result left."""
    try:
        return put(path, uri)
    except IntegrityError:
        return put(path, f"{uri}-{uuid.uuid4().hex[:8]}")


def write_whole(path: Path, text: str) -> None:
    """Write a file that is there whole or not at all."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(text)
    flush(partial)
    partial.replace(path)


def _succeeded_before(folder: Path) -> bool:
    try:
        return json.loads((folder / "result.json").read_text())["status"] == "succeeded"
    except (OSError, ValueError, KeyError):
        return False


def _storage_error(error: Exception, folder: Path) -> ObjectError | None:
    """The storage's fault and not the program's: once mended, the job goes on where it was."""
    if isinstance(error, (StorageFull, ObjectAccessDenied)):
        return error
    if shutil.disk_usage(folder).free < LEAST_FREE_BYTES:
        return StorageFull(
            f"No room for {folder}: {error}.",
            "Free some space there, or name a larger place in NIGHTSHIFT_HOME.",
        )
    return None


def _explain(error: Exception) -> str:
    if isinstance(error, ValidationError):
        where, message = first_fault(error)
        return f"{'.'.join(where)}: {message}"
    if isinstance(error, NightshiftError):
        return str(error)
    return f"{type(error).__name__}: {error}"


def optional_input(job: Job[Any], name: str) -> Path | None:
    """The local copy of an input artefact, None where the job was not given it."""
    return job.input(name) if name in job.spec.inputs else None


def stop_when_told(job: Job[Any]) -> None:
    """Raises Interrupted after a SIGTERM; what is since the last checkpoint is done again."""
    if job.stopping:
        raise Interrupted
