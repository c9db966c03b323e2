"""How long a million pairs take to be read, scrubbed, settled, deduplicated and split, and in how
much memory.

    python -m benchmarks.dpo_data --pairs 1000000

Run it in the job environment `train`. The pairs are generated: texts of 20 to 100 words from a
vocabulary of 20,000, four prompts in ten asked twice; of all lines 3 % repeat an earlier one, 2 %
differ from an earlier one in one word, 1 % contradict one. Memory is the largest sum of the
resident sizes of the process and its workers, sampled every 0.2 s; pages that they share, such as
the mapped file, are counted in each.
"""

import argparse
import gzip
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from infra.objects import put

WORDS = 20_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--pairs", type=int, default=1_000_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        planted = write(folder / "pairs.jsonl.gz", options.pairs)
        spec = {
            "name": "dpo.build",
            "environment": "train",
            "config": {},
            "inputs": {"pairs": put(folder / "pairs.jsonl.gz", (folder / "in").as_uri()).uri},
            "output": (folder / "output").as_uri(),
            "max_hours": 1,
            "key": "benchmark",
        }
        (folder / "spec.json").write_text(json.dumps(spec))
        seconds, cpu, memory = watched([sys.executable, "-m", "jobs.dpo.build", str(folder)])
        result = json.loads((folder / "result.json").read_text())
        if result["status"] != "succeeded":
            sys.exit(result["error"])
        card = json.loads((folder / "scratch" / "dataset" / "card.json").read_text())
    print(f"{options.pairs:,} pairs: {seconds:.0f} s, {cpu:.0f} CPU s, {memory:.2f} GiB at most")
    for what, count in planted.items():
        counts = card["left_out"] | card["conflicts"]
        found = sum(counts[name] for name in FOUND_AS[what])
        print(f"{what:20} {count:>10,} planted {found:>10,} found")
    figures = {"pairs": options.pairs, "seconds": seconds, "cpu_seconds": cpu, "gib": memory}
    print(json.dumps({**figures, "planted": planted, "left_out": card["left_out"]}))


FOUND_AS = {
    "exact duplicates": ["exact duplicates"],
    "near duplicates": ["near duplicates"],
    "conflicts": ["resolved", "dropped"],
}


def write(path: Path, pairs: int) -> dict[str, int]:
    """Write the pairs; how many of each kind were planted."""
    chance = random.Random(0)
    words = [f"{chance.choice('bcdfglmnprst')}{chance.choice('aeiou')}{n:x}" for n in range(WORDS)]
    planted = {"exact duplicates": 0, "near duplicates": 0, "conflicts": 0}
    recent: list[dict[str, str]] = []

    def text(least: int, most: int) -> str:
        return " ".join(chance.choices(words, k=chance.randint(least, most)))

    with gzip.open(path, "wt", compresslevel=1) as stream:
        for _ in range(pairs):
            draw = chance.random()
            row = {"prompt": text(20, 60), "chosen": text(20, 100), "rejected": text(20, 100)}
            if recent and draw < 0.06:
                old = recent.pop(chance.randrange(len(recent)))
                if draw < 0.03:
                    row, kind = old, "exact duplicates"
                elif draw < 0.05:
                    changed = old["chosen"].split()
                    changed[-1] = "changed"
                    row, kind = {**old, "chosen": " ".join(changed)}, "near duplicates"
                else:
                    row = {**old, "chosen": old["rejected"], "rejected": old["chosen"]}
                    kind = "conflicts"
                planted[kind] += 1
            elif recent and draw < 0.4:
                row["prompt"] = chance.choice(recent)["prompt"]
            elif len(recent) < 50_000:
                recent.append(row)
            stream.write(json.dumps(row) + "\n")
    return planted


def watched(command: list[str]) -> tuple[float, float, float]:
    """(seconds, CPU seconds, GiB at most) of a command and its children."""
    began = time.monotonic()
    process = psutil.Popen(command)
    largest, cpu = 0.0, 0.0
    while process.poll() is None:
        try:
            family = [process, *process.children(recursive=True)]
            largest = max(largest, sum(member.memory_info().rss for member in family) / 2**30)
            times = process.cpu_times()
            cpu = max(cpu, times.user + times.system + times.children_user + times.children_system)
        except psutil.Error:
            continue
        time.sleep(0.2)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return time.monotonic() - began, cpu, largest


if __name__ == "__main__":
    main()
