"""Rows of a file: JSON lines, a JSON array, CSV or Parquet, told apart by what they hold; plain,
gzipped or, like Parquet only where pyarrow is, compressed with Zstandard. No torch here."""

import csv
import gzip
import io
import json
import re
import sys
import zlib
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO, cast

from infra.errors import InputError

GZIP, ZSTD, PARQUET = b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"PAR1"
PEEKED = 8192
BATCH = 1000
HEADER = re.compile(r"[^{}\[\]<>]{0,64}")
"""What a column of a CSV may be called; pandas' index has no name."""
READABLE = (
    "Save {} as UTF-8 text (JSON lines, a JSON array or CSV), plain or compressed, or as Parquet."
)


def readable_here(path: Path) -> bool:
    """Whether this process has what the file's format needs: the control plane has no pyarrow."""
    with path.open("rb") as stream:
        begin = stream.read(4)
    return begin not in (ZSTD, PARQUET) or find_spec("pyarrow") is not None


def rows_of(path: Path, option: str) -> Iterator[tuple[int, Any]]:
    """(number, row) of each row: bytes of a JSON line, an object, or a ValueError for one that is
    broken. Raises InputError naming `option` where the file cannot be read on."""
    number = 0
    try:
        rows = _parquet(path) if _begins_with(path, PARQUET) else _texts(path, option)
        for number, row in rows:
            yield number, row
    except UnicodeDecodeError:
        raise InputError(f"{path} is no UTF-8 text", f"Save {option} as UTF-8.") from None
    except (OSError, EOFError, zlib.error, csv.Error, ArithmeticError) as error:
        raise InputError(
            f"{path} cannot be read after line {number}: {error}", f"Correct {option}."
        ) from None


def _begins_with(path: Path, magic: bytes) -> bool:
    with path.open("rb") as stream:
        return stream.read(len(magic)) == magic


def _texts(path: Path, option: str) -> Iterator[tuple[int, Any]]:
    with _stream(path) as stream:
        begin = stream.peek(PEEKED)[:PEEKED]
        if b"\0" in begin:  # as UTF-16 and archives have it
            raise InputError(f"{path} is no UTF-8 text", READABLE.format(option))
        begin = begin.removeprefix(b"\xef\xbb\xbf").lstrip()
        if begin.startswith(b"["):
            yield from _array(path, stream, option)
        elif delimiter := _delimiter(begin):
            yield from _csv(stream, delimiter)
        else:
            for number, line in enumerate(stream, 1):
                if line.strip():
                    yield number, line


def _stream(path: Path) -> io.BufferedReader:
    """The bytes of a plain or compressed file."""
    if _begins_with(path, GZIP):
        return cast(io.BufferedReader, gzip.open(path, "rb"))
    if _begins_with(path, ZSTD):
        import pyarrow as pa

        return io.BufferedReader(cast(Any, pa.input_stream(str(path), compression="zstd")))
    return path.open("rb")


def _array(path: Path, stream: BinaryIO, option: str) -> Iterator[tuple[int, Any]]:
    try:
        rows = json.loads(stream.read().decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        if isinstance(error, UnicodeDecodeError):
            raise
        raise InputError(
            f"{path} begins as a JSON array and is none: {error}",
            f"Correct {option}, or write one object a line.",
        ) from None
    yield from enumerate(rows, 1)


def _delimiter(begin: bytes) -> str:
    """What divides the columns of a CSV, by its header; empty for what is no CSV."""
    header, *more = re.split(rb"[\r\n]", begin, maxsplit=1)
    if not more or header.startswith(b"{"):
        return ""
    text = header.decode("utf-8", "replace").strip()
    for delimiter in ",;\t":
        names = next(csv.reader([text], delimiter=delimiter), [])
        are_names = all(names[1:]) and all(map(HEADER.fullmatch, names))
        if len(names) > 1 and len(set(names)) == len(names) and are_names:
            return delimiter
    return ""


def _csv(stream: BinaryIO, delimiter: str) -> Iterator[tuple[int, Any]]:
    csv.field_size_limit(sys.maxsize)
    with io.TextIOWrapper(stream, encoding="utf-8-sig", newline="") as text:
        names = next(csv.reader([text.readline()], delimiter=delimiter))
        header, spaced = [name.strip() for name in names], any(n.startswith(" ") for n in names)
        reader = csv.reader(text, delimiter=delimiter, skipinitialspace=spaced, strict=True)
        for cells in reader:
            number = reader.line_num + 1
            if len(cells) == len(header):
                found = dict(zip(header, cells, strict=True))
                found.pop("", None)
                yield number, found
            elif cells:
                reason = f"it has {len(cells)} cells, the header {len(header)}"
                yield number, ValueError(reason)


def _parquet(path: Path) -> Iterator[tuple[int, Any]]:
    import pyarrow as pa
    from pyarrow.parquet import ParquetFile

    number = 0
    try:
        for batch in ParquetFile(path).iter_batches(BATCH):
            for row in batch.to_pylist():
                number += 1
                yield number, row
    except pa.ArrowException as error:
        raise OSError(str(error)) from None
