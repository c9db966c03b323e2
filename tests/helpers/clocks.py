"""A clock for one module alone: threads that others left behind keep the real one."""

import time
from collections.abc import Callable
from types import ModuleType

import pytest


def set_clock(
    monkeypatch: pytest.MonkeyPatch, module: ModuleType, **functions: Callable[..., object]
) -> None:
    """Give `module`, which says `import time`, these functions of it instead."""
    clock = ModuleType("time")
    vars(clock).update(vars(time) | functions)
    monkeypatch.setattr(module, "time", clock)
