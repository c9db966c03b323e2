"""Flower's programs as processes of their own, forked from this one, which has imported them.

An import of Flower takes seconds, and it would be one for every node and for every message; a fork
takes milliseconds. What is forked has its own arguments and log, and dies with who forked it. This
process must have no threads when it forks.
"""

import ctypes
import hmac
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from fastapi import FastAPI, Request, Response
from flwr.supercore.constant import TASK_TYPE_TO_APPIO_API_ADDRESS_ARG, TaskType
from flwr.supercore.superexec import run_superexec
from flwr.supercore.superexec.executor.subprocess_executor import SubprocessExecutor
from flwr.supercore.superexec.executor.types import ExecutionSpec, LaunchResult
from flwr.superlink.cli.flower_superlink import flower_superlink
from flwr.superlink.cli.flwr_serverapp import flwr_serverapp
from flwr.supernode import start_client_internal
from flwr.supernode.cli.flower_supernode import flower_supernode
from flwr.supernode.cli.flwr_clientapp import flwr_clientapp

PR_SET_PDEATHSIG = 1
"""prctl(2): the signal that this process gets when its parent ends."""
TOKEN, TOKEN_HEADER, CONTROL = "FEDERATION_TOKEN", "x-nightshift-token", "/v1/control"
LOOK, EXECUTOR_LOOK = "FEDERATION_LOOK_SECONDS", "FLWR_SUPEREXEC_TASK_POLL_INTERVAL"
"""Environment variables of a node: how often it looks for messages, and what starts its apps for
those (Flower's own)."""
APPS = {TaskType.CLIENT_APP: flwr_clientapp, TaskType.SERVER_APP: flwr_serverapp}


def fork(
    program: Callable[[], object],
    arguments: list[str],
    log: Path | None = None,
    environment: dict[str, str] | None = None,
) -> int:
    """The process id of `program`, called with such a command line; its output goes to `log`."""
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if log is not None:
            stream = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            os.dup2(stream, 1)
            os.dup2(stream, 2)
        os.environ.update(environment or {})
        sys.argv = [program.__name__, *arguments]
        program()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


class ForkExecutor(SubprocessExecutor):
    """Starts the apps of a SuperLink or SuperNode as forks; a SubprocessExecutor imports anew."""

    def launch(self, spec: ExecutionSpec) -> LaunchResult:
        """Start the app of a task."""
        arguments = [TASK_TYPE_TO_APPIO_API_ADDRESS_ARG[spec.task_type], spec.runtime_api_address]
        arguments += [
            "--token",
            spec.token,
            "--root-certificates",
            str(spec.root_certificates_path),
        ]
        arguments += ["--parent-pid", str(os.getpid())]
        fork(APPS[spec.task_type], arguments)
        return LaunchResult.accepted()

    def reconcile(self) -> None:
        """Bury the apps that have ended."""
        while True:
            try:
                if os.waitpid(-1, os.WNOHANG)[0] == 0:
                    return
            except ChildProcessError:
                return


def superexec() -> None:
    """`flower-superexec` with our executor, which its command line cannot name."""
    from flwr.supercore.cli.flower_superexec import flower_superexec

    run_superexec.get_executor = lambda *_, **__: ForkExecutor()
    flower_superexec()


def superlink() -> None:
    """`flower-superlink` whose Control API wants the token of the environment.

    Flower asks nobody there: any user of this machine could start code of theirs as ours.
    """
    from flwr.superlink import main

    create, token = main.create_app, os.environ[TOKEN]

    def closed(*given: Any, **named: Any) -> FastAPI:
        served = create(*given, **named)

        @served.middleware("http")
        async def authenticate(request: Request, call_next: Any) -> Response:
            shown = request.headers.get(TOKEN_HEADER, "")
            if request.url.path.startswith(CONTROL) and not hmac.compare_digest(shown, token):
                return Response(status_code=401)
            return await call_next(request)

        return served

    main.create_app = closed
    flower_superlink()


def supernode() -> None:
    """`flower-supernode` that looks for messages as often as the environment says; Flower's own
    waits three seconds, in each round and in each stage of secure aggregation."""
    looking, most = cast(Any, start_client_internal), float(os.environ[LOOK])
    looking.time = SimpleNamespace(sleep=lambda seconds: time.sleep(min(seconds, most)))
    flower_supernode()


def ended(pid: int) -> bool:
    """Whether a process that we forked has ended."""
    try:
        return os.waitpid(pid, os.WNOHANG)[0] != 0
    except ChildProcessError:
        return True


def end(pids: list[int]) -> None:
    """End processes that we forked, at once: nothing of theirs is kept."""
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        except (ProcessLookupError, ChildProcessError):
            continue
