"""Design requests in many words, deterministic by seed; some phrasings are held out of training.

A row is {"prompt": text, "target": compact JSON}; the prompt ends where the JSON begins.
"""

import json
from pathlib import Path
from random import Random
from typing import Literal
from zlib import crc32

from jobs.design.parts import FIELDS, HEADS, LENGTHS, MODULES, THREADS, Design, is_valid, write

Split = Literal["train", "held_out"]
Row = dict[str, str]

OPENERS: dict[Split, list[str]] = {
    "train": ["", "design ", "I need ", "make ", "draw me ", "order: ", "give me ", "new part: "],
    "held_out": ["please draw ", "we need "],
}
NOUNS = {
    "gear": ["a spur gear", "a gear", "one spur gear", "gear"],
    "bracket": ["a mounting bracket", "a bracket", "one motor bracket", "bracket"],
    "screw": ["a screw", "a machine screw", "one screw", "screw"],
}
PHRASES = {
    "teeth": ["{} teeth", "z={}", "teeth: {}"],
    "module": ["module {}", "m={}", "module: {}"],
    "bore": ["{} bore", "bore {}", "bore: {}"],
    "nema": ["NEMA {}", "for NEMA {}", "NEMA: {}"],
    "width": ["{} wide", "width {}", "width: {}"],
    "thickness": ["{} thick", "thickness {}", "thickness: {}"],
    "thread": ["M{}", "thread M{}", "thread: M{}"],
    "length": ["{} long", "length {}", "length: {}"],
    "head": ["{} head", "head {}", "head: {}"],
}
"""Field → how requests say it. A phrasing is an opener and, in their order, the fields' phrases."""
HELD_OUT_SHARE = 4
"""One in so many sequences of phrases is held out, and so are some openers."""
DISTRACTORS = ["", "", "", " in steel", ", painted blue", ", ship by friday", ", 3 pieces"]
LENGTH_FIELDS = {"bore", "width", "thickness", "length"}


def rows(split: Split, count: int, seed: int) -> list[Row]:
    """`count` requests with the phrasings of a split."""
    random = Random(f"{split} {seed}")
    return [request(split, random) for _ in range(count)]


def request(split: Split, random: Random) -> Row:
    """One request and the design that it asks for."""
    design = draw(random)
    fields = FIELDS[design["part"]]
    while True:
        phrases = [(name, random.choice(PHRASES[name])) for name in random.sample(fields, 3)]
        if is_held_out(phrases) == (split == "held_out"):
            break
    said = [
        phrase.format(_length(design[name], random) if name in LENGTH_FIELDS else design[name])
        for name, phrase in phrases
    ]
    opener, noun = random.choice(OPENERS[split]), random.choice(NOUNS[design["part"]])
    text = f"{opener}{noun}, {', '.join(said)}{random.choice(DISTRACTORS)}"
    return {"prompt": f"{text}\n", "target": write(design)}


def is_held_out(phrases: list[tuple[str, str]]) -> bool:
    """Whether this sequence of phrases is kept from all training, the base's included."""
    return crc32(repr(phrases).encode()) % HELD_OUT_SHARE == 0


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
