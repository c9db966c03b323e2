"""The data card: what a dataset of preferences holds, and what was left out of it."""

from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

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
            pc.utf8_length(table.column(name)).to_numpy() for name in ("chosen", "rejected")
        )
        self.longer += int((chosen > rejected).sum())
        self.unequal += int((chosen != rejected).sum())
        self.simulated += int(pc.sum(table.column("simulated")).as_py() or 0)
        if split == "train" and len(self.examples) < EXAMPLES:
            wanted = EXAMPLES - len(self.examples)
            names = ["prompt", "chosen", "rejected", "source", "confidence"]
            self.examples += table.select(names).slice(0, wanted).to_pylist()

    def card(
        self, counts: dict[str, int], sources_read: dict[str, int], broken: list[str]
    ) -> dict[str, Any]:
        """The card as JSON values; shares are 0 to 1."""
        total = sum(self.pairs.values())
        return {
            "splits": {
                name: {"pairs": self.pairs[name], "sources": dict(self.sources.get(name, {}))}
                for name in ("train", "held_out")
            },
            "sources_read": sources_read,
            "left_out": {name: count for name, count in counts.items() if name != "read"},
            "read": counts["read"],
            "broken": broken,
            "simulated": self.simulated,
            "mean_confidence": self.confidence / max(1, total),
            "confidence_bins": BINS.tolist(),
            "confidence_histogram": self.histogram.tolist(),
            "longer_wins": self.longer / max(1, self.unequal),
            "examples": self.examples,
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
        lines.append(f"| {source} | {read:,} | {train:,} | {held_out:,} |")
    lines += ["", "| left out or settled | |", "|---|---:|"]
    lines += [f"| {what} | {count:,} |" for what, count in card["left_out"].items()]
    lines += ["", "| confidence | pairs |", "|---|---:|"]
    bins = card["confidence_bins"]
    for low, high, count in zip(bins, bins[1:], card["confidence_histogram"], strict=False):
        lines.append(f"| {low:.2f} to {high:.2f} | {count:,} |")
    if card["broken"]:
        lines += ["", "Lines that were left out:", ""]
        lines += [f"- {line}" for line in card["broken"]]
    lines += ["", "## Examples", ""]
    for example in card["examples"]:
        lines.append(f"- {example['source']}, confidence {example['confidence']:.2f}")
        lines += [
            f"  - {name}: `{example[name][:SHOWN].replace('`', chr(39)).strip()!s}`".replace(
                "\n", " "
            )
            for name in ("prompt", "chosen", "rejected")
        ]
    return "\n".join(lines) + "\n"
