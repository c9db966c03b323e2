"""Ctrl-C that cannot get lost: a KeyboardInterrupt may end in somebody's `except`, a flag does not.

Whoever waits long calls `check` now and then.
"""

import signal
import threading

_asked = threading.Event()


def install() -> None:
    """Let SIGINT and SIGTERM interrupt this process, and be remembered."""
    signal.signal(signal.SIGINT, _interrupt)
    signal.signal(signal.SIGTERM, _interrupt)


def check() -> None:
    """Raise KeyboardInterrupt if one was asked for and has been swallowed."""
    if _asked.is_set():
        _asked.clear()
        raise KeyboardInterrupt


def _interrupt(_signal: int, _frame: object) -> None:
    _asked.set()
    raise KeyboardInterrupt
