"""A champion, an adapter on its base, becomes an INT8 model that is measured beside it."""

import json
from pathlib import Path

import pytest

from tests.helpers.serving import register
from tests.helpers.users import User

pytestmark = pytest.mark.timeout(1800)
REWARD = """
def lively(prompts, completions, **columns):
    return [1 + len(set(text)) / max(1, len(text)) for text in completions]
"""


def test_an_int8_variant_is_measured_and_registered(user: User, train_python: Path) -> None:
    register(user, train_python)
    (user.folder / "lively.py").write_text(REWARD)
    for name, first in (("prompts", 0), ("held_out", 100)):
        lines = [json.dumps({"prompt": f"part {number}"}) for number in range(first, first + 10)]
        (user.folder / f"{name}.jsonl").write_text("\n".join(lines))
    command = "run quantization --name tiny --variant int8 --prompts prompts.jsonl".split()
    command += "--held-out held_out.jsonl --reward lively.py:lively --min-quality 0".split()
    command += "--clients 4 --requests 10 --max-new-tokens 8".split()
    plan = user.json(*command, "--plan")
    assert [one["step"].split()[0] for one in plan["steps"]] == ["quantise", "measure", "score"]
    report = user.json(*command)
    champion, int8 = report["figures"]
    assert champion["variant"] == "champion" and int8["error"] is None and not int8["missed"]
    assert int8["bytes"] < champion["bytes"] and int8["throughput"] > 0
    assert report["champion"] == "3" and report["registered"] == "5"
    versions = {one["version"]: one for one in user.json("models", "list", "tiny")}
    assert versions["5"]["kind"] == "quantised" and versions["5"]["parent"] == "3"
    assert versions["3"]["aliases"] == ["champion"], "nothing is promoted by itself"
    assert user.run("models", "promote", "tiny", "5")[0] != 0
