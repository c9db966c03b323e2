"""The data card: what a dataset of preferences holds, and what was left out of it."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from infra.inert import code, plain
from jobs.dpo.data import Reading
from jobs.dpo.opinions import READ, USED

BINS = np.round(np.linspace(0.5, 1, 11), 2)
EXAMPLES = 3
SHOWN = 300
"""Characters of an example's text."""


class Statistics:
    """Gathered table by table."""

    def __init__(self) -> None:
        self.sources: dict[str, Counter[str]] = {}
        self.histogram = np.zeros(len(BINS) - 1, int)
        self.confidence = 0.0
        self.pairs: Counter[str] = Counter()
        self.longer = self.unequal = self.simulated = 0
        self.examples: list[dict[str, Any]] = []

    def add(self, split: str, table: pa.Table) -> None:
        """Count a table of a split."""
        self.pairs[split] += table.num_rows
        sources = self.sources.setdefault(split, Counter())
        for entry in table.column("source").value_counts().to_pylist():
            sources[entry["values"]] += entry["counts"]
        confidence = table.column("confidence").to_numpy()
        self.histogram += np.histogram(np.clip(confidence, 0.5, 1), BINS)[0]
        self.confidence += float(confidence.sum())
        chosen, rejected = (
            pc.call_function("utf8_length", [table.column(name)]).to_numpy()
            for name in ("chosen", "rejected")
        )
        self.longer += int((chosen > rejected).sum())
        self.unequal += int((chosen != rejected).sum())
        self.simulated += int(pc.call_function("sum", [table.column("simulated")]).as_py() or 0)
        if split == "train" and len(self.examples) < EXAMPLES:
            wanted = EXAMPLES - len(self.examples)
            names = ["prompt", "chosen", "rejected", "source", "confidence"]
            self.examples += table.select(names).slice(0, wanted).to_pylist()

    def card(
        self,
        counts: dict[str, int],
        sources_read: dict[str, int],
        readings: list[Reading],
        votes: Counter[str],
    ) -> dict[str, Any]:
        """The card as JSON values; shares are 0 to 1. Three sums hold: rows of a file are taken,
        broken or left out; votes are used or left out; pairs are in a split or left out."""
        total = sum(self.pairs.values())
        return {
            "splits": {
                name: {"pairs": self.pairs[name], "sources": dict(self.sources.get(name, {}))}
                for name in ("train", "held_out")
            },
            "sources_read": sources_read,
            "left_out": {name: count for name, count in counts.items() if name != "read"},
            "read": counts["read"],
            "files": [_file(reading) for reading in readings],
            "votes": dict(votes),
            "simulated": self.simulated,
            "mean_confidence": self.confidence / max(1, total),
            "confidence_bins": BINS.tolist(),
            "confidence_histogram": self.histogram.tolist(),
            "longer_wins": self.longer / max(1, self.unequal),
            "examples": self.examples,
        }


def _file(reading: Reading) -> dict[str, Any]:
    """How a file was read."""
    return {
        "option": reading.option,
        "rows": reading.lines,
        "taken": reading.taken,
        "broken": reading.broken,
        "left_out": dict(reading.skipped),
        "shapes": dict(reading.shapes),
        "shown": reading.shown,
        "named": reading.named,
    }


def markdown(card: dict[str, Any]) -> str:
    """The card as Markdown."""
    splits = card["splits"]
    lines = [
        "# Data card",
        "",
        f"{splits['train']['pairs']:,} pairs to train on, {splits['held_out']['pairs']:,} held out "
        f"by prompt; {card['read']:,} were read. The longer answer is the chosen one in "
        f"{card['longer_wins']:.1%} of the pairs whose answers differ in length. Mean confidence "
        f"{card['mean_confidence']:.3f}.",
        "",
        "| source | read | train | held out |",
        "|---|---:|---:|---:|",
    ]
    for source, read in sorted(card["sources_read"].items()):
        train, held_out = (splits[name]["sources"].get(source, 0) for name in splits)
        lines.append(f"| {plain(source)} | {read:,} | {train:,} | {held_out:,} |")
    lines += ["", "| pairs left out or settled | |", "|---|---:|"]
    lines += [f"| {what} | {count:,} |" for what, count in card["left_out"].items()]
    if card["votes"]:
        read, used = card["votes"].get(READ, 0), card["votes"].get(USED, 0)
        lines += ["", f"{used:,} of {read:,} pieces of feedback are in pairs.", ""]
        lines += ["| feedback left out | |", "|---|---:|"]
        rest = {n: c for n, c in card["votes"].items() if n not in (READ, USED)}
        lines += [f"| {what} | {count:,} |" for what, count in rest.items()]
    lines += ["", "| confidence | pairs |", "|---|---:|"]
    bins = card["confidence_bins"]
    for low, high, count in zip(bins, bins[1:], card["confidence_histogram"], strict=False):
        lines.append(f"| {low:.2f} to {high:.2f} | {count:,} |")
    for file in card["files"]:
        lines += _read_as(file)
    lines += ["", "## Examples", ""]
    for example in card["examples"]:
        lines.append(f"- {plain(example['source'])}, confidence {example['confidence']:.2f}")
        lines += _texts(example, ("prompt", "chosen", "rejected"))
    return "\n".join(lines) + "\n"


def _read_as(file: dict[str, Any]) -> list[str]:
    """Which shapes a file had, its first rows as they were read, and what was left out of it."""
    shapes = ", ".join(f"{count:,} as {name}" for name, count in file["shapes"].items())
    left_out = {**file["left_out"], "broken": file["broken"]}
    rest = ", ".join(f"{count:,} {why}" for why, count in left_out.items() if count)
    lines = ["", f"## How {file['option']} was read", ""]
    lines.append(f"Of {file['rows']:,} rows {shapes or 'none'}; left out: {rest or 'none'}.")
    for row in file["shown"]:
        lines += ["", f"- {row['shape']}", *_texts(row, [name for name in row if name != "shape"])]
    if file["named"]:
        lines += ["", "Lines that were left out, the first ones:", ""]
        lines += [f"- {plain(line)}" for line in file["named"]]
    return lines


def _texts(row: dict[str, Any], names: Iterable[str]) -> list[str]:
    return [f"  - {name}: {code(str(row[name])[:SHOWN])}" for name in names]
