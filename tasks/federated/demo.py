"""Small made-up federations: four clinics that measure alike and whose patients differ, and four
workshops that each design one kind of part.
"""

import csv
import json
from pathlib import Path
from random import Random

import numpy as np

from jobs.design.requests import Row, Split, request
from jobs.federated.config import DATA, HELD_OUT_COLUMN, TEXTS

CLINICS = {"north": 200, "east": 150, "south": 100, "west": 80}
"""Patients of each."""
COLUMNS = tuple(f"marker_{number:02}" for number in range(1, 25))
WORKSHOPS = {
    "gears": {"part": "gear"},
    "brackets17": {"part": "bracket", "nema": 17},
    "brackets23": {"part": "bracket", "nema": 23},
    "screws": {"part": "screw"},
}
"""What all designs of each have in common."""
DESIGNS: dict[Split, int] = {"train": 300, "held_out": 100}
"""Requests of each workshop; the phrasings of those that are held out are in no training text."""
SEED = 20261129


def make_tenants(folder: Path) -> Path:
    """The folder, with one of each clinic: the same files each time.

    A label is drawn from a logistic model that all clinics share; their patients' means differ.
    """
    rng = np.random.default_rng(SEED)
    effect = rng.normal(0, 0.7, len(COLUMNS))
    for name, count in CLINICS.items():
        x = rng.normal(rng.normal(0, 0.7, len(COLUMNS)), 1, (count, len(COLUMNS)))
        slope = (x - x.mean(0)) @ effect
        label = rng.random(count) < 1 / (1 + np.exp(-slope))
        place = folder / name
        place.mkdir(parents=True, exist_ok=True)
        with (place / DATA).open("w", newline="") as stream:
            table = csv.writer(stream)
            table.writerow([*COLUMNS, "label"])
            table.writerows([*np.round(row, 3), int(y)] for row, y in zip(x, label, strict=True))
    return folder


def make_workshops(folder: Path, seed: int = SEED) -> Path:
    """The folder, with one of each workshop: the same files each time."""
    for name, common in WORKSHOPS.items():
        rows = [
            {"prompt": row["prompt"], "completion": row["target"], HELD_OUT_COLUMN: int(held_out)}
            for held_out, split in enumerate(DESIGNS)
            for row in _requests(split, common, f"{name} {split} {seed}")
        ]
        (folder / name).mkdir(parents=True, exist_ok=True)
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / name / TEXTS).write_text(lines)
    return folder


def _requests(split: Split, common: dict[str, object], seed: str) -> list[Row]:
    random, found = Random(seed), list[Row]()  # noqa: S311 - no secret
    while len(found) < DESIGNS[split]:
        row = request(split, random)
        if common.items() <= json.loads(row["target"]).items():
            found.append(row)
    return found
