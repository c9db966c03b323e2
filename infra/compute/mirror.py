"""What is seen of a job that runs on a node elsewhere: its state, log, progress and checkpoints.

The node writes them below OUTPUT/node in the object store, and whoever asks reads them there, so
that neither a lost connection nor the end of the machine loses them:

    node/<attempt>/status.json      JobStatus, renewed every few seconds: the job's heartbeat
    node/<attempt>/stop             somebody wants the job to checkpoint and end
    node/log.txt, progress.jsonl    of all attempts
    node/checkpoints/step-N         the newest two, as artefacts
    node/signatures/step-N          of each, by a key that is in no bucket

A checkpoint decides what the next node computes. So it takes none but those that a node of the same
job has signed. All else here is only told: whoever may write to the bucket can forge it.
"""

import hmac
import logging
import shutil
import tempfile
import time
from pathlib import Path

from pydantic import ValidationError

from infra import objects
from infra.compute.launcher import JobStatus, parse_progress
from infra.contract import Artifact, Progress
from infra.errors import IntegrityError, ObjectError

log = logging.getLogger("nightshift")

FILES = ("log.txt", "progress.jsonl")
KEPT_CHECKPOINTS = 2


class Mirror:
    """Both sides of one job's mirror; `output` is the URI of the job's artefacts."""

    def __init__(self, output: str) -> None:
        self.uri = f"{output}/node"

    def status(self, attempt: int) -> JobStatus | None:
        """What the node last said of itself."""
        said = objects.read(f"{self.uri}/{attempt}/status.json")
        try:
            return JobStatus.model_validate_json(said) if said else None
        except ValidationError:  # torn by the end of the machine
            return None

    def log(self) -> str:
        return (objects.read(f"{self.uri}/log.txt") or b"").decode(errors="replace")

    def progress(self) -> list[Progress]:
        return parse_progress(objects.read(f"{self.uri}/progress.jsonl") or b"")

    def ask_to_stop(self, attempt: int) -> None:
        self._write(f"{attempt}/stop", "stop")

    def stop_asked(self, attempt: int) -> bool:
        return objects.read(f"{self.uri}/{attempt}/stop") is not None

    def _write(self, name: str, text: str) -> None:
        with tempfile.NamedTemporaryFile("w") as stream:
            stream.write(text)
            stream.flush()
            objects.overwrite(Path(stream.name), f"{self.uri}/{name}")


class NodeMirror(Mirror):
    """The node's side: it fills the job's `folder` at first, then copies what is new in it."""

    def __init__(
        self, output: str, folder: Path, attempt: int, checkpoint_seconds: float, key: str
    ) -> None:
        super().__init__(output)
        self.folder = folder
        self.key = key.encode()
        self.attempt = attempt
        self.checkpoint_seconds = checkpoint_seconds
        self.checkpointed = time.monotonic()
        self.sent: dict[str, tuple[int, int]] = {}

    def restore(self) -> None:
        """Fetch what earlier attempts left: the job goes on from its last checkpoint."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for name in FILES:
            if (before := objects.read(f"{self.uri}/{name}")) is not None:
                (self.folder / name).write_bytes(before)
        for stored in reversed(objects.list_artifacts(f"{self.uri}/checkpoints")):
            step = stored.uri.rpartition("/")[2]
            said = objects.read(f"{self.uri}/signatures/{step}") or b""
            if hmac.compare_digest(said, self._signature(stored)):
                objects.get(stored.uri, self.folder / "checkpoints" / step, stored.sha256)
                return
            log.warning("%s is not signed by a node of this job, and is left alone", stored.uri)

    def push(self, status: JobStatus) -> None:
        """Copy what changed; checkpoints at their own pace, and at once when the job has ended."""
        ended = status.state != "running"
        self._push_files()
        if ended or time.monotonic() - self.checkpointed >= self.checkpoint_seconds:
            self.checkpointed = time.monotonic()
            if status.state != "succeeded":
                self._push_checkpoint()
        self._write(f"{self.attempt}/status.json", status.model_dump_json())

    def _push_files(self) -> None:
        for name in FILES:
            path = self.folder / name
            if not path.exists():
                continue
            state = (path.stat().st_size, path.stat().st_mtime_ns)
            if self.sent.get(name) != state:
                with tempfile.NamedTemporaryFile() as still:  # the job goes on writing
                    shutil.copyfile(path, still.name)
                    objects.overwrite(Path(still.name), f"{self.uri}/{name}")
                self.sent[name] = state

    def _push_checkpoint(self) -> None:
        """Store the newest whole checkpoint, from hard links, since the job removes old ones."""
        found = sorted((self.folder / "checkpoints").glob("step-*"))
        if not found or self.sent.get("checkpoint") == (0, int(found[-1].name[5:])):
            return
        still = self.folder / "uploading"
        shutil.rmtree(still, ignore_errors=True)
        try:
            shutil.copytree(found[-1], still, copy_function=_link)
        except (FileNotFoundError, shutil.Error):  # removed meanwhile: there is a newer one
            return
        uri = f"{self.uri}/checkpoints/{found[-1].name}"
        try:
            stored = objects.put(still, uri)
        except IntegrityError:  # an earlier attempt reached this step on another way
            objects.delete(uri)
            stored = objects.put(still, uri)
        self._write(f"signatures/{found[-1].name}", self._signature(stored).decode())
        self.sent["checkpoint"] = (0, int(found[-1].name[5:]))
        for old in objects.list_artifacts(f"{self.uri}/checkpoints")[:-KEPT_CHECKPOINTS]:
            try:
                objects.delete(old.uri)
            except ObjectError:  # it is only space
                continue

    def _signature(self, checkpoint: Artifact) -> bytes:
        """Of its place and its content; hexadecimal digits."""
        said = f"{checkpoint.uri} {checkpoint.sha256}".encode()
        return hmac.digest(self.key, said, "sha256").hex().encode()


def _link(source: str, target: str) -> None:
    Path(target).hardlink_to(source)
