"""Who may read what lies in the home folder."""

import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

import pytest
from pydantic import ValidationError

from deployments import cli
from infra import private
from infra.compute import node
from infra.contract import JobSpec
from infra.settings import Settings


@pytest.fixture(autouse=True)
def usual_umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def modes_of_what_is_made(home: Path) -> tuple[int, int, int]:
    (home / "jobs").mkdir()
    (home / "jobs" / "spec.json").touch()
    return mode(home), mode(home / "jobs"), mode(home / "jobs" / "spec.json")


def test_a_command_closes_the_home_folder_of_before_and_what_it_makes(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home.mkdir(mode=0o755)
    monkeypatch.setattr(sys, "argv", ["nightshift", "--version"])
    cli.main()
    assert modes_of_what_is_made(home) == (0o700, 0o700, 0o600)


def test_a_home_that_is_no_folder_is_left_as_it_is(tmp_path: Path) -> None:
    """As root, NIGHTSHIFT_HOME=/dev/null closed the device for every other user."""
    place = tmp_path / "null"
    place.touch(mode=0o666)
    place.chmod(0o666)
    private.close(place)
    assert mode(place) == 0o666


def test_a_node_closes_its_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = JobSpec(
        name="ppo.train", environment="train", config={}, output="s3://b/o", max_hours=1, key="k"
    )
    now = datetime.now(UTC)
    order = node.Order(
        spec=spec,
        id=1,
        expires_at=now,
        attempt=1,
        requested_at=now,
        package="jobs",
        sync_seconds=1,
        checkpoint_seconds=1,
        checkpoint_key="key",
    )
    monkeypatch.setenv("NIGHTSHIFT_ORDER", order.model_dump_json())
    monkeypatch.setenv("HOME", str(tmp_path))
    home = tmp_path / ".nightshift"
    home.mkdir(mode=0o755)
    monkeypatch.setattr(node, "run", lambda *_: 0)
    with pytest.raises(SystemExit):
        node.main()
    assert modes_of_what_is_made(home) == (0o700, 0o700, 0o600)


@pytest.mark.parametrize("url", ["http://minio:9000", "http://10.0.0.7"])
def test_an_object_store_without_tls_on_another_machine_must_be_wanted(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NIGHTSHIFT_S3_ENDPOINT_URL", url)
    with pytest.raises(ValidationError, match="NIGHTSHIFT_S3_PLAIN_HTTP"):
        Settings()
    monkeypatch.setenv("NIGHTSHIFT_S3_PLAIN_HTTP", "true")
    assert Settings().s3_endpoint_url == url


@pytest.mark.parametrize("url", ["https://minio:9000", "http://127.0.0.1:9", "http://localhost:9"])
def test_an_object_store_with_tls_or_on_this_machine_is_taken(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NIGHTSHIFT_S3_ENDPOINT_URL", url)
    assert Settings().s3_endpoint_url == url


def test_a_secret_is_made_once_whoever_asks_and_is_private(tmp_path: Path) -> None:
    numbers = count()
    with ThreadPoolExecutor(8) as askers:
        told = set(
            askers.map(
                lambda _: private.secret(tmp_path / "new" / "secret", lambda: f"{next(numbers)}"),
                range(32),
            )
        )
    assert len(told) == 1 and mode(tmp_path / "new" / "secret") == 0o600
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["secret"]
