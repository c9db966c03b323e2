"""What a node does about its machine when its job has ended."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from infra.compute import node
from infra.contract import JobSpec


def order() -> str:
    spec = JobSpec(
        name="basic.steps", environment="node", config={}, output="s3://b/o", max_hours=1, key="k"
    )
    now = datetime.now(UTC)
    return node.Order(
        spec=spec,
        id=1,
        expires_at=now + timedelta(hours=1),
        attempt=1,
        requested_at=now,
        package="tests.programs",
        sync_seconds=1,
        checkpoint_seconds=1,
        checkpoint_key="key",
    ).model_dump_json()


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch) -> None:
    """The home folder of these tests is nobody's to close, nor is their umask."""
    monkeypatch.setattr(node.private, "close", lambda _home: None)


@pytest.mark.parametrize("ends", [0, 3, OSError("the disk is full")])
def test_the_fuse_is_lit_however_the_job_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ends: int | OSError
) -> None:
    lit = tmp_path / "lit"
    monkeypatch.setenv("NIGHTSHIFT_ORDER", order())
    monkeypatch.setenv("NIGHTSHIFT_FUSE", f"echo lit > {lit}")

    def run(_order: node.Order, _home: Path) -> int:
        assert not lit.exists() and "NIGHTSHIFT_FUSE" not in os.environ
        if isinstance(ends, OSError):
            raise ends
        return ends

    monkeypatch.setattr(node, "run", run)
    with pytest.raises(OSError if isinstance(ends, OSError) else SystemExit) as ended:
        node.main()
    assert lit.read_text() == "lit\n"
    if isinstance(ended.value, SystemExit):
        assert ended.value.code == ends


def test_a_fuse_that_cannot_be_lit_changes_no_exit_code(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("NIGHTSHIFT_ORDER", order())
    monkeypatch.setenv("NIGHTSHIFT_FUSE", "exit 9")
    monkeypatch.setattr(node, "run", lambda *_: 0)
    with pytest.raises(SystemExit) as ended:
        node.main()
    assert ended.value.code == 0 and "fuse cannot be lit" in caplog.text
