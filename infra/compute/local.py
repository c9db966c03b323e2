"""Jobs on this machine: each a process beside a watchdog, in a folder of its own.

HOME/jobs/<key>/ holds spec.json, launch.json (the order to the watchdog), lock (held by a live
watchdog, with its process id in it), attempts/N.alive.json and N.ended.json, log.txt, and what the
program writes. Whoever holds no lock is dead: the kernel says so, and no process id is trusted.
launch.lock is held by who launches or stops, so that neither overtakes the other. The program
runs in a sandbox where this machine has one: see `infra.compute.reach`.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import psutil
from pydantic import ValidationError

from infra.compute import environments, reach
from infra.compute.launcher import (
    Handle,
    JobStatus,
    Quote,
    Reserved,
    State,
    last_of_each_step,
    parse_progress,
)
from infra.compute.watchdog import GPU_SHORTAGE, LABEL, kill_all, labelled, write_whole
from infra.contract import CONTINUE_EXIT_CODE, JobResult, JobSpec, Progress, Resources
from infra.errors import LaunchError
from infra.objects.local import disk_errors
from infra.settings import REPOSITORY, settings

START_SECONDS = 60
PASSED_ON = re.compile(
    r"PATH|HOME|USER|LANG|LC_.*|TZ|TMPDIR|(HTTPS?|NO)_PROXY|(https?|no)_proxy|SSL_CERT_.*"
    r"|REQUESTS_CA_BUNDLE|OMP_NUM_THREADS|HF_.*|TRANSFORMERS_.*|AWS_.*"
    r"|NIGHTSHIFT_S3_ENDPOINT_URL|LD_LIBRARY_PATH|CUDA_(HOME|PATH|VISIBLE_DEVICES)"
)
"""What a job's environment gets of ours: never the database's URL."""


class LocalLauncher:
    """Runs jobs on this machine. `python` and `package` are for programs of another place.

    `whole_machine`: it was rented for this one job, which has all its GPUs and ends with us.
    """

    def __init__(
        self,
        home: Path,
        python: Path | None = None,
        package: str = "jobs",
        whole_machine: bool = False,
    ) -> None:
        self.home = home
        self.jobs = home / "jobs"
        self.python = python
        self.package = package
        self.whole_machine = whole_machine

    @property
    def poll_seconds(self) -> float:
        return settings().poll_seconds

    def quotes(self, resources: Resources) -> list[Quote]:
        gpus = sum(resources.accelerators.values())
        models = gpu_models()
        for name in resources.accelerators:
            if models and not any(is_model(name, model) for model in models):
                raise LaunchError(
                    f"this machine has no {name} but {models[0]}",
                    "Ask for that, for any 'GPU', or for another --target.",
                )
        memory = psutil.virtual_memory().total / 2**30
        for what, wanted, present in (
            ("GPUs", gpus, gpu_count()),
            ("CPU cores", resources.cpus, os.cpu_count() or 1),
            ("GB of memory", resources.memory_gb, round(memory, 1)),
        ):
            if wanted > present:
                raise LaunchError(
                    f"this machine has {present} {what}, the job asks for {wanted:g}",
                    f"{'Give fewer --accelerators' if what == 'GPUs' else 'Ask for less'}, or "
                    "another --target.",
                )
        if resources.use_spot:
            raise LaunchError("this machine has no spot price", "Ask for no spot machine.")
        reach.is_walled()
        config = settings()
        quote = Quote(
            launcher="local",
            hourly_usd=config.local_usd_per_hour + gpus * config.local_gpu_usd_per_hour,
            accelerators=resources.accelerators,
            region="this machine",
            source="NIGHTSHIFT_LOCAL_USD_PER_HOUR",
        )
        return [quote]

    def launch(self, spec: JobSpec, reservation: Reserved, quote: Quote | None = None) -> Handle:  # noqa: ARG002 - the price is no choice here
        folder = self.folder(spec.key)
        python = self.python or environments.ensure(spec.environment)
        with disk_errors():
            (folder / "attempts").mkdir(parents=True, exist_ok=True)
        with _exclusively(folder), disk_errors():
            self._store_spec(folder, spec)
            attempts = self.attempts(spec.key)
            if attempts:
                status = self.poll(attempts[-1])
                if status.state in ("running", "succeeded", "failed"):
                    return attempts[-1]
            number = attempts[-1].attempt + 1 if attempts else 1
            self._order(folder, spec, reservation, number, python)
            try:
                watchdog = self._start_watchdog(folder, spec)
                return self._confirmed(folder, spec.key, number, watchdog)
            except BaseException:  # Ctrl-C too: what was not confirmed must not start later
                _end(folder, grace_seconds=0)
                raise

    def attempts(self, key: str) -> list[Handle]:
        folder = self.folder(key)
        numbers = sorted(
            int(path.name.split(".")[0]) for path in folder.glob("attempts/*.alive.json")
        )
        return [self._handle(folder, key, number) for number in numbers]

    def poll(self, handle: Handle) -> JobStatus:
        folder = Path(handle.place)
        alive = folder / "attempts" / f"{handle.attempt}.alive.json"
        ended = alive.with_name(f"{handle.attempt}.ended.json")
        is_last = not alive.with_name(f"{handle.attempt + 1}.alive.json").exists()
        running = is_last and not ended.exists() and _is_locked(folder / "lock")
        begun = json.loads(alive.read_text())
        status: dict = {
            "started": datetime.fromtimestamp(begun["started"], UTC),
            "seen": datetime.fromtimestamp(max(alive.stat().st_mtime, begun["started"]), UTC),
            "progress": next(iter(_progress(folder / "progress.jsonl")[-1:]), None),
        }
        if running:
            return JobStatus(state="running", **status)
        if not ended.exists():
            if is_last:
                _end_leftovers(folder)
            return JobStatus(state="lost", **status)
        end = json.loads(ended.read_text())
        status["seen"] = datetime.fromtimestamp(end["ended"], UTC)
        result = _result(folder / "result.json")
        return JobStatus(
            state=_ended_state(end["exit_code"], result),
            exit_code=end["exit_code"],
            result=result,
            **status,
        )

    def logs(self, handle: Handle, follow: bool = False) -> Iterator[str]:
        path = Path(handle.place) / "log.txt"
        with path.open(errors="replace") as stream:
            unfinished = ""
            while True:
                running = follow and _is_locked(path.with_name("lock"))
                for piece in stream:
                    unfinished += piece
                    if unfinished.endswith("\n"):
                        yield unfinished.rstrip("\n")
                        unfinished = ""
                if not running:
                    break
                time.sleep(0.3)
            if unfinished:
                yield unfinished

    def progress(self, key: str) -> list[Progress]:
        return last_of_each_step(_progress(self.folder(key) / "progress.jsonl", whole=True))

    def stop(self, handle: Handle) -> None:
        folder = Path(handle.place)
        with _exclusively(folder):
            _end(folder, settings().stop_grace_seconds + 5)

    def running(self) -> list[Handle]:
        # A watchdog has its lock a moment before its program has the label.
        folders = {lock.parent for lock in self.jobs.glob("*/lock") if _is_locked(lock)}
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                label = process.environ().get(LABEL)
                if label and Path(label).parent == self.jobs:
                    folders.add(Path(label))
        found = []
        for folder in sorted(folders):
            key = JobSpec.model_validate_json((folder / "spec.json").read_text()).key
            found += self.attempts(key)[-1:]
        return found

    def folder(self, key: str) -> Path:
        """Where a job of that key lives."""
        readable = re.sub(r"[^A-Za-z0-9_.-]+", "-", key)[:80]
        return self.jobs / f"{readable}-{hashlib.sha256(key.encode()).hexdigest()[:8]}"

    def _handle(self, folder: Path, key: str, attempt: int) -> Handle:
        begun = json.loads((folder / "attempts" / f"{attempt}.alive.json").read_text())
        return Handle(
            launcher="local",
            key=key,
            reservation=begun["reservation"],
            place=str(folder),
            attempt=attempt,
        )

    def _store_spec(self, folder: Path, spec: JobSpec) -> None:
        path = folder / "spec.json"
        if not path.exists():
            write_whole(path, spec.model_dump(mode="json"))
        elif JobSpec.model_validate_json(path.read_text()) != spec:
            raise LaunchError(
                f"the job {spec.key} was launched with other parameters",
                "Start the run with the parameters that it was begun with.",
            )

    def _order(
        self, folder: Path, spec: JobSpec, reservation: Reserved, attempt: int, python: Path
    ) -> None:
        walled = spec.sandboxed and not self.whole_machine and reach.is_walled()
        code = {REPOSITORY / name for name in ("infra", "jobs", self.package.partition(".")[0])}
        write_whole(
            folder / "launch.json",
            {
                "attempt": attempt,
                "reservation": reservation.id,
                "expires_at": reservation.expires_at.timestamp(),
                "grace_seconds": settings().stop_grace_seconds,
                "command": [str(python), "-m", f"{self.package}.{spec.name}", str(folder)],
                "gpu_folder": str(self.home / "gpus"),
                "gpus": gpu_count(),
                "wanted": sum(spec.resources.accelerators.values()),
                "whole_machine": self.whole_machine,
                "launcher": os.getpid(),
                "sandbox": reach.reach(spec, folder, python, code) if walled else None,
            },
        )

    def _start_watchdog(self, folder: Path, spec: JobSpec) -> "subprocess.Popen[bytes]":
        environment = {k: v for k, v in os.environ.items() if PASSED_ON.fullmatch(k)}
        environment.setdefault("OMP_NUM_THREADS", str(spec.resources.cpus))
        environment |= {"PYTHONPATH": str(REPOSITORY), "PYTHONUNBUFFERED": "1"}
        environment["PYTHONHASHSEED"] = "0"  # libraries write sets: the same run, the same bytes
        with (folder / "log.txt").open("ab") as log:
            watchdog = subprocess.Popen(
                [sys.executable, "-m", "infra.compute.watchdog", str(folder)],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=REPOSITORY,
                start_new_session=True,
            )
        _watchdogs[:] = [one for one in _watchdogs if one.poll() is None] + [watchdog]
        return watchdog

    def _confirmed(
        self, folder: Path, key: str, attempt: int, watchdog: "subprocess.Popen[bytes]"
    ) -> Handle:
        """Wait until a watchdog, this one or one that was quicker, has said that it is there."""
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            over = watchdog.poll() is not None and not _is_locked(folder / "lock")
            if (folder / "attempts" / f"{attempt}.alive.json").exists():
                handle = self._handle(folder, key, attempt)
                self._require_gpus(handle)
                return handle
            if over:
                break
            time.sleep(0.01)
        tail = (folder / "log.txt").read_text(errors="replace")[-500:]
        if os.strerror(errno.ENOSPC) in tail:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))
        raise LaunchError(f"the job {key} did not start: {tail}", f"Look into {folder}.")

    def _require_gpus(self, handle: Handle) -> None:
        ended = Path(handle.place) / "attempts" / f"{handle.attempt}.ended.json"
        if ended.exists() and json.loads(ended.read_text())["reason"] == GPU_SHORTAGE:
            raise LaunchError(
                f"the job {handle.key} was not started: {GPU_SHORTAGE}",
                "Wait for the jobs that hold them (`nightshift jobs list --running`).",
            )


_watchdogs: list["subprocess.Popen[bytes]"] = []
"""Those that this process started and that live; kept, since Popen complains when forgotten."""


def gpu_count() -> int:
    """GPUs of this machine, from NIGHTSHIFT_LOCAL_GPUS or as nvidia-smi lists them."""
    given = settings().local_gpus
    return len(gpu_models()) if given is None else given


def gpu_models() -> list[str]:
    """Names of this machine's GPUs as `nvidia-smi -L` gives them, e.g. 'NVIDIA A100-SXM4-80GB'."""
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return re.findall(r"^GPU \d+: (.+?) \(UUID", listed.stdout, re.MULTILINE)


def is_model(accelerator: str, model: str) -> bool:
    """Whether e.g. 'A100-80GB', 'RTX4090' or any 'GPU' is what nvidia-smi calls `model`."""
    words = re.findall(r"[A-Z0-9]+", model.upper())
    known = {"GPU", *words, *("".join(pair) for pair in pairwise(words))}
    return known.issuperset(re.findall(r"[A-Z0-9]+", accelerator.upper()))


def _ended_state(exit_code: int | None, result: JobResult | None) -> State:
    if exit_code == 0 and result is not None and result.status == "succeeded":
        return "succeeded"
    if exit_code == CONTINUE_EXIT_CODE:
        return "continue"
    return "lost" if exit_code is None or exit_code < 0 else "failed"


def _is_locked(path: Path) -> bool:
    """Whether a live process holds it. A shared probe, so that probes do not see each other."""
    with path.open("a") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


@contextlib.contextmanager
def _exclusively(folder: Path) -> Iterator[None]:
    """Nobody else launches or stops the job of `folder` while the block runs."""
    with (folder / "launch.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _end(folder: Path, grace_seconds: float) -> None:
    """Withdraw the order, let the watchdog end the job, kill it when that takes too long."""
    (folder / "launch.json").unlink(missing_ok=True)
    lock, deadline = folder / "lock", time.monotonic() + grace_seconds
    while _is_locked(lock):
        late = time.monotonic() >= deadline
        _signal_watchdog(folder, signal.SIGKILL if late else signal.SIGTERM)
        time.sleep(0.05)
    kill_all(lambda: labelled(folder))


def _end_leftovers(folder: Path) -> None:
    """Kill what an attempt left, unless a watchdog, which does that first, has begun another."""
    with (folder / "lock").open("a") as lock, contextlib.suppress(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        kill_all(lambda: labelled(folder))


def _progress(path: Path, whole: bool = False) -> list[Progress]:
    """The reports in the file, or only those near its end."""
    try:
        with path.open("rb") as stream:
            if not whole:
                stream.seek(max(0, path.stat().st_size - 4096))
            return parse_progress(stream.read())
    except FileNotFoundError:
        return []


def _result(path: Path) -> JobResult | None:
    try:
        return JobResult.model_validate_json(path.read_text())
    except (FileNotFoundError, ValidationError):
        return None


def _signal_watchdog(folder: Path, which: signal.Signals) -> None:
    """Signal who holds the lock, if the process of the id in it is the watchdog of this folder."""
    with contextlib.suppress(psutil.Error, ValueError):  # ValueError: it is just writing its id
        process = psutil.Process(int((folder / "lock").read_text()))
        if process.cmdline()[-2:] == ["infra.compute.watchdog", str(folder)]:
            process.send_signal(which)
