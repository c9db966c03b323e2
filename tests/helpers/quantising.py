"""A champion that can be quantised, and the command that does it."""

import json
from pathlib import Path

from tests.helpers.serving import register
from tests.helpers.users import User

REWARD = """
def lively(prompts, completions, **columns):
    return [1 + len(set(text)) / max(1, len(text)) for text in completions]
"""
QUANTISE = [
    *"run quantization --name tiny --prompts prompts.jsonl --held-out held_out.jsonl".split(),
    *"--reward lively.py:lively --min-quality 0 --max-new-tokens 8".split(),
]


def prepare(user: User, python: Path) -> None:
    """Models by `register`, whose champion is version 3, and the files of `QUANTISE`."""
    register(user, python)
    (user.folder / "lively.py").write_text(REWARD)
    for name, first in (("prompts", 0), ("held_out", 100)):
        lines = [json.dumps({"prompt": f"part {number}"}) for number in range(first, first + 10)]
        (user.folder / f"{name}.jsonl").write_text("\n".join(lines))
