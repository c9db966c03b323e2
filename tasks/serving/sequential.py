"""Whether a challenger is worse than the champion, told from pairs as they come, at any time.

Each answer of the challenger is paired with one that the champion gave just before. A pair says
*worse*, *better* or nothing. Of equal versions either is as likely, whatever the distribution: the
number of *worse* is a fair coin's. Against the fair coin stands one that falls on *worse* more
often, with Jeffreys' prior on (1/2, 1]. Their likelihood ratio is a test martingale, an e-value at
every moment: with equal versions it ever reaches 1 / alpha with a probability of at most alpha
(Ville 1939; Robbins 1970, Annals of Mathematical Statistics 41; Ramdas, Grünwald, Vovk and Shafer
2023, Statistical Science 38). So it may be looked at every second, and the first crossing counts.
"""

import math
from collections import deque
from dataclasses import dataclass
from datetime import timedelta
from typing import Generic, TypeVar

from infra.records.rollouts import Opinion, Outcome

ALPHA = 0.05
"""Probability of a false alarm in a whole rollout at most, all measures together."""
MEASURES = ("errors", "latency", "feedback")
ALARM = len(MEASURES) / ALPHA
"""The e-value of one measure at which the challenger is worse: its share of ALPHA (Bonferroni)."""
SLOWER = 1.1
"""An answer is slower from this ratio to the champion's on."""
TOGETHER = timedelta(minutes=1)
"""So far apart the load may have changed: latency and feedback are not compared then."""
WAITING = 1000
"""Answers of the champion that wait for a partner, of users and of held-out prompts each."""

Item = TypeVar("Item", Outcome, Opinion)


def e_value(worse: int, better: int) -> float:
    """Evidence against 'not worse', from so many pairs of each kind; 1 without any.

    What is below 0.001 may be 0: a chance that small underflows.
    """
    from scipy.special import betainc, betaln

    above = float(betainc(better + 0.5, worse + 0.5, 0.5))  # of Beta(worse, better), beyond 1/2
    if above == 0:
        return 0.0
    count = worse + better
    log = count * math.log(2) + float(betaln(worse + 0.5, better + 0.5) - betaln(0.5, 0.5))
    return math.exp(min(log + math.log(2 * above), 700))


@dataclass
class Measure:
    """One thing that is compared. `largest` is the largest e-value that it ever had."""

    worse: int = 0
    better: int = 0
    largest: float = 1.0

    def add(self, challenger: float, champion: float) -> None:
        """A pair; more is worse."""
        self.worse += challenger > champion
        self.better += challenger < champion

    def look(self) -> bool:
        """Whether the challenger is worse by all pairs so far."""
        self.largest = max(self.largest, e_value(self.worse, self.better))
        return self.largest >= ALARM


class Pairing(Generic[Item]):
    """Gives each item of the challenger the champion's newest before it that has no partner yet.

    Who is paired depends on the order alone, never on how an item turned out.
    """

    def __init__(self) -> None:
        self.waiting: deque[Item] = deque(maxlen=WAITING)

    def partner(self, item: Item) -> Item | None:
        """The champion's item beside one of the challenger; None where there is none."""
        if not item.by_challenger:
            self.waiting.append(item)
            return None
        return self.waiting.pop() if self.waiting else None


class Comparison:
    """All that is compared in one rollout. `pairs` counts the pairs of requests."""

    def __init__(self) -> None:
        self.measures = {name: Measure() for name in MEASURES}
        self.pairs = 0
        self.of_users, self.of_ours = Pairing[Outcome](), Pairing[Outcome]()
        self.opinions = Pairing[Opinion]()

    def add_outcome(self, item: Outcome) -> None:
        """Held-out prompts have partners among each other only: they are other prompts."""
        partner = (self.of_ours if item.asked_by_us else self.of_users).partner(item)
        if partner is None:
            return
        self.pairs += 1
        self.measures["errors"].add(item.failed, partner.failed)
        if not (item.failed or partner.failed) and abs(item.at - partner.at) <= TOGETHER:
            self.measures["latency"].add(item.latency > SLOWER * partner.latency, 0.5)

    def add_opinion(self, item: Opinion) -> None:
        partner = self.opinions.partner(item)
        if partner is not None:
            self.measures["feedback"].add(-item.score, -partner.score)

    def worse(self) -> str | None:
        """The measure by which the challenger is worse, by all pairs so far."""
        for name, measure in self.measures.items():
            if measure.look():
                return name
        return None
