"""A tenant's items, read and checked where they lie; no torch here.

A table as `data` reads it, whose column of groups, in words or numbers, says which items belong
together. What is wrong is an InputError whose text leaves the tenant: it names columns and line
numbers, and never a value.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from infra.errors import InputError
from jobs.federated.data import FEWEST_IN_A_PART, REMEDY, is_held_out, read_columns, scaled
from jobs.federated.model import Matrix


@dataclass(frozen=True)
class Items:
    """Scaled items of one tenant, or of many: x (items × features), names of their groups."""

    train_x: Matrix
    train_groups: Matrix
    held_out_x: Matrix
    held_out_groups: Matrix


def load(
    path: Path,
    features: list[str],
    group: str,
    ranges: list[tuple[float, float]] | None = None,
) -> Items:
    """The items of a file, scaled as the rows of a table. An item is held out by its hash, or by
    the file's own column. Raises InputError."""
    x, texts, held_out = read_columns(path, features, group)
    if "" in texts:
        raise InputError(f"the column {group} is empty in some lines", REMEDY)
    if held_out is None:
        held_out = np.array(
            [is_held_out(row.tobytes() + text.encode()) for row, text in zip(x, texts, strict=True)]
        )
    train, groups = ~held_out, np.array(texts)
    _, sizes = np.unique(groups[train], return_counts=True)
    if len(sizes) < 2 or sizes.max() < 2:
        raise InputError(
            f"the column {group} has to have two groups to train on, one of them with two items",
            REMEDY,
        )
    found = scaled(x, train, ranges)
    items = Items(found[train], groups[train], found[held_out], groups[held_out])
    if answerable(items).sum() < FEWEST_IN_A_PART:
        raise InputError(
            f"fewer than {FEWEST_IN_A_PART} held-out items have another one of their group", REMEDY
        )
    return items


def answerable(items: Items) -> Matrix:
    """Which held-out items have another one of their group, among all of the tenant's: the
    queries, in which recall is told."""
    groups, sizes = np.unique(
        np.concatenate([items.train_groups, items.held_out_groups]), return_counts=True
    )
    return sizes[np.searchsorted(groups, items.held_out_groups)] > 1
