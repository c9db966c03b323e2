"""Object stores for tests: local folders, and buckets of a server started once a session; and
a purse whose jobs are the test programs."""

import uuid
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import boto3
import pytest

from infra import database as db
from infra.objects import bucket
from infra.records import runs
from infra.settings import settings
from tasks.runs import offers
from tasks.runs.purse import Purse, fill
from tests.helpers.launching import launcher
from tests.helpers.s3_server import moto_server

CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "secret-of-the-tests",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
    "NO_PROXY": "127.0.0.1",
}


@pytest.fixture(scope="session")
def s3_endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with moto_server(tmp_path_factory.mktemp("moto") / "log") as url:
        yield url


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Credentials in the environment, and no client of another test's environment."""
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    bucket._client.cache_clear()
    yield
    bucket._client.cache_clear()


@pytest.fixture
def s3(s3_endpoint: str, aws: None, monkeypatch: pytest.MonkeyPatch) -> str:
    """The root URI of an empty bucket."""
    monkeypatch.setenv("NIGHTSHIFT_S3_ENDPOINT_URL", s3_endpoint)
    name = f"bucket-{uuid.uuid4().hex}"
    boto3.client("s3", endpoint_url=s3_endpoint).create_bucket(Bucket=name)
    return f"s3://{name}"


@pytest.fixture(params=["file", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The root URI of an empty object store: each test runs on a folder and on a bucket."""
    if request.param == "s3":
        return request.getfixturevalue("s3")
    return (tmp_path / "objects").as_uri()


@pytest.fixture
def purse(database: db.Pool, home: Path, monkeypatch: pytest.MonkeyPatch) -> Purse:
    """A dollar for one run on a machine of 36 dollars an hour: a cent a second."""
    monkeypatch.setenv("NIGHTSHIFT_LOCAL_USD_PER_HOUR", "36")
    monkeypatch.setenv("NIGHTSHIFT_STOP_GRACE_SECONDS", "1")
    monkeypatch.setenv("NIGHTSHIFT_POLL_SECONDS", "0.05")
    settings.cache_clear()
    monkeypatch.setattr(offers, "launchers", lambda _target: {"local": launcher(home)})
    run = runs.begin(database, "test-flow", {})
    return fill(Purse(database, run, "local"), Decimal(1))
