"""How often the candidate's answers beat the champion's, also with their lengths held equal."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from pydantic import BaseModel

from tasks.champions.gate import exact_share, paired_interval

RIDGE = 1e-3


class WinRate(BaseModel):
    """Shares of held-out prompts, 0 to 1, a tie being half a win; `low` and `high` at 95 %."""

    rate: float
    low: float
    high: float
    length_controlled: float


def win_rate(rows: Sequence[dict[str, Any]]) -> WinRate:
    """From the rows of an evaluation with `win` and both lengths in tokens.

    The interval of a judge that always says the same is the exact binomial one (Clopper and Pearson
    1934). Length-controlled: a logistic regression of the win on the difference in length, at
    difference 0 (Dubois et al. 2024, arXiv:2404.04475, without its terms for instructions).
    """
    from scipy.optimize import minimize
    from scipy.special import expit

    wins = np.array([row["win"] for row in rows], float)
    longer = np.array([row["candidate"]["length"] - row["champion"]["length"] for row in rows])
    spread = float(longer.std())
    feature = np.tanh(longer / spread) if spread else np.zeros(len(rows))

    def loss(parameters: np.ndarray) -> float:
        logits = parameters[0] + parameters[1] * feature
        fit = np.logaddexp(0, logits) - wins * logits
        return float(fit.mean() + RIDGE * (parameters**2).sum())

    found = minimize(loss, np.zeros(2)).x
    if len(set(wins)) == 1 and wins[0] in (0, 1):
        rate = float(wins[0])
        low, high = exact_share(int(wins.sum()), len(wins))
    else:
        rate, low, high = paired_interval(list(wins), [0.0] * len(wins))
    return WinRate(rate=rate, low=low, high=high, length_controlled=float(expit(found[0])))
