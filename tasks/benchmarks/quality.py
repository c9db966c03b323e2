"""How good every champion is, from the verdicts that made it one; nothing is measured anew.

A verdict's gain is paired by held-out item, candidate minus champion. The improvement since the
first version adds up the gains of its line. Their bounds add up too: all verdicts of a line have
the same held-out items, so that their errors may go together.
"""

from decimal import Decimal

from pydantic import BaseModel, ConfigDict

from infra import ledger
from infra.database import Pool
from infra.models import registry, verdicts
from infra.models.verdicts import Check, Judged

NONE = "none"
"""The champion of a first version."""


class Quality(BaseModel):
    """A champion: its checks, its gain over the version before, that of its whole line since
    `baseline`, and the dollars that its line has cost."""

    model_config = ConfigDict(protected_namespaces=())

    model: str
    kind: str
    version: str
    baseline: str
    checks: list[Check]
    gain: float
    low: float
    high: float
    improvement: float
    improvement_low: float
    improvement_high: float
    usd: Decimal

    @property
    def usd_per_point(self) -> Decimal | None:
        """Dollars for 0.01 of improvement, None where none is sure."""
        if self.improvement_low <= 0:
            return None
        return self.usd / (Decimal(str(self.improvement)) * 100)


def champions(pool: Pool) -> list[Quality]:
    """Every champion that a verdict has made."""
    found = []
    for model in registry.models():
        champion = registry.by_alias(model, "champion")
        if champion is None:
            continue
        line = _line(champion.version, verdicts.promotions(pool, model))
        if not line:
            continue
        steps = [one for one in line if one.champion != NONE] or line
        last = steps[-1].verdict
        intervals = [one.verdict.confidence_interval for one in steps]
        found.append(
            Quality(
                model=model,
                kind=champion.kind,
                version=champion.version,
                baseline=steps[0].champion,
                checks=last.checks,
                gain=last.gain,
                low=last.confidence_interval[0],
                high=last.confidence_interval[1],
                improvement=sum(one.verdict.gain for one in steps),
                improvement_low=sum(low for low, _ in intervals),
                improvement_high=sum(high for _, high in intervals),
                usd=sum((ledger.charged(pool, f"run:{one.run_id}") for one in steps), Decimal(0)),
            )
        )
    return found


def _line(version: str, promotions: list[Judged]) -> list[Judged]:
    """The verdicts that led to `version`, oldest first: each on the champion of the next."""
    by_candidate = {one.candidate: one for one in promotions}
    line: list[Judged] = []
    while (one := by_candidate.pop(version, None)) is not None:
        line.append(one)
        version = one.champion
    return line[::-1]
