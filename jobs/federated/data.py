"""A tenant's table: read, checked, split and standardised where it lies.

What is wrong is an InputError whose text leaves the tenant: it names columns and line numbers, and
never a value.
"""

import csv
import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from infra.errors import InputError
from jobs.federated.config import HELD_OUT_COLUMN

Matrix = np.ndarray
MISSING = {"", "?", "na", "nan", "null", "none"}
FEWEST_ROWS = 10
FEWEST_IN_A_PART = 2
HELD_OUT = 34
"""Per cent of a tenant's rows that nothing is trained on, as in FLamby (Ogier du Terrail 2022)."""
REMEDY = "Correct the tenant's data.csv; it is asked again in the next run."


@dataclass(frozen=True)
class Table:
    """Standardised rows of one tenant: x (rows × features), y (rows, 0 or 1)."""

    train_x: Matrix
    train_y: Matrix
    held_out_x: Matrix
    held_out_y: Matrix


def load(
    path: Path,
    features: list[str],
    label: str,
    ranges: list[tuple[float, float]] | None = None,
) -> Table:
    """The tenant's rows. Columns are found by their names, in whatever order they are.

    Each column is standardised by the training rows of this tenant alone, so that no statistic
    leaves it; with `ranges` its usual values lie from -1 to 1, and no row has a part in how another
    is scaled. A missing value becomes the mean, or the middle, of its column. Raises InputError.
    """
    x, y, held_out = read(path, features, label)
    if len(np.unique(y)) < 2:
        raise InputError("all rows are of one class", REMEDY)
    train = ~held_out
    if min(train.sum(), held_out.sum()) < FEWEST_IN_A_PART:
        raise InputError(f"fewer than {FEWEST_IN_A_PART} rows to train on, or to hold out", REMEDY)
    found = scaled(x, train, ranges)
    return Table(found[train], y[train], found[held_out], y[held_out])


def scaled(x: Matrix, train: Matrix, ranges: list[tuple[float, float]] | None) -> Matrix:
    """The columns by their ranges, or without by the rows that `train` marks; no value missing."""
    if ranges:
        low, high = np.array(ranges).T
        middle, spread = (low + high) / 2, (high - low) / 2
    else:
        middle, spread = _moments(x[train])
    return np.nan_to_num((x - middle) / spread, nan=0.0).clip(-10, 10)


def _moments(x: Matrix) -> tuple[Matrix, Matrix]:
    """Mean and deviation of each column; the latter is 1 where all values are the same."""
    known = ~np.isnan(x)
    counts = known.sum(0).clip(1)
    filled = np.where(known, x, 0.0)
    mean = filled.sum(0) / counts
    spread = np.sqrt((np.where(known, filled - mean, 0.0) ** 2).sum(0) / counts)
    spread[spread == 0] = 1.0
    return mean, spread


def read(path: Path, features: list[str], label: str) -> tuple[Matrix, Matrix, Matrix]:
    """(rows × features with NaN where a value is missing, labels, which rows are held out).

    Raises InputError.
    """
    table, _, marks = read_columns(path, [*features, label])
    x, y = table[:, :-1], table[:, -1]
    if not np.isin(y, (0, 1)).all():
        raise InputError(f"the column {label} holds other labels than 0 and 1", REMEDY)
    if marks is None:
        marks = np.array([is_held_out(row.tobytes()) for row in table])
    return x, y, marks


def read_columns(
    path: Path, numbers: list[str], text: str = ""
) -> tuple[Matrix, list[str], Matrix | None]:
    """(rows × columns of numbers with NaN where a value is missing, the column of text where one is
    named, which rows the file says are held out, None where it does not). Raises InputError.
    """
    texts = []
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            lines = csv.reader(stream)
            header = [name.strip() for name in next(lines, [])]
            lacking = sorted({*numbers, *filter(None, [text])} - set(header))
            if lacking:
                raise InputError(f"the column {', '.join(lacking)} is missing", REMEDY)
            marked = HELD_OUT_COLUMN in header
            wanted = [*numbers, *([HELD_OUT_COLUMN] if marked else [])]
            places, rows = [header.index(name) for name in wanted], []
            for number, line in enumerate(lines, 2):
                if line:
                    rows.append(_numbers(line, places, header, number))
                    texts += [line[header.index(text)].strip()] if text else []
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"data.csv cannot be read ({type(error).__name__})", REMEDY) from error
    if len(rows) < FEWEST_ROWS:
        raise InputError(f"{len(rows)} rows, at least {FEWEST_ROWS} are needed", REMEDY)
    table = np.array(rows)
    return table[:, : len(numbers)], texts, table[:, -1] == 1 if marked else None


def is_held_out(row: bytes) -> bool:
    """By its content, so that a row stays for ever in the part that it was in first: no version is
    judged on what an earlier one has learnt."""
    return int.from_bytes(hashlib.sha256(row).digest()[:4]) % 100 < HELD_OUT


def _numbers(line: list[str], places: list[int], header: list[str], number: int) -> list[float]:
    if len(line) != len(header):
        raise InputError(f"line {number} has {len(line)} fields, not {len(header)}", REMEDY)
    values = []
    for place in places:
        text = line[place].strip()
        try:
            value = np.nan if text.lower() in MISSING else float(text)
        except ValueError:
            value = np.inf
        if np.isinf(value):
            where = f"line {number}, column {header[place]}"
            raise InputError(f"{where} is no finite number", REMEDY)
        values.append(value)
    return values
