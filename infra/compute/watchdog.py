"""The small process beside every local job: it ends the job on time, whoever else has died.

    python -m infra.compute.watchdog JOB_FOLDER

It holds `lock` for its whole life, so that a job never runs twice; starts the program as its
child, which the kernel kills with it (PR_SET_PDEATHSIG); touches `attempts/N.alive.json` every
second; sends SIGTERM a grace period before the deadline and SIGKILL at it; and when the program
has ended, ends whatever carries the job's label and writes `attempts/N.ended.json`. Light on
purpose: a job starts with it.
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
from pathlib import Path
from typing import IO, Any

import psutil

LABEL = "NIGHTSHIFT_JOB"
PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
TICK_SECONDS = 0.1
BEAT_SECONDS = 1.0
GPU_SHORTAGE = "not enough free GPUs"


def labelled(folder: Path) -> list[psutil.Process]:
    """Every live process that carries the label of the job in `folder`."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get(LABEL) == str(folder) and (
                process.status() != psutil.STATUS_ZOMBIE
            ):
                found.append(process)
    return found


def kill_labelled(folder: Path) -> None:
    """SIGKILL them until none is left, those that left their session too."""
    while remaining := labelled(folder):
        for process in remaining:
            with contextlib.suppress(psutil.Error):
                process.kill()
        time.sleep(0.05)  # no waitpid here: the watchdog wants its child's exit code


def write_whole(path: Path, value: dict) -> None:
    """Write JSON that is there whole or not at all."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    with partial.open("w") as stream:
        json.dump(value, stream)
        stream.flush()
        os.fsync(stream.fileno())
    partial.replace(path)


def hold_gpus(folder: Path, gpus: int, wanted: int) -> tuple[list[int], list[IO[str]]] | None:
    """Lock `wanted` of the machine's `gpus`; the kernel frees them with this process."""
    folder.mkdir(parents=True, exist_ok=True)
    indexes: list[int] = []
    locks: list[IO[str]] = []
    for index in range(gpus):
        if len(indexes) == wanted:
            break
        lock = (folder / f"{index}.lock").open("a")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            continue
        indexes.append(index)
        locks.append(lock)
    return (indexes, locks) if len(indexes) == wanted else None


class Watchdog:
    """One attempt of one job; `launch.json` says what to start and until when."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.order = json.loads((folder / "launch.json").read_text())
        self.stop_asked = False
        self.started = time.time()
        # The deadline arrives as wall-clock time; from here on only the monotonic clock counts.
        self.deadline = time.monotonic() + self.order["expires_at"] - self.started
        self.grace: float = self.order["grace_seconds"]

    def run(self) -> None:
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        signal.signal(signal.SIGTERM, self._ask_to_stop)
        kill_labelled(self.folder)  # of an attempt whose watchdog was killed
        gpus = hold_gpus(Path(self.order["gpu_folder"]), self.order["gpus"], self.order["wanted"])
        if gpus is None:
            self._record("ended", exit_code=None, reason=GPU_SHORTAGE, ended=time.time())
        self._record("alive", pid=os.getpid())
        if gpus is None:
            return
        program = self._start(gpus[0])
        self._watch(program)
        code = program.wait()
        kill_labelled(self.folder)
        self._record("ended", exit_code=code, reason="", ended=time.time())

    def _start(self, gpus: list[int]) -> "subprocess.Popen[bytes]":
        watchdog = os.getpid()

        def die_with_watchdog() -> None:
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            if os.getppid() != watchdog:
                os._exit(1)

        label = {LABEL: str(self.folder), "CUDA_VISIBLE_DEVICES": ",".join(map(str, gpus))}
        with (self.folder / "log.txt").open("ab") as log:
            return subprocess.Popen(
                self.order["command"],
                env=self.order["environment"] | label,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=die_with_watchdog,
                start_new_session=True,
            )

    def _watch(self, program: "subprocess.Popen[bytes]") -> None:
        """Until the program has ended: beat, ask it to stop in time, kill it at the deadline."""
        asked = False
        beaten = time.monotonic()
        while program.poll() is None:
            now = time.monotonic()
            if now - beaten >= BEAT_SECONDS:
                beaten = now
                os.utime(self._file("alive"))
            if not asked and (self.stop_asked or now >= self.deadline - self.grace):
                asked = True
                self.deadline = min(self.deadline, now + self.grace)
                program.send_signal(signal.SIGTERM)
            if now >= self.deadline:
                kill_labelled(self.folder)
            time.sleep(TICK_SECONDS)

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
        for _ in range(40):  # somebody's probe of the lock may be in the way for an instant
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(0.05)
            else:
                Watchdog(folder).run()
                return


if __name__ == "__main__":
    main()
