"""Design requests in many words, deterministic by seed; some phrasings are held out of training.

A row is {"prompt": text, "target": compact JSON}; the prompt ends where the JSON begins.
"""

import json
from itertools import permutations
from pathlib import Path
from random import Random
from typing import Literal

from jobs.design.parts import FIELDS, HEADS, LENGTHS, MODULES, THREADS, Design, is_valid, write

Split = Literal["train", "held_out"]
Row = dict[str, str]

OPENERS: dict[Split, list[str]] = {
    "train": ["", "design ", "I need ", "make ", "draw me ", "order: "],
    "held_out": ["please draw ", "we need ", "could you make "],
}
NOUNS: dict[str, dict[Split, list[str]]] = {
    "gear": {
        "train": ["a spur gear", "a gear", "spur gear", "gear"],
        "held_out": ["one spur gear", "the gear"],
    },
    "bracket": {
        "train": ["a mounting bracket", "a bracket", "motor bracket", "bracket"],
        "held_out": ["one mounting bracket", "the bracket"],
    },
    "screw": {
        "train": ["a screw", "a machine screw", "screw"],
        "held_out": ["one screw", "the screw"],
    },
}
PHRASES: dict[str, dict[Split, list[str]]] = {
    "teeth": {"train": ["{} teeth", "z={}", "teeth: {}"], "held_out": ["{} teeth in all"]},
    "module": {"train": ["module {}", "m={}", "module: {}"], "held_out": ["a module of {}"]},
    "bore": {"train": ["{} bore", "bore {}", "bore: {}"], "held_out": ["a {} wide bore"]},
    "nema": {"train": ["NEMA {}", "for NEMA {}", "NEMA: {}"], "held_out": ["a NEMA {} motor"]},
    "width": {"train": ["{} wide", "width {}", "width: {}"], "held_out": ["a width of {}"]},
    "thickness": {
        "train": ["{} thick", "thickness {}", "thickness: {}"],
        "held_out": ["a thickness of {}"],
    },
    "thread": {"train": ["M{}", "thread M{}", "thread: M{}"], "held_out": ["with M{} thread"]},
    "length": {"train": ["{} long", "length {}", "length: {}"], "held_out": ["a length of {}"]},
    "head": {"train": ["{} head", "head {}", "head: {}"], "held_out": ["with {} as head"]},
}
"""Field → how requests say it. A held-out request has an unseen opener, noun and order of fields,
and says one field in words that no training request uses."""
DISTRACTORS = ["", "", "", " in steel", ", painted blue", ", ship by friday", ", 3 pieces"]
LENGTH_FIELDS = {"bore", "width", "thickness", "length"}


def rows(split: Split, count: int, seed: int) -> list[Row]:
    """`count` requests with the phrasings of a split."""
    random = Random(f"{split} {seed}")
    return [request(split, random) for _ in range(count)]


def request(split: Split, random: Random) -> Row:
    """One request and the design that it asks for."""
    design = draw(random)
    part = design["part"]
    orders = list(permutations(FIELDS[part]))
    order = random.choice(orders[:4] if split == "train" else orders[4:])
    reworded = random.choice(order) if split == "held_out" else None
    phrases = []
    for name in order:
        phrase = random.choice(PHRASES[name]["held_out" if name == reworded else "train"])
        value = _length(design[name], random) if name in LENGTH_FIELDS else str(design[name])
        phrases.append(phrase.format(value))
    opener, noun = random.choice(OPENERS[split]), random.choice(NOUNS[part][split])
    text = f"{opener}{noun}, {', '.join(phrases)}{random.choice(DISTRACTORS)}"
    return {"prompt": f"{text}\n", "target": write(design)}


def draw(random: Random) -> Design:
    """A random part that can be made."""
    while True:
        part = random.choice(list(FIELDS))
        design: Design = {"part": part}
        if part == "gear":
            design |= {
                "teeth": random.randint(10, 80),
                "module": random.choice(MODULES),
                "bore": random.randint(3, 30),
            }
        elif part == "bracket":
            design |= {
                "nema": random.choice((17, 23)),
                "width": random.randint(43, 99),
                "thickness": random.randint(2, 12),
            }
        else:
            design |= {
                "thread": random.choice(THREADS),
                "length": random.choice(LENGTHS),
                "head": random.choice(HEADS),
            }
        if is_valid(design):
            return design


def write_jsonl(path: Path, split: Split, count: int, seed: int) -> None:
    """Write requests as a prompts file."""
    with path.open("w") as stream:
        for row in rows(split, count, seed):
            stream.write(json.dumps(row) + "\n")


def _length(millimetres: float, random: Random) -> str:
    if random.random() < 0.15:
        return f"{millimetres / 10:g} cm"
    return f"{millimetres:g} mm"
