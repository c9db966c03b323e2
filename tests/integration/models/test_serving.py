"""The folder target: a reader finds the old model or the new one, and never altered bytes."""

from pathlib import Path

import pytest

from infra.errors import IntegrityError, StorageFull
from infra.models.registry import ModelVersion
from infra.models.target import FolderTarget
from infra.objects import put


@pytest.fixture
def target(tmp_path: Path) -> FolderTarget:
    return FolderTarget(tmp_path / "serving")


def version(root: str, tmp_path: Path, number: int) -> ModelVersion:
    """A stored model folder whose bytes name its version."""
    source = tmp_path / f"source-{number}"
    source.mkdir()
    (source / "weights").write_text(f"weights of {number}")
    stored = put(source, f"{root}/models/{number}")
    return ModelVersion(
        kind="policy",
        model="words",
        version=str(number),
        uri=stored.uri,
        sha256=stored.sha256,
        base=stored.uri,
    )


def served(target: FolderTarget) -> str:
    return (target.folder / "words" / "champion" / "weights").read_text()


def test_the_newest_deployed_version_is_served(
    target: FolderTarget, root: str, tmp_path: Path
) -> None:
    first, second = (version(root, tmp_path, number) for number in (1, 2))
    place = target.deploy(first)
    assert place == str(target.folder / "words" / "champion")
    assert served(target) == "weights of 1"
    for again in (second, second):
        assert target.deploy(again) == place
        assert served(target) == "weights of 2"
    assert (target.folder / "words" / "1" / "weights").read_text() == "weights of 1"
    assert target.deploy(first) == place and served(target) == "weights of 1"
    assert sorted(path.name for path in (target.folder / "words").iterdir()) == [
        "1", "2", "champion",
    ]  # fmt: skip


def test_a_copy_that_was_altered_is_made_anew(
    target: FolderTarget, root: str, tmp_path: Path
) -> None:
    first = version(root, tmp_path, 1)
    target.deploy(first)
    (target.folder / "words" / "1" / "weights").write_text("altered")
    (target.folder / "words" / "1" / "more").write_text("added")
    target.deploy(first)
    assert served(target) == "weights of 1"
    assert not (target.folder / "words" / "1" / "more").exists()


def test_another_artefact_than_was_promoted_is_not_served(
    target: FolderTarget, root: str, tmp_path: Path
) -> None:
    first, second = (version(root, tmp_path, number) for number in (1, 2))
    target.deploy(first)
    with pytest.raises(IntegrityError):
        target.deploy(second.model_copy(update={"sha256": first.sha256}))
    assert served(target) == "weights of 1"
    assert sorted(path.name for path in (target.folder / "words").iterdir()) == ["1", "champion"]


def test_a_folder_that_cannot_be_written_names_its_setting(root: str, tmp_path: Path) -> None:
    (tmp_path / "a-file").write_text("")
    with pytest.raises(StorageFull, match="NIGHTSHIFT_SERVING_FOLDER"):
        FolderTarget(tmp_path / "a-file").deploy(version(root, tmp_path, 1))


def test_a_full_serving_disk_names_its_setting(small_disk: Path, root: str, tmp_path: Path) -> None:
    first, second = (version(root, tmp_path, number) for number in (1, 2))
    target = FolderTarget(small_disk)
    target.deploy(first)
    (tmp_path / "source-3").mkdir()
    (tmp_path / "source-3" / "weights").write_bytes(bytes(12 << 20))
    stored = put(tmp_path / "source-3", f"{root}/models/3")
    large = second.model_copy(update={"version": "3", "uri": stored.uri, "sha256": stored.sha256})
    with pytest.raises(StorageFull, match="NIGHTSHIFT_SERVING_FOLDER"):
        target.deploy(large)
    assert served(target) == "weights of 1"
    target.deploy(second)
    assert served(target) == "weights of 2", "what was partly written is removed"
