"""A function in a process of its own, which ends with it: what it breaks or keeps is its own.

The process is forked from one that has imported the function's module, and this one need not.
"""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures import TimeoutError as NotYet
from concurrent.futures.process import BrokenProcessPool
from pkgutil import resolve_name
from typing import Any

from infra.errors import NightshiftError
from jobs.runtime import Interrupted, Job

LOOK_SECONDS = 0.5


class Failed(Exception):
    """Why the function failed, or that its process has died."""


class Apart:
    """Runs the function that 'module:function' names, each time in a new process."""

    def __init__(self, job: Job[Any], function: str) -> None:
        self.job, self.function = job, function
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload([function.partition(":")[0]])

    def __call__(self, *arguments: Any) -> Any:
        """What the function returns. Raises Failed, and Interrupted after a SIGTERM to the job."""
        with ProcessPoolExecutor(1, self.context) as pool:
            asked = pool.submit(_call, self.function, arguments)
            while True:
                try:
                    return asked.result(LOOK_SECONDS)
                except BrokenProcessPool:
                    why = "its process died, as one does that needs too much memory"
                    raise Failed(why) from None
                except NotYet:
                    if self.job.stopping:
                        for process in multiprocessing.active_children():
                            process.kill()
                        raise Interrupted from None
                except NightshiftError as error:
                    raise Failed(error.message) from error
                except Exception as error:
                    raise Failed(f"{type(error).__name__}: {error}"[:500]) from error


def _call(function: str, arguments: tuple[Any, ...]) -> Any:
    return resolve_name(function)(*arguments)
