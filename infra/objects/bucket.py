"""Objects in an S3 bucket, through boto3. Imported only where a URI begins with s3://."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import boto3
from boto3.s3.transfer import TransferConfig, create_transfer_manager
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from s3transfer.exceptions import RetriesExceededError

from infra.errors import IntegrityError, ObjectAccessDenied, ObjectError, StorageFull
from infra.objects.local import THREADS, disk_errors
from infra.objects.manifest import UNUSABLE

TRANSFER = TransferConfig(
    multipart_threshold=16 << 20,
    multipart_chunksize=16 << 20,
    max_concurrency=THREADS,
    preferred_transfer_client="classic",
)
CONNECTION = Config(
    connect_timeout=3,  # with four attempts, an unreachable endpoint is an error in 20 s
    read_timeout=30,
    retries={"mode": "standard", "total_max_attempts": 4},
    max_pool_connections=2 * THREADS,
    # Every byte is compared with the manifest's sha256; without a CRC too, s3transfer saves a HEAD.
    response_checksum_validation="when_required",
)
COMMIT_ATTEMPTS = 10

_REMEDY = (
    "See NIGHTSHIFT_OBJECTS (bucket), NIGHTSHIFT_S3_ENDPOINT_URL (server) and the credentials "
    "(AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY or AWS_PROFILE, and AWS_DEFAULT_REGION)."
)


class BucketStore:
    """The `s3://` side of `infra.objects.Store`: a key begins with the bucket's name."""

    def __init__(self, bucket: str) -> None:
        self._bucket = bucket
        with self._errors():
            self._client = _client(os.environ.get("NIGHTSHIFT_S3_ENDPOINT_URL") or None)

    def uri(self, key: str) -> str:
        return f"s3://{key}"

    def read(self, key: str) -> bytes | None:
        with self._errors():
            try:
                return self._client.get_object(Bucket=self._bucket, Key=self._name(key))[
                    "Body"
                ].read()
            except self._client.exceptions.NoSuchKey:
                return None

    def create(self, key: str, data: bytes) -> None:
        with self._errors():
            for attempt in range(COMMIT_ATTEMPTS):
                try:
                    self._client.put_object(
                        Bucket=self._bucket, Key=self._name(key), Body=data, IfNoneMatch="*"
                    )
                    return
                except ClientError as error:
                    # 412: it is there. 409: another conditional write is under way, ask again.
                    status = error.response["ResponseMetadata"]["HTTPStatusCode"]
                    if status == 412:
                        return
                    if status != 409 or attempt == COMMIT_ATTEMPTS - 1:
                        raise
                    time.sleep(0.1 * attempt)

    def upload(self, files: dict[str, Path]) -> None:
        with self._transfers() as transfers:
            for sent in [
                transfers.upload(str(path), self._bucket, self._name(key))
                for key, path in files.items()
            ]:
                sent.result()

    def download(self, files: dict[str, Path]) -> None:
        with self._transfers() as transfers:
            for received in [
                transfers.download(self._bucket, self._name(key), str(path))
                for key, path in files.items()
            ]:
                received.result()

    def sizes(self, prefix: str) -> dict[str, int]:
        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=self._bucket, Prefix=self._name(prefix)
        )
        with self._errors():
            return {
                f"{self._bucket}/{found['Key']}": found["Size"]
                for page in pages
                for found in page.get("Contents", [])
            }

    def remove(self, keys: list[str], below: str) -> None:  # noqa: ARG002 - S3 has no folders
        with self._errors():
            for begin in range(0, len(keys), 1000):  # the most that one request takes
                names = [{"Key": self._name(key)} for key in keys[begin : begin + 1000]]
                answer = self._client.delete_objects(
                    Bucket=self._bucket, Delete={"Objects": names, "Quiet": True}
                )
                for error in answer.get("Errors", []):
                    raise ClientError({"Error": error}, "DeleteObjects")

    def _name(self, key: str) -> str:
        return key.removeprefix(f"{self._bucket}/")

    @contextmanager
    def _transfers(self) -> Iterator[Any]:
        """Parallel over files and over the parts of each; the first error cancels the rest."""
        with (
            disk_errors(),
            self._errors(),
            create_transfer_manager(self._client, TRANSFER) as transfers,
        ):
            yield transfers

    @contextmanager
    def _errors(self) -> Iterator[None]:
        where = f"s3://{self._bucket}"
        try:
            yield
        except ClientError as error:
            raise _explain(where, error) from error
        except (BotoCoreError, RetriesExceededError, ValueError) as error:
            # no credentials, an unreachable or misspelt endpoint, a connection that broke
            raise ObjectAccessDenied(f"{where} cannot be used: {error}", _REMEDY) from error


def _explain(where: str, error: ClientError) -> ObjectError:
    code = error.response.get("Error", {}).get("Code", "")
    if code in ("NoSuchKey", "InvalidRange", "PreconditionFailed"):
        return IntegrityError(f"{where}: a part vanished or changed meanwhile: {error}", UNUSABLE)
    if "Quota" in code or "StorageFull" in code:
        return StorageFull(
            f"{where} has no room: {error}",
            "Raise the bucket's quota or free space in it, or name another in NIGHTSHIFT_OBJECTS.",
        )
    return ObjectAccessDenied(f"{where} cannot be used: {error}", _REMEDY)


@cache
def _client(endpoint_url: str | None) -> Any:
    """Threads share a client; processes must not, so a fork makes its own."""
    return boto3.Session().client("s3", endpoint_url=endpoint_url, config=CONNECTION)


os.register_at_fork(after_in_child=_client.cache_clear)
