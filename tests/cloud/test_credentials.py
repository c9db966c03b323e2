"""The command line on a real cluster, which rents nothing."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra import database as db
from infra import ledger
from tests.cloud.lab import SLURM, queue
from tests.helpers.users import User

pytestmark = pytest.mark.long
RUN = ["run", "surrogate-retraining"]


@pytest.fixture
def renter(pool: db.Pool, tmp_path: Path) -> Iterator[User]:
    """A user of the tests' SkyPilot."""
    user = User(tmp_path)
    user.settings = {k: v for k, v in os.environ.items() if k.startswith("NIGHTSHIFT_")}
    user.settings["NIGHTSHIFT_HOME"] = str(user.home)
    yield user
    assert queue() == [] and ledger.open_reservations(pool) == []


def test_a_plan_takes_the_cheaper_place(renter: User) -> None:
    plan = renter.json(*RUN, "--target", "sky", "--plan")
    rented = {step["launcher"] for step in plan["steps"]} - {"local"}
    assert rented == {"slurm/local/spot"}, "the data are read here, the rest is rented"


def test_credentials_that_are_no_longer_good(slurm: Path, renter: User) -> None:
    assert renter.json("quote", "--target", "sky"), "they were good"
    keys = slurm / "node/home/.ssh/authorized_keys"
    keys.rename(keys.with_name("revoked"))
    try:
        subprocess.run([SLURM, "disconnect"], check=True)
        code, out, err = renter.run(*RUN, "--target", "sky")
    finally:
        keys.with_name("revoked").rename(keys)
    assert code == 6 and "Failed to get partitions" in err and "credentials" in err, out + err
