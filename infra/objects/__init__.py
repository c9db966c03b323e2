"""Artefacts by URI: a file or a folder under `file:///…` or `s3://bucket/…`, whole or absent.

    put(Path("adapter"), "s3://models/gears/3")  →  Artifact(uri, sha256, bytes)
    get("s3://models/gears/3", Path("adapter"))  →  a verified copy

An artefact U is a number of parts, written freely under a prefix of their own, and one small
manifest that names them:

    U/parts/<attempt>/<number>      the files, in the order of the manifest
    U/manifest.json                 written last, with If-None-Match: * (or link(2)): the commit

So two writers never mix, exactly one wins, and a writer killed anywhere leaves nothing that can be
seen; what it left is removed by the next `put` or `delete` of the same URI. (Unfinished multipart
uploads of a killed writer are the bucket's to remove: lifecycle AbortIncompleteMultipartUpload.)

Parts are numbered, not named, because names that a file system allows (control characters, 255
bytes in each of many folders) are no good S3 keys. Contents and names are kept, modes and times
are not. Symbolic links are followed, since a Hugging Face snapshot is a folder of links, but not
out of the folder: a stranger's model may have one to your keys.

S3 takes its endpoint from NIGHTSHIFT_S3_ENDPOINT_URL, read here from the environment and not from
`infra.settings`, which job environments lack; credentials come through boto3's usual chain. They
must allow s3:ListBucket, GetObject, PutObject, DeleteObject and AbortMultipartUpload.
"""

import re
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote

from infra.contract import Artifact
from infra.errors import InputError, IntegrityError, ObjectError, ObjectNotFound
from infra.objects.folder import FolderStore
from infra.objects.local import THREADS, disk_errors, flush, flush_tree, staging
from infra.objects.manifest import MANIFEST, PARTS, UNUSABLE, Manifest, parse, scan, signature


class Store(Protocol):
    """What differs between folders and buckets. A key is the URI's path, bucket included."""

    def uri(self, key: str) -> str:
        """The one way to write the URI of a key."""
        ...

    def read(self, key: str) -> bytes | None:
        """A small object, None where there is none."""
        ...

    def create(self, key: str, data: bytes) -> None:
        """Write a small object unless the key exists: of many writers exactly one succeeds."""
        ...

    def upload(self, files: dict[str, Path]) -> None:
        """Store local files under their keys, in parallel."""
        ...

    def download(self, files: dict[str, Path]) -> None:
        """Write objects to local files whose folders exist, in parallel."""
        ...

    def sizes(self, prefix: str) -> dict[str, int]:
        """Key → bytes of every object whose key begins with `prefix`, which ends with a slash."""
        ...

    def remove(self, keys: list[str], below: str) -> None:
        """Remove objects, as far as they exist, and the folders from `below` on that get empty."""
        ...


def put(source: Path, uri: str) -> Artifact:
    """Store a file or a folder at `uri`, whole or not at all, and say what is there.

    The same content at the same URI is stored once. Raises IntegrityError where other content is
    there already or the source changes meanwhile, InputError for a source that is no file or
    folder, StorageFull, ObjectAccessDenied.
    """
    store, key = _locate(uri)
    before = signature(source)
    content = scan(source)
    committed = _manifest(store, key)
    if committed is None:
        manifest = Manifest(attempt=uuid.uuid4().hex, sha256=content.sha256, content=content)
        committed = _store(store, key, source, before, manifest)
    if committed.sha256 != content.sha256:
        raise IntegrityError(
            f"{uri} is already there with other content "
            f"(sha256 {committed.sha256[:12]}…, not {content.sha256[:12]}…).",
            "Artefacts are never overwritten: choose another URI, or delete this one first.",
        )
    _check_sizes(store, key, committed)
    return _artifact(store, key, committed)


def get(uri: str, destination: Path, sha256: str | None = None) -> Path:
    """Copy the artefact to `destination`, which appears verified and whole or not at all.

    A stored file gives a file, a stored folder a folder. A destination that is a verified copy
    already is left as it is. `sha256` is the artefact's, as `put` returned it. Raises
    ObjectNotFound, IntegrityError (the artefact is torn or altered, is not the one expected, or
    the destination holds something else), StorageFull, ObjectAccessDenied.
    """
    if sha256 and _holds(destination, sha256):
        return destination
    store, key = _locate(uri)
    manifest = _existing(store, key)
    if sha256 and manifest.sha256 != sha256:
        raise IntegrityError(
            f"{uri} has the sha256 {manifest.sha256}, expected was {sha256}.",
            "It is not the artefact that was recorded: do not use it, store the right one anew.",
        )
    with disk_errors(), staging(destination) as partial:
        if _holds(destination, manifest.sha256):
            return destination
        if destination.exists() and not (destination.is_dir() and not any(destination.iterdir())):
            raise IntegrityError(
                f"{destination} holds something other than {uri}.",
                "Remove it, or choose another destination.",
            )
        _check_sizes(store, key, manifest)
        _fetch(store, key, manifest, partial)
        if destination.is_dir():
            destination.rmdir()
        partial.rename(destination)
        flush(destination.parent)
    return destination


def exists(uri: str) -> bool:
    """Whether an artefact was stored at `uri`."""
    store, key = _locate(uri)
    return store.read(key + MANIFEST) is not None


def describe(uri: str) -> Artifact:
    """The artefact at `uri`, by its manifest. Raises ObjectNotFound, IntegrityError."""
    store, key = _locate(uri)
    return _artifact(store, key, _existing(store, key))


def list_artifacts(prefix: str) -> list[Artifact]:
    """The artefacts at and below the folder `prefix`, in the order of their URIs."""
    store, folder = _locate(prefix)
    keys = [
        found.removesuffix(MANIFEST)
        for found in store.sizes(folder + "/")
        if found.endswith(MANIFEST)
    ]
    with ThreadPoolExecutor(THREADS) as pool:
        manifests = list(pool.map(lambda key: _manifest(store, key), keys))
    found = [
        _artifact(store, key, manifest)
        for key, manifest in zip(keys, manifests, strict=True)
        if manifest
    ]
    return sorted(found, key=lambda artifact: artifact.uri)


def delete(uri: str) -> None:
    """Remove the artefact, its manifest first, and what killed writers left there.

    Safe to repeat. Not while something is being stored at the same URI: that `put` may then fail.
    """
    store, key = _locate(uri)
    store.remove([key + MANIFEST], below=key)
    _remove_parts(store, key, lambda _: True)


def overwrite(source: Path, uri: str) -> None:
    """Replace the small plain file at `uri`, which is no artefact: no manifest, the last wins."""
    store, key = _locate(uri)
    store.upload({key: source})


def read(uri: str) -> bytes | None:
    """The plain file that `overwrite` stored at `uri`, None where there is none."""
    store, key = _locate(uri)
    return store.read(key)


def check_writable(root: str) -> None:
    """Write, read and remove a small object below `root`; raises what a later `put` would raise."""
    store, folder = _locate(root)
    place = f"{folder}/probe-{uuid.uuid4().hex}"
    probe = f"{place}/probe"
    store.create(probe, b"first")
    try:
        store.create(probe, b"second")
        exclusive = store.read(probe) == b"first"
    finally:
        store.remove([probe], below=place)
    if not exclusive:
        raise ObjectError(
            f"The store of {root} ignores If-None-Match: two writers could overwrite each other.",
            "Name an S3 server with conditional writes in NIGHTSHIFT_S3_ENDPOINT_URL, or a "
            "file:/// folder in NIGHTSHIFT_OBJECTS.",
        )


def _locate(uri: str) -> tuple[Store, str]:
    scheme, _, path = uri.rstrip("/").partition("://")
    if scheme == "file" and path.startswith("/"):
        store, key = FolderStore(), unquote(path)
    elif scheme == "s3" and path.partition("/")[0]:
        from infra.objects.bucket import BucketStore  # boto3 takes a second to import

        store, key = BucketStore(path.partition("/")[0]), path
    else:
        raise InputError(f"{uri!r} is no artefact URI.", "Give file:///folder or s3://bucket/path.")
    if re.search(r"//|(^|/)\.\.?(/|$)|\0", key):
        raise InputError(f"{uri!r} has an empty or dotted part.", "Give the plain path.")
    return store, key


def _store(
    store: Store, key: str, source: Path, before: list[tuple[str, int, int]], manifest: Manifest
) -> Manifest:
    """Upload the parts and try to commit; return the manifest that won, ours or another's."""
    failure: BaseException | None = None
    try:
        store.upload({part: source / path for part, path in _parts(key, manifest).items()})
        _check_sizes(store, key, manifest)
        if signature(source) != before:
            raise IntegrityError(f"{source} changed while it was stored.", "Store it again.")
        store.create(key + MANIFEST, manifest.model_dump_json().encode())
    except BaseException as error:
        failure = error
    # What is there decides who won, not the answer to our own write, which may have been lost.
    committed = _manifest(store, key)
    if committed and committed.attempt == manifest.attempt:
        _remove_parts(store, key, lambda attempt: attempt != manifest.attempt)
    else:
        _remove_parts(store, key, lambda attempt: attempt == manifest.attempt)
    if failure and (committed is None or not isinstance(failure, ObjectError)):
        raise failure
    if committed is None:
        raise ObjectNotFound(f"{store.uri(key)} was deleted while stored.", "Store it again.")
    return committed


def _fetch(store: Store, key: str, manifest: Manifest, partial: Path) -> None:
    """Download to `partial` and compare every byte with the manifest."""
    content = manifest.content
    folders = {(partial / entry.path).parent for entry in content.files} or {partial}
    for folder in folders | {partial / path for path in content.folders}:
        folder.mkdir(parents=True, exist_ok=True)
    store.download({part: partial / path for part, path in _parts(key, manifest).items()})
    if not _holds(partial, manifest.sha256):
        raise IntegrityError(f"{store.uri(key)} is altered: its parts differ.", UNUSABLE)
    flush_tree(partial)


def _parts(key: str, manifest: Manifest) -> dict[str, str]:
    """Key of each part → path in the artefact."""
    folder = f"{key}{PARTS}{manifest.attempt}"
    return {f"{folder}/{n}": entry.path for n, entry in enumerate(manifest.content.files)}


def _check_sizes(store: Store, key: str, manifest: Manifest) -> None:
    expected = dict(
        zip(_parts(key, manifest), [e.bytes for e in manifest.content.files], strict=True)
    )
    if store.sizes(f"{key}{PARTS}{manifest.attempt}/") != expected:
        raise IntegrityError(
            f"{store.uri(key)} is torn: a part is missing or has another size.", UNUSABLE
        )


def _remove_parts(store: Store, key: str, chosen: Callable[[str], bool]) -> None:
    """Remove the parts of the attempts that are `chosen`."""
    base = key + PARTS
    parts = [
        part for part in store.sizes(base) if chosen(part.removeprefix(base).partition("/")[0])
    ]
    store.remove(parts, below=key)


def _manifest(store: Store, key: str) -> Manifest | None:
    data = store.read(key + MANIFEST)
    return None if data is None else parse(data, store.uri(key))


def _existing(store: Store, key: str) -> Manifest:
    manifest = _manifest(store, key)
    if manifest is None:
        raise ObjectNotFound(
            f"There is no artefact at {store.uri(key)}.",
            "See that the step that makes it succeeded, and that NIGHTSHIFT_OBJECTS names the "
            "root it was stored under.",
        )
    return manifest


def _holds(path: Path, sha256: str) -> bool:
    try:
        return path.exists() and scan(path).sha256 == sha256
    except InputError:  # it has a fifo or a broken link in it, which no artefact has
        return False


def _artifact(store: Store, key: str, manifest: Manifest) -> Artifact:
    return Artifact(uri=store.uri(key), sha256=manifest.sha256, bytes=manifest.content.bytes)
