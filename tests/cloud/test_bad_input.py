"""Clouds that cannot be used: one clear error from the command line, and nothing is asked for."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra import database as db
from infra import ledger
from tests.cloud.lab import SLURM, queue
from tests.users import User, settle_in


@pytest.fixture
def renter(pool: db.Pool, unseen_model: Path, train_python: Path, tmp_path: Path) -> Iterator[User]:
    """A user of the tests' SkyPilot, who rents nothing."""
    user = settle_in(tmp_path, unseen_model, train_python)
    user.settings = {k: v for k, v in os.environ.items() if k.startswith("NIGHTSHIFT_")}
    user.settings["NIGHTSHIFT_HOME"] = str(user.home)
    yield user
    assert queue() == [] and ledger.open_reservations(pool) == []


@pytest.mark.parametrize(
    ("cloud", "key", "says"),
    [
        ("slurm", "", "no cloud enabled"),
        ("hyperbolic", "a key of no account", "price catalogue cannot be fetched"),
    ],
)
def test_a_cloud_that_is_not_set_up(renter: User, cloud: str, key: str, says: str) -> None:
    """The catalogue's address leads to nobody, as without the internet."""
    home = renter.folder / "elsewhere"
    for name, text in {
        ".sky/config.yaml": f"allowed_clouds: [{cloud}]\n",
        ".hyperbolic/api_key": key,
    }.items():
        (home / name).parent.mkdir(parents=True)
        (home / name).write_text(text)
    renter.settings |= {"HOME": str(home), "HTTPS_PROXY": "http://127.0.0.1:9"}
    for command in (
        ["quote", "--accelerators", "H100:1"],
        ["run", "surrogate-retraining", "--plan"],
    ):
        code, out, err = renter.run(*command, "--target", "sky")
        assert code == 6 and says in err and "→" in err and "Traceback" not in err, out + err
        assert len(err.strip().splitlines()) == 2, err


def test_credentials_that_are_no_longer_good(slurm: Path, renter: User, cycle: list[str]) -> None:
    assert renter.json("quote", "--target", "sky"), "they were good"
    keys = slurm / "node/home/.ssh/authorized_keys"
    keys.rename(keys.with_name("revoked"))
    try:
        subprocess.run([SLURM, "disconnect"], check=True)
        code, out, err = renter.run(*cycle, "--target", "sky")
    finally:
        keys.with_name("revoked").rename(keys)
    assert code == 6 and "Failed to get partitions" in err and "credentials" in err, out + err
