"""What a run spends of its tenants' privacy, before it begins.

Epsilons are those of dp-accounting, whose requirements are not the control plane's: it is asked in
the environment of the job that counts by it, too.
"""

import json
import subprocess
from pathlib import Path

from infra.compute import environments
from infra.errors import InputError
from infra.settings import REPOSITORY
from jobs.federated.config import FederatedConfig, Privacy, Rounds, Spent, spends

ENVIRONMENT = "federated"


def protected(rounds: Rounds, privacy: Privacy) -> str:
    """Whose privacy a run protects and what it spends of it, for its plan; the latter only where
    the environment is made."""
    if not privacy.noise_multiplier:
        return ""
    whose = "single records" if privacy.of_records else "whole tenants"
    most = f"epsilon {privacy.max_epsilon:g} at most over all nights"
    if (python := environments.made(ENVIRONMENT)) is None:
        return f"privacy of {whose}, {most}"
    (own,) = _epsilons(python, [[spends(rounds, privacy, rounds.rounds)]], privacy)
    return f"privacy of {whose}: epsilon {own:.2f} by this run, {most}"


def require_privacy(config: FederatedConfig) -> None:
    """Raises InputError where too few tenants have privacy left for one round."""
    privacy, fewest = config.privacy, config.rounds.minimum_tenants
    one = spends(config.rounds, privacy, 1)
    asked = [[*config.spent.get(name, []), one] for name in config.names]
    after = _epsilons(environments.ensure(ENVIRONMENT), asked, privacy)
    told = dict(zip(config.names, after, strict=True))
    spent = {name: value for name, value in told.items() if value > privacy.max_epsilon}
    left = len(told) - len(spent)
    if left >= fewest:
        return
    whom = "; ".join(f"{name} {value:.2f}" for name, value in spent.items())
    raise InputError(
        f"--max-epsilon: {left} of {len(told)} tenants have privacy left for a round, {fewest} are "
        f"needed. With one more round the epsilon of all nights exceeds {privacy.max_epsilon:g} "
        f"for {whom}",
        "Give a larger --noise-multiplier, or --max-epsilon if those whose data it is agree; or "
        "train with other tenants.",
    )


def _epsilons(python: Path, spent: list[list[Spent]], privacy: Privacy) -> list[float]:
    """Of each list of releases."""
    asked = {
        "spent": [[each.model_dump() for each in releases] for releases in spent],
        "delta": privacy.delta,
        "unit": privacy.privacy_unit,
    }
    told = subprocess.run(
        [str(python), "-m", "jobs.federated.accountant"],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        check=True,
        cwd=REPOSITORY,
    )
    return json.loads(told.stdout)
