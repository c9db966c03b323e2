"""The small process beside every local job: it ends the job on time, whoever else has died.

    python -m infra.compute.watchdog JOB_FOLDER

It holds `lock` for its whole life, so that a job never runs twice; starts the program as its
child, which the kernel kills with it (PR_SET_PDEATHSIG); touches `attempts/N.alive.json` every
second; sends SIGTERM a grace period before the deadline and SIGKILL at it; and when the program
has ended, ends whatever descends from it or carries its label, and writes
`attempts/N.ended.json`. Light on purpose: a job starts with it.

`launch.json` is an order for one attempt. It is carried out once, however many watchdogs find it,
and not at all once `stop` has withdrawn it. The job's environment variables are not in it but
those of the watchdog, since there are credentials among them.
"""

import contextlib
import ctypes
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import psutil

LABEL = "NIGHTSHIFT_JOB"
SANDBOX = [sys.executable, "-IS", str(Path(__file__).with_name("sandbox.py"))]
"""Quick to start, and takes no module of a job's."""
PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
TICK_SECONDS = 0.1
BEAT_SECONDS = 1.0
LOCK_SECONDS = 10
GPU_SHORTAGE = "not enough free GPUs"


def labelled(folder: Path) -> list[psutil.Process]:
    """Every live process that carries the label of the job in `folder`."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get(LABEL) == str(folder):
                found.append(process)
    return _living(found)


def descendants() -> list[psutil.Process]:
    """Every live process below this one. It adopts orphans, so none escapes by leaving its
    session, its parent or its environment variables."""
    return _living(psutil.Process().children(recursive=True))


def kill_all(find: Callable[[], list[psutil.Process]]) -> None:
    """SIGKILL what `find` finds until it finds none."""
    while remaining := find():
        for process in remaining:
            with contextlib.suppress(psutil.Error):
                process.kill()
        time.sleep(0.05)  # no waitpid here: the watchdog wants its child's exit code


def _living(processes: list[psutil.Process]) -> list[psutil.Process]:
    found = []
    for process in processes:
        with contextlib.suppress(psutil.Error):
            if process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def write_whole(path: Path, value: dict) -> None:
    """Write JSON that is there whole or not at all."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    with partial.open("w") as stream:
        json.dump(value, stream)
        stream.flush()
        os.fsync(stream.fileno())
    partial.replace(path)


def hold_gpus(folder: Path, gpus: int, wanted: int) -> dict[int, IO[str]] | None:
    """Lock `wanted` of the machine's `gpus`: locks by index, None if too few are free.

    The kernel frees them with this process.
    """
    folder.mkdir(parents=True, exist_ok=True)
    held: dict[int, IO[str]] = {}
    with (folder / "choosing.lock").open("a") as choosing:
        fcntl.flock(choosing, fcntl.LOCK_EX)  # else two jobs could take half each and both fail
        for index in range(gpus):
            if len(held) == wanted:
                break
            lock = (folder / f"{index}.lock").open("a")
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.close()
            else:
                held[index] = lock
        if len(held) == wanted:
            return held
        for lock in held.values():
            lock.close()
        return None


class Watchdog:
    """One attempt of one job; `launch.json` says what to start and until when."""

    def __init__(self, folder: Path, order: dict[str, Any]) -> None:
        self.folder = folder
        self.order = order
        self.stop_asked = False
        # Wall-clock times only come in and go out; a clock that is set moves no deadline and no
        # cost, and a machine that slept has used up its time.
        self.started = time.time()
        self.booted_at_start = _clock()
        remaining = max(0.0, order["expires_at"] - self.started)
        self.deadline = self.booted_at_start + remaining
        self.grace = min(order["grace_seconds"], remaining / 2)

    def run(self) -> None:
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        signal.signal(signal.SIGTERM, self._ask_to_stop)
        if self.order["whole_machine"]:  # on a node nobody stays behind to end the job
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
            self.stop_asked = os.getppid() != self.order["launcher"]
        kill_all(self._labelled)  # of an attempt whose watchdog was killed
        gpus: dict[int, IO[str]] | None = {}
        if not self.order["whole_machine"]:
            gpus = hold_gpus(
                Path(self.order["gpu_folder"]), self.order["gpus"], self.order["wanted"]
            )
        if gpus is None:
            self._record("ended", exit_code=None, reason=GPU_SHORTAGE, ended=self._now())
        self._record("alive")
        if gpus is None:
            return
        program = self._start(list(gpus))
        self._watch(program)
        code = program.wait()
        self._kill()
        self._record("ended", exit_code=code, reason="", ended=self._now())

    def _start(self, gpus: list[int]) -> "subprocess.Popen[bytes]":
        watchdog = os.getpid()

        def die_with_watchdog() -> None:
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            if os.getppid() != watchdog:
                os._exit(1)

        label = {LABEL: str(self.folder)}
        if not self.order["whole_machine"]:
            label["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, gpus))
        command, variables = self.order["command"], os.environ | label
        walls = self.order["sandbox"]
        order = {"command": command, "variables": variables, "folder": str(self.folder)}
        with (
            (self.folder / "log.txt").open("ab") as log,
            _told(order | walls if walls else None) as told,
        ):
            return subprocess.Popen(
                SANDBOX if walls else command,
                env=None if walls else variables,
                cwd=self.folder,
                stdin=told,
                stdout=log,
                stderr=log,
                preexec_fn=die_with_watchdog,
                start_new_session=True,
            )

    def _watch(self, program: "subprocess.Popen[bytes]") -> None:
        """Until the program has ended: beat, ask it to stop in time, kill it at the deadline."""
        asked = False
        beaten = _clock()
        while program.poll() is None:
            now = _clock()
            if now - beaten >= BEAT_SECONDS:
                beaten = now
                os.utime(self._file("alive"), (self._now(), self._now()))
            if not asked and (self.stop_asked or now >= self.deadline - self.grace):
                asked = True
                why = "somebody stopped it" if self.stop_asked else "its deadline is near"
                print(f"nightshift: asked the job to checkpoint and end: {why}", flush=True)
                self.deadline = min(self.deadline, now + self.grace)
                program.send_signal(signal.SIGTERM)
            if now >= self.deadline:
                print("nightshift: killed the job: it did not end in time", flush=True)
                self._kill()
            time.sleep(TICK_SECONDS)

    def _kill(self) -> None:
        kill_all(descendants)
        kill_all(self._labelled)

    def _labelled(self) -> list[psutil.Process]:
        return labelled(self.folder)

    def _now(self) -> float:
        """Unix seconds, as if nobody had set the clock since the start."""
        return self.started + _clock() - self.booted_at_start

    def _ask_to_stop(self, _signal: int, _frame: object) -> None:
        self.stop_asked = True

    def _file(self, kind: str) -> Path:
        return self.folder / "attempts" / f"{self.order['attempt']}.{kind}.json"

    def _record(self, kind: str, **values: Any) -> None:
        same = {"reservation": self.order["reservation"], "started": self.started}
        write_whole(self._file(kind), same | values)


def main() -> None:
    folder = Path(sys.argv[1])
    with (folder / "lock").open("a") as lock:
        deadline = time.monotonic() + LOCK_SECONDS  # somebody may probe it, or clean up
        while not _try_lock(lock) and time.monotonic() < deadline:
            if _order(folder) is None:
                return
            time.sleep(0.02)
        if _try_lock(lock) and (order := _order(folder)):
            lock.truncate(0)
            lock.write(str(os.getpid()))
            lock.flush()
            Watchdog(folder, order).run()


def _order(folder: Path) -> dict[str, Any] | None:
    """What to launch, unless that was withdrawn or another watchdog has begun it."""
    try:
        order = json.loads((folder / "launch.json").read_text())
    except FileNotFoundError:
        return None
    begun = folder / "attempts" / f"{order['attempt']}.alive.json"
    return None if begun.exists() else order


def _told(order: dict[str, Any] | None) -> IO[bytes]:
    """A standard input with an order in it, in memory, since its variables have credentials."""
    if order is None:
        return Path(os.devnull).open("rb")
    told = os.fdopen(os.memfd_create("order"), "w+b")
    told.write(json.dumps(order).encode())
    told.seek(0)
    return told


def _try_lock(lock: IO[str]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _clock() -> float:
    """Seconds since boot, sleep included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


if __name__ == "__main__":
    main()
