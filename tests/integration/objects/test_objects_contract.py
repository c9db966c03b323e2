"""The contract of artefacts, the same for folders and for buckets on a real S3 server."""

import json
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from infra import objects
from infra.errors import IntegrityError, ObjectError, ObjectNotFound
from infra.objects import check_writable, delete, describe, exists, get, list_artifacts, put
from infra.objects.manifest import MANIFEST, PARTS, Manifest, scan

Tree = dict[str, "bytes | Tree"]
Alter = Callable[[bytes], bytes | None]

names = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="/\0"), min_size=1, max_size=40
).filter(lambda name: name not in (".", "..") and len(name.encode()) < 200)
trees = st.recursive(
    st.dictionaries(names, st.binary(max_size=300), max_size=4),
    lambda below: st.dictionaries(names, st.binary(max_size=300) | below, max_size=4),
    max_leaves=8,
)


def build(folder: Path, tree: Tree) -> Path:
    folder.mkdir()
    for name, child in tree.items():
        if isinstance(child, bytes):
            (folder / name).write_bytes(child)
        else:
            build(folder / name, child)
    return folder


def read(folder: Path) -> Tree:
    return {
        path.name: read(path) if path.is_dir() else path.read_bytes() for path in folder.iterdir()
    }


def stored(uri: str) -> dict[str, int]:
    """Every object at and below the URI, with its size."""
    store, key = objects._locate(uri)
    return store.sizes(key + "/")


def replace(uri: str, ending: str, alter: Alter) -> None:
    """Alter the object below `uri` whose key ends so, as a broken disk or a person would."""
    store, _ = objects._locate(uri)
    victim = next(found for found in stored(uri) if found.endswith(ending))
    data = alter(store.read(victim) or b"")
    store.remove([victim], below=victim)
    if data is not None:
        store.create(victim, data)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return build(tmp_path / "source", {"a": b"first", "folder": {"b": b"second"}, "empty": {}})


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(tree=trees)
def test_any_folder_comes_back_as_it_was(root: str, tmp_path: Path, tree: Tree) -> None:
    name = uuid.uuid4().hex
    folder = build(tmp_path / name, tree)
    artifact = put(folder, f"{root}/{name}")
    copy = get(artifact.uri, tmp_path / f"{name}-copy", artifact.sha256)
    assert read(copy) == tree
    assert describe(artifact.uri) == artifact
    assert artifact.bytes == sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())


@pytest.mark.parametrize("data", [b"", b"x", bytes(range(256)) * 5000], ids=len)
def test_a_file_comes_back_as_a_file(root: str, tmp_path: Path, data: bytes) -> None:
    (tmp_path / "file").write_bytes(data)
    artifact = put(tmp_path / "file", f"{root}/x")
    assert get(artifact.uri, tmp_path / "below/copy").read_bytes() == data
    assert artifact.bytes == len(data)


def test_an_artefact_is_stored_once_and_never_overwritten(
    root: str, tmp_path: Path, source: Path
) -> None:
    first = put(source, f"{root}/x")
    before = stored(root)
    assert put(source, f"{root}/x") == first
    (source / "a").write_bytes(b"other")
    with pytest.raises(IntegrityError, match="already there"):
        put(source, f"{root}/x")
    assert stored(root) == before
    assert (get(first.uri, tmp_path / "copy") / "a").read_bytes() == b"first"


def test_a_verified_copy_is_left_as_it_is(root: str, tmp_path: Path, source: Path) -> None:
    artifact = put(source, f"{root}/x")
    copy = get(artifact.uri, tmp_path / "copy")
    before = copy.stat().st_ino
    assert get(artifact.uri, copy).stat().st_ino == before
    delete(artifact.uri)
    assert get(artifact.uri, copy, artifact.sha256).stat().st_ino == before


def test_a_destination_with_something_else_is_not_touched(
    root: str, tmp_path: Path, source: Path
) -> None:
    uri = put(source, f"{root}/x").uri
    copy = get(uri, tmp_path / "copy")
    (copy / "a").write_bytes(b"mine now")
    with pytest.raises(IntegrityError, match="something other"):
        get(uri, copy)
    assert (copy / "a").read_bytes() == b"mine now"
    (tmp_path / "empty").mkdir()
    assert read(get(uri, tmp_path / "empty")) == read(source)


def test_an_artefact_other_than_the_expected_one_is_refused(
    root: str, tmp_path: Path, source: Path
) -> None:
    uri = put(source, f"{root}/x").uri
    with pytest.raises(IntegrityError, match="expected"):
        get(uri, tmp_path / "copy", "0" * 64)
    assert not (tmp_path / "copy").exists()


def flip(data: bytes) -> bytes:
    return bytes([data[0] ^ 1]) + data[1:]


def manifest_of_other_sizes(data: bytes) -> bytes:
    """A forged manifest, whole in itself, that does not fit the parts."""
    manifest = Manifest.model_validate_json(data)
    entries = [e.model_copy(update={"bytes": e.bytes + 1}) for e in manifest.content.files]
    return _forged(manifest, files=entries)


def manifest_of_other_hashes(data: bytes) -> bytes:
    manifest = Manifest.model_validate_json(data)
    entries = [e.model_copy(update={"sha256": "0" * 64}) for e in manifest.content.files]
    return _forged(manifest, files=entries)


def manifest_that_leaves(data: bytes) -> bytes:
    manifest = Manifest.model_validate_json(data)
    entries = [
        e.model_copy(update={"path": f"../../escaped-{n}"})
        for n, e in enumerate(manifest.content.files)
    ]
    return _forged(manifest, files=entries)


def _forged(manifest: Manifest, **change: object) -> bytes:
    content = manifest.content.model_copy(update=change)
    update = {"content": content, "sha256": content.sha256}
    return manifest.model_copy(update=update).model_dump_json().encode()


CORRUPTIONS: dict[str, tuple[str, Alter]] = {
    "part truncated": ("/1", lambda data: data[:-1]),
    "part emptied": ("/1", lambda _: b""),
    "part longer": ("/1", lambda data: data + b"x"),
    "part flipped": ("/1", flip),
    "part removed": ("/1", lambda _: None),
    "manifest truncated": (MANIFEST, lambda data: data[:-1]),
    "manifest emptied": (MANIFEST, lambda _: b""),
    "manifest no JSON": (MANIFEST, flip),
    "manifest renamed file": (MANIFEST, lambda data: data.replace(b'"a"', b'"c"')),
    "manifest other attempt": (
        MANIFEST,
        lambda data: json.dumps(json.loads(data) | {"attempt": "f" * 32}).encode(),
    ),
    "manifest other version": (
        MANIFEST,
        lambda data: json.dumps(json.loads(data) | {"version": 2}).encode(),
    ),
    "manifest other sizes": (MANIFEST, manifest_of_other_sizes),
    "manifest other hashes": (MANIFEST, manifest_of_other_hashes),
    "manifest that leaves": (MANIFEST, manifest_that_leaves),
}


@pytest.mark.parametrize("corruption", CORRUPTIONS)
def test_a_torn_or_altered_artefact_is_never_used(
    root: str, tmp_path: Path, source: Path, corruption: str
) -> None:
    uri = put(source, f"{root}/x").uri
    place = tmp_path / "place"
    place.mkdir()
    replace(uri, *CORRUPTIONS[corruption])
    with pytest.raises(IntegrityError) as caught:
        get(uri, place / "copy")
    assert caught.value.remedy
    assert list(place.iterdir()) == []
    assert not list(tmp_path.glob("escaped*"))
    delete(uri)
    put(source, uri)
    assert read(get(uri, place / "copy")) == read(source)


def test_what_is_not_there_is_not_found(root: str, tmp_path: Path, source: Path) -> None:
    put(source, f"{root}/x")
    for missing in (f"{root}/y", f"{root}/x/y", f"{root}/x/manifest.json/y"):
        assert not exists(missing)
        with pytest.raises(ObjectNotFound, match="NIGHTSHIFT_OBJECTS"):
            describe(missing)
        with pytest.raises(ObjectNotFound):
            get(missing, tmp_path / "copy")
    assert exists(f"{root}/x")
    assert not (tmp_path / "copy").exists()


def test_artefacts_are_listed_by_folder(root: str, tmp_path: Path) -> None:
    tricky = build(tmp_path / "tricky", {"manifest.json": b"{}", "parts": {"manifest.json": b"1"}})
    expected = [put(tricky, f"{root}/models/gears/{n}") for n in range(3)]
    put(tricky, f"{root}/models/gears-old/1")
    store, key = objects._locate(f"{root}/models/gears/unfinished")
    store.upload({f"{key}{PARTS}{'a' * 32}/0": tricky / "manifest.json"})
    assert list_artifacts(f"{root}/models/gears") == expected
    assert list_artifacts(expected[0].uri) == expected[:1]
    assert len(list_artifacts(root)) == 4
    assert list_artifacts(f"{root}/nothing") == []


def test_delete_takes_the_artefact_and_nothing_else(root: str, source: Path) -> None:
    uri = put(source, f"{root}/x").uri
    below = put(source, f"{root}/x/below")
    delete(uri)
    delete(uri)
    assert list_artifacts(root) == [below]
    delete(below.uri)
    assert stored(root) == {}
    assert exists(put(source, uri).uri)


def test_delete_takes_the_manifest_first(
    root: str, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = put(source, f"{root}/x").uri

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(objects, "_remove_parts", killed)
        with pytest.raises(KeyboardInterrupt):
            delete(uri)
    assert not exists(uri)
    delete(uri)
    assert stored(root) == {}


def test_a_source_that_changes_meanwhile_is_not_stored(
    root: str, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = type(objects._locate(root)[0])
    upload = kind.upload

    def upload_and_change(self: objects.Store, files: dict[str, Path]) -> None:
        upload(self, files)
        (source / "a").write_bytes(b"FIRST")

    monkeypatch.setattr(kind, "upload", upload_and_change)
    with pytest.raises(IntegrityError, match="changed"):
        put(source, f"{root}/x")
    assert stored(root) == {}


def test_a_commit_whose_answer_was_lost_counts(
    root: str, tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = type(objects._locate(root)[0])
    create = kind.create

    def create_and_break(self: objects.Store, key: str, data: bytes) -> None:
        create(self, key, data)
        raise ObjectError("connection lost")

    monkeypatch.setattr(kind, "create", create_and_break)
    artifact = put(source, f"{root}/x")
    assert scan(get(artifact.uri, tmp_path / "copy")).sha256 == artifact.sha256


def test_readers_of_one_destination_share_the_work(root: str, tmp_path: Path, source: Path) -> None:
    uri = put(source, f"{root}/x").uri
    with ThreadPoolExecutor(8) as pool:
        copies = list(pool.map(lambda _: get(uri, tmp_path / "place/copy"), range(8)))
    assert read(copies[0]) == read(source)
    assert [path.name for path in (tmp_path / "place").iterdir()] == ["copy"]


def test_what_a_killed_reader_left_is_removed(root: str, tmp_path: Path, source: Path) -> None:
    uri = put(source, f"{root}/x").uri
    (tmp_path / "place").mkdir()
    build(tmp_path / "place/.copy.partial", {"content": {"a": b"fir", "stale": b""}, "more": b""})
    assert read(get(uri, tmp_path / "place/copy")) == read(source)
    assert [path.name for path in (tmp_path / "place").iterdir()] == ["copy"]


def test_a_writable_root_is_left_as_it_was(root: str) -> None:
    check_writable(root)
    check_writable(f"{root}/deeper/still")
    assert stored(root) == {}
