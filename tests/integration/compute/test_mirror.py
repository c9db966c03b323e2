"""What a node stores of its job, and what the next node and everybody else find of it."""

import re
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from infra import objects
from infra.compute import node
from infra.compute.launcher import JobStatus
from infra.compute.mirror import Mirror, NodeMirror
from infra.errors import ObjectAccessDenied
from tests.helpers.launching import job

KEY = "of the job"


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
    first = NodeMirror(root, tmp_path / "one", 1, 0, KEY)
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

    second = NodeMirror(root, tmp_path / "two", 2, 0, KEY)
    second.restore()
    (found,) = (second.folder / "checkpoints").iterdir()
    assert found.name == "step-00000003" and (found / "model").read_text() == "weights 3"
    assert (second.folder / "log.txt").read_text() == "hello\n"


def test_a_checkpoint_that_no_node_of_the_job_has_signed_is_not_taken(
    root: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = NodeMirror(root, tmp_path / "one", 1, 0, KEY)
    checkpoint(first.folder, 1)
    first.push(status())
    other = NodeMirror(root, tmp_path / "other", 1, 0, "of another job")
    checkpoint(other.folder, 2, "poison")
    other.push(status())
    forged = tmp_path / "forged" / "checkpoints"
    checkpoint(tmp_path / "forged", 9, "poison")
    objects.put(forged / "step-00000009", f"{root}/node/checkpoints/step-00000009")

    second = NodeMirror(root, tmp_path / "two", 2, 0, KEY)
    second.restore()
    (found,) = (second.folder / "checkpoints").iterdir()
    assert (found / "model").read_text() == "weights 1"
    assert caplog.text.count("is not signed") == 2

    uri = f"{root}/node/checkpoints/step-00000001"
    objects.delete(uri)
    objects.put(forged / "step-00000009", uri)  # where another was signed
    third = NodeMirror(root, tmp_path / "three", 3, 0, KEY)
    third.restore()
    assert not (third.folder / "checkpoints").exists()


def test_checkpoints_keep_their_interval_and_the_last_is_stored_at_the_end(
    root: str, tmp_path: Path
) -> None:
    mirror = NodeMirror(root, tmp_path / "one", 1, 3600, KEY)
    mirror.restore()
    checkpoint(mirror.folder, 1)
    mirror.push(status())
    assert steps(root) == []
    checkpoint(mirror.folder, 2)
    mirror.push(status("continue"))
    assert steps(root) == [2]


def test_a_step_that_was_reached_on_another_way_is_replaced(root: str, tmp_path: Path) -> None:
    for attempt, text in ((1, "old"), (2, "new")):
        mirror = NodeMirror(root, tmp_path / text, attempt, 0, KEY)
        checkpoint(mirror.folder, 5, text)
        mirror.push(status())
    last = NodeMirror(root, tmp_path / "last", 3, 0, KEY)
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
    mirror = NodeMirror(root, tmp_path / "one", 1, 0, KEY)
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
    order = ordered(home, timedelta(minutes=-1), steps=2, seconds=0.01)
    assert node.run(order, home) == 0
    said = Mirror(order.spec.output).status(1)
    assert refused == ["succeeded"] * 2 and said and said.state == "succeeded"


def test_a_node_waits_for_its_bucket_before_its_job(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    restore, refused = NodeMirror.restore, []

    def trouble(self: NodeMirror) -> None:
        if len(refused) < 2:
            refused.append(1)
            raise ObjectAccessDenied("the bucket is away for a moment")
        restore(self)

    monkeypatch.setattr(NodeMirror, "restore", trouble)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    order = ordered(home, timedelta(minutes=-1), steps=2, seconds=0.01)
    assert node.run(order, home) == 0 and len(refused) == 2
    monkeypatch.setattr(node, "LAST_WORD_SECONDS", 0)
    refused.clear()
    with pytest.raises(ObjectAccessDenied):
        node.run(order, home)


def ordered(home: Path, requested: timedelta, **config: object) -> node.Order:
    """A job that was asked for so long from now, by the node's clock."""
    now = datetime.now(UTC)
    return node.Order(
        spec=job(home, **config),
        id=1,
        expires_at=now + timedelta(minutes=1),
        attempt=1,
        requested_at=now + requested,
        package="tests.programs",
        sync_seconds=0.05,
        checkpoint_seconds=60,
        checkpoint_key=KEY,
    )


@pytest.mark.parametrize("behind", [0.5, 2, 4.9])
def test_a_node_whose_clock_is_behind_does_its_job_and_is_paid_from_the_request_on(
    home: Path, monkeypatch: pytest.MonkeyPatch, behind: float
) -> None:
    monkeypatch.setattr("signal.signal", lambda *_: None)
    order = ordered(home, timedelta(minutes=behind), steps=2, seconds=0.01)
    assert node.run(order, home) == 0
    said = Mirror(order.spec.output).status(1)
    assert said and said.state == "succeeded" and said.started == order.requested_at


def test_a_node_whose_clock_is_far_behind_says_so_before_its_job(home: Path) -> None:
    order = ordered(home, timedelta(minutes=5.1), steps=2)
    assert node.run(order, home) == 1
    said = Mirror(order.spec.output).status(1)
    assert said and said.state == "failed" and said.result and said.result.error
    assert re.search(r"clock .* 5 minutes behind", said.result.error) and "NTP" in said.result.error
    assert not (home / "jobs").exists() or not list((home / "jobs").glob("*/attempts"))


def test_who_was_there_before_the_request_does_not_count() -> None:
    """A machine of Slurm, and what else our user runs there."""
    now = datetime.now(UTC)
    assert now - node.machine_since(now) < timedelta(seconds=1)
    assert node.machine_since(now - timedelta(days=9999)) < now
