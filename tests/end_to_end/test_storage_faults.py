"""Storage that fails: a disk that gets full in the night, buckets that deny."""

import json
import time
from decimal import Decimal
from pathlib import Path

import boto3
import pytest

from tests.helpers.launching import alive, fill_disk
from tests.helpers.s3_server import moto_server

pytestmark = pytest.mark.timeout(900)

READ_ONLY = {
    "Version": "2012-10-17",
    "Statement": {
        "Effect": "Allow",
        "Action": ["s3:GetObject", "s3:ListBucket"],
        "Resource": "*",
    },
}


def refused(process) -> str:
    """One clear error that names the setting, and exit code 5; what was said of it."""
    out, err = process.communicate(timeout=200)
    assert process.returncode == 5, out + err
    assert "NIGHTSHIFT_OBJECTS" in err and err.count("→") == 1 and "Traceback" not in err, err
    return out + err


@pytest.mark.long
def test_a_disk_that_is_full_at_once_and_in_training(user, cycle, small_disk: Path) -> None:
    user.settings["NIGHTSHIFT_OBJECTS"] = small_disk.as_uri()
    ballast = fill_disk(small_disk)
    refused(user.start(*cycle))
    assert user.json("jobs", "list") == [], "nothing was launched"
    ballast.unlink()

    night = user.start(*cycle)
    deadline = time.monotonic() + 120
    while not list(user.home.glob("jobs/*train*/checkpoints/step-*")):
        assert time.monotonic() < deadline and night.poll() is None
        time.sleep(0.05)
    ballast = fill_disk(small_disk)
    refused(night)
    assert alive(user.home) == []
    assert all(Decimal(budget["reserved"]) == 0 for budget in user.json("budget", "show"))
    ballast.unlink()

    report = user.json(*cycle)
    assert report["resumed"] and report["candidate"] == "2"
    jobs = user.json("jobs", "list")
    assert len(jobs) == 4 and {job["state"] for job in jobs} == {"succeeded"}
    (result,) = user.home.glob("jobs/*train*/result.json")
    assert json.loads(result.read_text())["resumed_from"] >= 1, "training went on"
    project = next(b for b in user.json("budget", "show") if b["scope"] == "project")
    assert Decimal(project["charged"]) == sum(Decimal(job["usd"]) for job in jobs)


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
    given = user.settings
    demo = "run nightly-ppo --preset demo".split()
    for setting, command in [
        ({}, cycle),
        ({}, demo),
        ({"NIGHTSHIFT_OBJECTS": "s3://no-such-bucket"}, demo),
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, demo),
    ]:
        user.settings = given | setting
        said = refused(user.start(*command))
        assert given["AWS_SECRET_ACCESS_KEY"] not in said
    assert user.json("jobs", "list") == [], "nothing was launched"
    for budget in user.json("budget", "show"):
        assert Decimal(budget["charged"]) == Decimal(budget["reserved"]) == 0
