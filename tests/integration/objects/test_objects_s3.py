"""What only buckets have: multipart transfers, credentials, permissions, the network."""

import os
import socket
import time
from pathlib import Path
from types import SimpleNamespace

import boto3
import pytest

from infra import objects
from infra.errors import ObjectAccessDenied, StorageFull
from infra.objects import bucket, check_writable, exists, get, put
from tests.helpers.s3_server import moto_server


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.write_text("weights")
    return path


def test_a_large_file_travels_in_parts(s3: str, s3_endpoint: str, tmp_path: Path) -> None:
    source = tmp_path / "large"
    source.write_bytes(os.urandom(1 << 20) * 40)
    artifact = put(source, f"{s3}/large")
    store, key = objects._locate(artifact.uri)
    part = next(iter(store.sizes(f"{key}/parts/")))
    name, _, key = part.partition("/")
    head = boto3.client("s3", endpoint_url=s3_endpoint).head_object(Bucket=name, Key=key)
    assert head["ETag"].endswith('-3"')  # 16 + 16 + 8 MiB
    assert get(artifact.uri, tmp_path / "copy").read_bytes() == source.read_bytes()


def test_more_files_than_one_request_can_list_or_delete(s3: str, tmp_path: Path) -> None:
    source = tmp_path / "many"
    source.mkdir()
    for n in range(1001):
        (source / str(n)).touch()
    artifact = put(source, f"{s3}/many")
    store, key = objects._locate(s3)
    assert len(store.sizes(key + "/")) == 1002
    objects.delete(artifact.uri)
    assert store.sizes(key + "/") == {}


def denied(root: str, source: Path, *names: str) -> None:
    """The probe, a write and a read all say what to change."""
    for attempt in (
        lambda: check_writable(root),
        lambda: put(source, f"{root}/x"),
        lambda: get(f"{root}/x", source.with_name("copy")),
    ):
        with pytest.raises(ObjectAccessDenied) as caught:
            attempt()
        assert os.environ.get("AWS_SECRET_ACCESS_KEY", "no key") not in str(caught.value)
        for name in ("NIGHTSHIFT_OBJECTS", "NIGHTSHIFT_S3_ENDPOINT_URL", "AWS_", *names):
            assert name in str(caught.value)


def test_a_missing_bucket_is_named(s3: str, source: Path) -> None:
    denied("s3://no-such-bucket", source, "no-such-bucket")


def test_no_credentials(
    s3: str, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    denied(s3, source, "credentials")


def test_wrong_and_insufficient_keys(
    aws: None, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three calls are free of checks, to set up; then the server checks keys and policies."""
    with moto_server(tmp_path / "log", INITIAL_NO_AUTH_ACTION_COUNT="3") as url:
        monkeypatch.setenv("NIGHTSHIFT_S3_ENDPOINT_URL", url)
        boto3.client("s3", endpoint_url=url).create_bucket(Bucket="locked")
        iam = boto3.client("iam", endpoint_url=url)
        iam.create_user(UserName="guest")
        key = iam.create_access_key(UserName="guest")["AccessKey"]
        denied("s3://locked", source, "InvalidAccessKeyId")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", key["AccessKeyId"])
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", key["SecretAccessKey"])
        bucket._client.cache_clear()
        denied("s3://locked", source, "AccessDenied")


def test_an_unreachable_endpoint_is_an_error_within_seconds(
    aws: None, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
    monkeypatch.setenv("NIGHTSHIFT_S3_ENDPOINT_URL", url)
    began = time.monotonic()
    with pytest.raises(ObjectAccessDenied, match="NIGHTSHIFT_S3_ENDPOINT_URL"):
        check_writable("s3://bucket")
    assert time.monotonic() - began < 20


def test_a_misspelt_endpoint(aws: None, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NIGHTSHIFT_S3_ENDPOINT_URL", "minio")
    denied("s3://bucket", source, "Invalid endpoint: minio")


def test_a_full_bucket(s3: str, source: Path) -> None:
    """moto has no quotas: the answer of a Ceph gateway over quota is put in its place."""
    client = bucket._client(os.environ["NIGHTSHIFT_S3_ENDPOINT_URL"])

    def over_quota(**_: object) -> tuple[SimpleNamespace, dict]:
        error = {"Code": "QuotaExceeded", "Message": "over quota"}
        return SimpleNamespace(status_code=403), {
            "Error": error,
            "ResponseMetadata": {"HTTPStatusCode": 403},
        }

    client.meta.events.register("before-call.s3.PutObject", over_quota)
    with pytest.raises(StorageFull, match="NIGHTSHIFT_OBJECTS"):
        put(source, f"{s3}/x")
    assert not exists(f"{s3}/x")
