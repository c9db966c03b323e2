"""What a node stores of its job, and what the next node and everybody else find of it."""

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from infra import objects
from infra.compute import node
from infra.compute.launcher import JobStatus
from infra.compute.mirror import Mirror, NodeMirror
from infra.errors import ObjectAccessDenied
from tests.launching import job


def status(state: str = "running") -> JobStatus:
    now = datetime.now(UTC)
    return JobStatus.model_validate({"state": state, "started": now, "seen": now})


def checkpoint(folder: Path, step: int, text: str = "weights") -> None:
    place = folder / "checkpoints" / f"step-{step:08d}"
    place.mkdir(parents=True)
    (place / "model").write_text(f"{text} {step}")


def steps(output: str) -> list[int]:
    return [int(one.uri[-8:]) for one in objects.list_artifacts(f"{output}/node/checkpoints")]


def test_the_next_node_finds_log_progress_and_the_newest_checkpoint(
    root: str, tmp_path: Path
) -> None:
    first = NodeMirror(root, tmp_path / "one", 1, checkpoint_seconds=0)
    first.restore()
    line = '{"step":3,"total":9,"time":1.0}\n'
    (first.folder / "log.txt").write_text("hello\n")
    (first.folder / "progress.jsonl").write_text(line + '{"step":4,')
    for step in (1, 2, 3):
        checkpoint(first.folder, step)
        first.push(status())
    assert steps(root) == [2, 3]
    seen = Mirror(root)
    assert seen.log() == "hello\n" and [one.step for one in seen.progress()] == [3]
    assert seen.status(1) and seen.status(2) is None

    second = NodeMirror(root, tmp_path / "two", 2, checkpoint_seconds=0)
    second.restore()
    (found,) = (second.folder / "checkpoints").iterdir()
    assert found.name == "step-00000003" and (found / "model").read_text() == "weights 3"
    assert (second.folder / "log.txt").read_text() == "hello\n"


def test_checkpoints_keep_their_interval_and_the_last_is_stored_at_the_end(
    root: str, tmp_path: Path
) -> None:
    mirror = NodeMirror(root, tmp_path / "one", 1, checkpoint_seconds=3600)
    mirror.restore()
    checkpoint(mirror.folder, 1)
    mirror.push(status())
    assert steps(root) == []
    checkpoint(mirror.folder, 2)
    mirror.push(status("continue"))
    assert steps(root) == [2]


def test_a_step_that_was_reached_on_another_way_is_replaced(root: str, tmp_path: Path) -> None:
    for attempt, text in ((1, "old"), (2, "new")):
        mirror = NodeMirror(root, tmp_path / text, attempt, checkpoint_seconds=0)
        checkpoint(mirror.folder, 5, text)
        mirror.push(status())
    last = NodeMirror(root, tmp_path / "last", 3, checkpoint_seconds=0)
    last.restore()
    assert (last.folder / "checkpoints/step-00000005/model").read_text() == "new 5"


def test_a_wish_to_stop_reaches_the_attempt_that_it_is_for(root: str) -> None:
    mirror = Mirror(root)
    mirror.ask_to_stop(2)
    assert mirror.stop_asked(2) and not mirror.stop_asked(1)


@pytest.mark.parametrize("torn", [b"", b'{"state":"run'])
def test_a_torn_status_is_none(root: str, tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "torn"
    path.write_bytes(torn)
    objects.overwrite(path, f"{root}/node/1/status.json")
    assert Mirror(root).status(1) is None


def test_a_checkpoint_that_is_removed_while_it_is_stored_is_left_out(
    root: str, tmp_path: Path
) -> None:
    mirror = NodeMirror(root, tmp_path / "one", 1, checkpoint_seconds=0)
    checkpoint(mirror.folder, 1)
    (mirror.folder / "checkpoints" / "step-00000002").symlink_to(tmp_path / "gone")
    mirror.push(status())
    time.sleep(0)
    assert steps(root) in ([], [1])


def test_a_node_tells_how_its_job_ended_until_it_is_heard(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    push, refused = NodeMirror.push, []

    def trouble(self: NodeMirror, status: JobStatus) -> None:
        if status.state != "running" and len(refused) < 2:
            refused.append(status.state)
            raise ObjectAccessDenied("the bucket is away for a moment")
        push(self, status)

    monkeypatch.setattr(NodeMirror, "push", trouble)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    now = datetime.now(UTC)
    order = node.Order(
        spec=job(home, steps=2, seconds=0.01),
        id=1,
        expires_at=now + timedelta(minutes=1),
        attempt=1,
        requested_at=now - timedelta(minutes=1),
        package="tests.programs",
        sync_seconds=0.05,
        checkpoint_seconds=60,
    )
    assert node.run(order, home) == 0
    said = Mirror(order.spec.output).status(1)
    assert refused == ["succeeded"] * 2 and said and said.state == "succeeded"
