"""How often a canary is stopped: equal versions, and challengers that are worse, by simulation.

    python -m benchmarks.canary [--rollouts 200] [--pairs 1200]

A rollout is a stream of requests, a quarter of them for the challenger; it ends with so many pairs
or with the alarm, which is looked for after every tenth. Latencies are log-normal (sigma 0.5), one
request in a thousand fails, every answer is judged: by a thumb (80 % up), or a score from 0 to 1
with a standard deviation of 0.2 around 0.6. With equal versions any alarm is a false one.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np

from infra.records.rollouts import Opinion, Outcome
from tasks.serving.sequential import Comparison

SHARE = 0.25
LOOK_PAIRS = 10
BEGUN = datetime(2026, 1, 1, tzinfo=UTC)
GAP = timedelta(seconds=0.1)


@dataclass(frozen=True)
class Challenger:
    """What is wrong with it: ratio of latencies, share of requests that fail, points of reward."""

    slower: float = 1.0
    failing: float = 0.001
    points: float = 0.0
    thumbs: bool = True


CASES = {
    "equal, thumbs": Challenger(),
    "equal, scores": Challenger(thumbs=False),
    "+50 % latency": Challenger(slower=1.5),
    "2 % errors": Challenger(failing=0.02),
    "-10 points, scores": Challenger(points=-0.1, thumbs=False),
    "-10 points, thumbs": Challenger(points=-0.1),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rollouts", type=int, default=200, help="of each case")
    parser.add_argument("--pairs", type=int, default=1200, help="of a rollout, at most")
    options = parser.parse_args()
    told = {}
    print(f"{'challenger':20} {'stopped':>8} {'after pairs, median':>20}")
    for name, challenger in CASES.items():
        stops = [stopped_after(challenger, options.pairs, n) for n in range(options.rollouts)]
        after = [stop for stop in stops if stop is not None]
        share = len(after) / len(stops)
        median = int(np.median(after)) if after else None
        told[name] = {"stopped": share, "median_pairs": median}
        print(f"{name:20} {share:8.1%} {median or '':>20}")
    print(json.dumps({"benchmark": "canary", **vars(options), "cases": told}))


def stopped_after(challenger: Challenger, pairs: int, seed: int) -> int | None:
    """After how many pairs the rollout is stopped; None where it passes."""
    comparison = Comparison()
    looked = 0
    for outcome, opinion in stream(challenger, np.random.default_rng(seed)):
        comparison.add_outcome(outcome)
        if not outcome.failed:
            comparison.add_opinion(opinion)
        if comparison.pairs >= looked + LOOK_PAIRS:
            looked = comparison.pairs
            if comparison.worse() is not None:
                return looked
            if looked >= pairs:
                return None
    raise AssertionError("the stream does not end")


def stream(
    challenger: Challenger, chance: np.random.Generator
) -> Iterator[tuple[Outcome, Opinion]]:
    """Requests for ever, as they are stored, with what is thought of each answer."""
    number = 0
    while True:
        ours = chance.random(1000) < SHARE
        latency = 400 * np.exp(0.5 * chance.standard_normal(1000))
        latency *= np.where(ours, challenger.slower, 1)
        failed = chance.random(1000) < np.where(ours, challenger.failing, 0.001)
        points = np.where(ours, challenger.points, 0)
        if challenger.thumbs:
            score = (chance.random(1000) < 0.8 + points).astype(float)
        else:
            score = np.clip(0.6 + points + 0.2 * chance.standard_normal(1000), 0, 1)
        for one in range(1000):
            number += 1
            common = {"id": number, "by_challenger": bool(ours[one]), "at": BEGUN + number * GAP}
            yield (
                Outcome.model_construct(
                    asked_by_us=False, failed=bool(failed[one]), latency=latency[one], **common
                ),
                Opinion.model_construct(score=score[one], **common),
            )


if __name__ == "__main__":
    main()
