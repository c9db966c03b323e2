"""Copies of this tree that a test may change."""

import subprocess
from pathlib import Path

from infra.settings import REPOSITORY

PACE = '''"""How long a made-up step takes."""

SECONDS = {seconds}
'''
MADE_UP = '''"""Figures of the made-up product `pace.py`: what it says, and a hundredth about it."""

import time
from random import Random

from benchmarks.figures import figure, yardstick
from pace import SECONDS


def about(value, wait):
    draw = Random(str(value))
    time.sleep(wait)
    return lambda: (time.sleep(wait), value * draw.uniform(0.99, 1.01))[1]


@figure("control-plane", "s", better="less", beside="constant")
def step():
    yield about(SECONDS, 0)


@figure("control-plane", "ms", better="less")
def steps():
    draw = Random(1)
    yield lambda: [draw.uniform(1, 2) for _ in range(70)]


@figure("control-plane", "steps/s")
def slow_to_take():
    yield about(2.0, 0.1)


@figure("control-plane", "s", rounds=9)
def in_few_rounds():
    yield about(1.0, 0)


@figure("control-plane", "s", gpu=True)
def on_gpu():
    yield lambda: 1 / 0


@yardstick("s")
def constant():
    yield about(1.0, 0)
'''


def copy_tree(folder: Path) -> Path:
    """All files that git knows, or would add, in `folder`."""
    listed = ["git", "ls-files", "-co", "--exclude-standard"]
    names = subprocess.run(listed, cwd=REPOSITORY, capture_output=True, check=True, text=True)
    for name in names.stdout.splitlines():
        if (source := REPOSITORY / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(source.read_bytes())
    return folder


def make_up_figures(folder: Path, seconds: float) -> None:
    """Let the suite control-plane of the tree be `MADE_UP`, and its product take `seconds`."""
    (folder / "benchmarks").mkdir(exist_ok=True)
    for name in ("figures.py", "sampler.py"):
        text = (REPOSITORY / "benchmarks" / name).read_text()
        before, _, after = text.partition('"control-plane": (')
        if after:
            text = f'{before}"control-plane": ("benchmarks.made_up",),{after.partition("),")[2]}'
        (folder / "benchmarks" / name).write_text(text)
    (folder / "benchmarks" / "made_up.py").write_text(MADE_UP)
    (folder / "pace.py").write_text(PACE.format(seconds=seconds))
