"""Storage that fails: a disk that gets full in the night, buckets that deny."""

import json
import time
from decimal import Decimal
from pathlib import Path

import boto3
import pytest

from tests.integration.s3_server import moto_server
from tests.launching import fill_disk

pytestmark = pytest.mark.timeout(900)

READ_ONLY = {
    "Version": "2012-10-17",
    "Statement": {
        "Effect": "Allow",
        "Action": ["s3:GetObject", "s3:ListBucket"],
        "Resource": "*",
    },
}


def assert_nothing_is_left(user) -> None:
    """No process, and no dollar that is still reserved."""
    user.wait_until_nothing_runs()
    assert all(Decimal(budget["reserved"]) == 0 for budget in user.json("budget", "show"))


def test_a_disk_that_gets_full_in_training(user, cycle, small_disk: Path) -> None:
    user.settings["NIGHTSHIFT_OBJECTS"] = small_disk.as_uri()
    process = user.start(*cycle)
    deadline = time.monotonic() + 120
    while not list(user.home.glob("jobs/*train*/checkpoints/step-*")):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    ballast = fill_disk(small_disk)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 5, out + err
    assert "NIGHTSHIFT_OBJECTS" in err and err.count("→") == 1 and "Traceback" not in err, err
    assert_nothing_is_left(user)

    ballast.unlink()
    report = user.json(*cycle)
    assert report["resumed"] and report["candidate"] == "2"
    jobs = user.json("jobs", "list")
    assert len(jobs) == 4 and {job["state"] for job in jobs} == {"succeeded"}
    (result,) = user.home.glob("jobs/*train*/result.json")
    assert json.loads(result.read_text())["resumed_from"] >= 1, "training went on"
    project = next(b for b in user.json("budget", "show") if b["scope"] == "project")
    assert Decimal(project["charged"]) == sum(Decimal(job["usd"]) for job in jobs)
    user.wait_until_nothing_runs()


def test_a_disk_that_is_full_at_once(user, cycle, small_disk: Path) -> None:
    user.settings["NIGHTSHIFT_OBJECTS"] = small_disk.as_uri()
    fill_disk(small_disk)
    code, out, err = user.run(*cycle)
    assert code == 5, out + err
    assert "NIGHTSHIFT_OBJECTS" in err and err.count("→") == 1 and "Traceback" not in err, err
    assert user.json("jobs", "list") == []
    assert_nothing_is_left(user)


@pytest.fixture
def denying(user, tmp_path: Path):
    """A server whose bucket `locked` a guest may read and not write; the user is that guest."""
    with moto_server(tmp_path / "log", INITIAL_NO_AUTH_ACTION_COUNT="4") as url:
        keys = {"aws_access_key_id": "a", "aws_secret_access_key": "b", "region_name": "us-east-1"}
        boto3.client("s3", endpoint_url=url, **keys).create_bucket(Bucket="locked")
        iam = boto3.client("iam", endpoint_url=url, **keys)
        iam.create_user(UserName="guest")
        iam.put_user_policy(
            UserName="guest", PolicyName="read", PolicyDocument=json.dumps(READ_ONLY)
        )
        key = iam.create_access_key(UserName="guest")["AccessKey"]
        user.settings |= {
            "NIGHTSHIFT_OBJECTS": "s3://locked/nights",
            "NIGHTSHIFT_S3_ENDPOINT_URL": url,
            "AWS_ACCESS_KEY_ID": key["AccessKeyId"],
            "AWS_SECRET_ACCESS_KEY": key["SecretAccessKey"],
            "AWS_DEFAULT_REGION": "us-east-1",
            "NO_PROXY": "127.0.0.1",
        }
        yield user


def test_a_bucket_that_denies_costs_nothing(denying, cycle) -> None:
    user = denying
    for setting, command in [
        ({}, cycle),
        ({}, ["run", "nightly-ppo", "--preset", "demo"]),
        ({"NIGHTSHIFT_OBJECTS": "s3://no-such-bucket"}, cycle),
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, cycle),
    ]:
        before = dict(user.settings)
        user.settings |= setting
        code, out, err = user.run(*command)
        assert code == 5, out + err
        assert "NIGHTSHIFT_OBJECTS" in err and err.count("→") == 1 and "Traceback" not in err, err
        assert before["AWS_SECRET_ACCESS_KEY"] not in out + err
        assert user.json("jobs", "list") == [], "nothing was launched"
        user.settings = before
    assert {budget["charged"] for budget in user.json("budget", "show")} == {"0.0000"}
    assert_nothing_is_left(user)
