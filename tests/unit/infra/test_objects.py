"""Artefacts in local folders: what may be stored, and what a URI means."""

import os
import socket
from pathlib import Path

import pytest

from infra import objects
from infra.errors import InputError, IntegrityError, ObjectAccessDenied, ObjectError
from infra.objects import check_writable, describe, get, put
from infra.objects.folder import FolderStore
from infra.objects.manifest import Content, Entry, Manifest, parse, scan

HASH = "0" * 64


def content(*paths: str, folders: tuple[str, ...] = ()) -> Content:
    return Content(
        files=[Entry(path=path, bytes=0, sha256=HASH) for path in paths], folders=list(folders)
    )


@pytest.mark.parametrize(
    "paths",
    [
        ["../out"],
        ["a/../../out"],
        ["/etc/passwd"],
        [".."],
        ["a\0b"],
        ["a", "a"],
        ["a", "a/b"],
        ["", "b"],
    ],
)
def test_paths_that_leave_the_destination_or_collide_are_refused(paths: list[str]) -> None:
    with pytest.raises(ValueError, match="path"):
        content(*paths)


def test_a_folder_outside_is_refused() -> None:
    with pytest.raises(ValueError, match="path"):
        content("a", folders=("../out",))


def test_a_manifest_with_a_path_outside_is_an_integrity_error() -> None:
    good = Manifest(attempt="a" * 32, sha256=content("inside").sha256, content=content("inside"))
    assert parse(good.model_dump_json().encode(), "u") == good
    with pytest.raises(IntegrityError, match="no relative path"):
        parse(good.model_dump_json().replace("inside", "../out").encode(), "u")


def test_the_checksum_depends_on_names_and_contents_alone(tmp_path: Path) -> None:
    for name, order in (("one", "abc"), ("two", "cba")):
        (tmp_path / name).mkdir()
        for child in order:
            (tmp_path / name / child).write_text(child)
    (tmp_path / "two" / "a").chmod(0o700)
    first = put(tmp_path / "one", (tmp_path / "store/1").as_uri())
    assert first.sha256 == put(tmp_path / "two", (tmp_path / "store/2").as_uri()).sha256
    assert first.bytes == 3
    (tmp_path / "two" / "a").rename(tmp_path / "two" / "d")
    assert first.sha256 != scan(tmp_path / "two").sha256


def test_links_are_followed_inside_of_a_folder_and_of_a_cache_of_hugging_face(
    tmp_path: Path,
) -> None:
    blobs = tmp_path / "blobs"
    blobs.mkdir()
    (blobs / "1").write_text("weights")
    snapshot = tmp_path / "snapshots" / "0a1b"
    (snapshot / "inside").mkdir(parents=True)
    (snapshot / "model").symlink_to("../../blobs/1")
    (snapshot / "inside" / "same").symlink_to("../model")
    (snapshot / "folder").symlink_to(snapshot / "inside")
    (tmp_path / "given").symlink_to(snapshot)
    put(tmp_path / "given", (tmp_path / "u").as_uri())
    copy = get((tmp_path / "u").as_uri(), tmp_path / "copy")
    assert (copy / "model").read_text() == (copy / "folder/same").read_text() == "weights"
    assert not (copy / "model").is_symlink()


@pytest.mark.parametrize("target", ["id_rsa", "keys", "blobs/1", "snapshots/other/1"])
def test_a_link_that_leaves_a_folder_is_refused(tmp_path: Path, target: str) -> None:
    for name in ("keys/id_rsa", "blobs/1", "snapshots/other/1"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("secret")
    (tmp_path / "id_rsa").write_text("secret")
    model = tmp_path / ("snapshots/0a1b" if "snapshots" in target else "model")
    model.mkdir()
    (model / "vocabulary").symlink_to(tmp_path / target)
    with pytest.raises(InputError, match="leads out of"):
        put(model, (tmp_path / "u").as_uri())


def loop(folder: Path) -> None:
    (folder / "self").symlink_to(folder)


def broken_link(folder: Path) -> None:
    (folder / "nowhere").symlink_to(folder / "missing")


def pipe(folder: Path) -> None:
    os.mkfifo(folder / "pipe")


def unix_socket(folder: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(folder / "s"))


def not_utf8(folder: Path) -> None:
    Path(os.fsdecode(os.fsencode(folder) + b"/\xff")).touch()


@pytest.mark.parametrize("spoil", [loop, broken_link, pipe, unix_socket, not_utf8])
def test_what_cannot_be_stored_is_refused(tmp_path: Path, spoil) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "good").touch()
    spoil(source)
    with pytest.raises(InputError) as caught:
        put(source, (tmp_path / "u").as_uri())
    assert caught.value.remedy
    assert not (tmp_path / "u").exists()


def test_a_missing_source_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no-such-thing"):
        put(tmp_path / "no-such-thing", (tmp_path / "u").as_uri())


@pytest.mark.parametrize(
    "uri",
    [
        "relative/path",
        "/absolute/path",
        "file://host/path",
        "file:///",
        "https://server/path",
        "s3://",
        "s3:///key",
        "s3://bucket/a/../b",
        "s3://bucket//b",
        "file:///a/./b",
        "file:///a/%2e%2e/b",
        "file:///a%00",
    ],
)
def test_what_is_no_artefact_uri_is_refused(uri: str) -> None:
    with pytest.raises(InputError, match=r"artefact URI|empty or dotted"):
        describe(uri)


def test_a_uri_has_one_spelling(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_text("x")
    plain = put(source, f"file://{tmp_path}/a b/ü/")
    assert plain.uri == f"file://{tmp_path}/a%20b/%C3%BC"
    assert describe(plain.uri) == plain
    assert objects.list_artifacts(f"file://{tmp_path}") == [plain]


def test_a_store_that_overwrites_is_found_out_before_it_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def overwrite(self: FolderStore, key: str, data: bytes) -> None:
        Path(key).parent.mkdir(parents=True, exist_ok=True)
        Path(key).write_bytes(data)

    monkeypatch.setattr(FolderStore, "create", overwrite)
    with pytest.raises(ObjectError, match="ignores If-None-Match") as caught:
        check_writable(tmp_path.as_uri())
    assert "NIGHTSHIFT_S3_ENDPOINT_URL" in caught.value.remedy


def test_a_root_that_is_no_folder_is_found_out_before_it_is_used(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ObjectError, match="NIGHTSHIFT_OBJECTS"):
        check_writable((tmp_path / "file").as_uri())
    with pytest.raises(ObjectAccessDenied, match="NIGHTSHIFT_OBJECTS"):
        check_writable("file:///sys/objects")
