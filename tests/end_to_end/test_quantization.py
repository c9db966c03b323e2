"""A champion, an adapter on its base, becomes an INT8 model that is measured beside it."""

from pathlib import Path

import pytest

from tests.helpers.quantising import QUANTISE, prepare
from tests.helpers.users import User

pytestmark = pytest.mark.timeout(1200)
COMMAND = [*QUANTISE, "--variant", "int8", "--clients", "4", "--requests", "10"]


@pytest.mark.long
def test_an_int8_variant_is_measured_and_registered(user: User, train_python: Path) -> None:
    prepare(user, train_python)
    report = user.json(*COMMAND)
    champion, int8 = report["figures"]
    assert champion["variant"] == "champion" and int8["error"] is None and not int8["missed"]
    assert int8["bytes"] < champion["bytes"] and int8["throughput"] > 0
    assert min(champion["memory"], int8["memory"]) > 5e8, "vLLM's core is counted too"
    assert report["champion"] == "3" and report["registered"] == "5"
    versions = {one["version"]: one for one in user.json("models", "list", "tiny")}
    assert versions["5"]["kind"] == "quantised" and versions["5"]["parent"] == "3"
    assert versions["3"]["aliases"] == ["champion"], "nothing is promoted by itself"
    code, _, error = user.run("models", "promote", "tiny", "5")
    assert code != 0 and "verdict" in error
