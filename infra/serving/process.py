"""The process that serves, in its own environment: started, told what to serve, ended with all that
it started."""

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import threading
from pathlib import Path
from typing import Any

import psutil

from infra import keeper
from infra.compute import environments
from infra.contract import VLLM_SETTINGS
from infra.serving.secret import signing_key
from infra.settings import REPOSITORY

ENVIRONMENT = "serve"
LABEL = "NIGHTSHIFT_SERVING"
"""Environment variable that all processes of one endpoint inherit."""
END_SECONDS = 60
"""For what is being answered when the end comes."""
SETTINGS = VLLM_SETTINGS | {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",
    # a busy machine's proxy is slow, not dead; Serve would start it anew for ever
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "120",
    "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "60",
    "RAY_AUTH_MODE": "token",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # then its ports are on loopback here, too
}


class Process:
    """One serving process. `states` are what it told since it was asked last, in order."""

    def __init__(self, config: dict[str, Any], offline: bool, log: Path) -> None:
        self.label = secrets.token_hex(8)
        # short, since sockets lie in it, which have 107 bytes for their path
        self.scratch = Path(tempfile.mkdtemp(prefix="ns-"))
        self._told: list[dict[str, Any]] = []
        hub = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"} if offline else {}
        with log.open("ab") as errors:
            self.child = subprocess.Popen(
                [str(environments.ensure(ENVIRONMENT)), "-m", "jobs.serving.serve"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                cwd=REPOSITORY,
                start_new_session=True,  # Ctrl-C is for us, who end it in order
                preexec_fn=keeper.die_with_parent(signal.SIGTERM),
                env=_inherited()
                | SETTINGS
                | hub
                | {
                    LABEL: self.label,
                    "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
                    "PYTHONPATH": str(REPOSITORY),
                    "RAY_AUTH_TOKEN": secrets.token_hex(32),
                    "NIGHTSHIFT_SERVING_SIGNING_KEY": signing_key(),
                },
            )
        threading.Thread(target=self._listen, daemon=True).start()
        self.order(config | {"scratch": str(self.scratch)})

    def order(self, what: dict[str, Any]) -> None:
        """Tell it what to serve; a state answers."""
        assert self.child.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it is dead, which `is_alive` tells
            self.child.stdin.write(json.dumps(what) + "\n")
            self.child.stdin.flush()

    def states(self) -> list[dict[str, Any]]:
        told, self._told = self._told, []
        return told

    def is_alive(self) -> bool:
        return self.child.poll() is None

    def end(self) -> None:
        """End it, and whatever of its own is left."""
        below: list[psutil.Process] = []
        if self.is_alive():
            below = psutil.Process(self.child.pid).children(recursive=True)
            self.child.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.child.wait(END_SECONDS)
        left = [one for one in below if one.is_running()] + self._marked()
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(left, timeout=10)
        self.child.wait()
        assert self.child.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.child.stdin.close()
        shutil.rmtree(self.scratch, ignore_errors=True)

    def _marked(self) -> list[psutil.Process]:
        """Processes with our label, or our folder on their command line: a `ray::` process has
        written its name over its environment."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                named = any(str(self.scratch) in word for word in process.cmdline())
                if named or process.environ().get(LABEL) == self.label:
                    found.append(process)
        return found

    def _listen(self) -> None:
        assert self.child.stdout is not None
        with self.child.stdout as lines:
            for line in lines:
                self._told.append(json.loads(line))


def _inherited() -> dict[str, str]:
    """Our environment without our own secrets, which a model's code has no need of."""
    mine = ("NIGHTSHIFT_", "PREFECT_", "RAY_", "AWS_")
    return {name: value for name, value in os.environ.items() if not name.startswith(mine)}
