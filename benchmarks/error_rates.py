"""How often benchmarks cry wolf, and which slowdowns they find: of samples that are stored.

    nightshift run benchmarks --suite control-plane --against HEAD --rounds 150 --least-effect 0.01
    python -m benchmarks.error_rates [--rounds 60] [--least-effect 0.05]

The first measures a committed tree against itself, and a least effect so small lets hardly a figure
end early. The second takes every such session and makes
runs of it: as they were measured, one block of rounds after the other; and drawn, rounds at random
with the sides of each exchanged at random, which changes nothing where both are the same code.
Slowdowns are planted in the numbers: all samples of our side become worse by that share. So they
tell of the noise of this machine and of the rule, not of how a slowdown shows in a figure.
"""

import argparse
import json
from collections.abc import Iterator

import numpy as np
from psycopg import Connection

from infra import database
from jobs.benchmarks.statistics import judge, looks, paired_ratio

DRAWN = 200
PLANTED = (0.05, 0.1, 0.2)
Pairs = np.ndarray
"""(rounds, 2): our side and the other one, in the same round."""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=60, help="of each run at most")
    parser.add_argument("--least-effect", type=float, default=0.05, help="share that matters")
    options = parser.parse_args()
    with database.pool().connection() as connection:
        recorded = dict(figures(connection))
    if not recorded:
        raise SystemExit("no committed tree was measured against itself yet")
    told = {}
    columns = ["blocks", "false", "drawn: false", *(f"found {share:.0%}" for share in PLANTED)]
    print(f"{'figure':34}" + "".join(f"{name:>14}" for name in columns))
    for name, pairs in recorded.items():
        told[name] = rates(pairs, options.rounds, options.least_effect)
        print(f"{name:34}" + "".join(f"{value:>14}" for value in told[name].values()))
    print(json.dumps({"benchmark": "error_rates", "rounds": options.rounds, "figures": told}))


def figures(connection: "Connection[dict]") -> Iterator[tuple[str, Pairs]]:
    """Every figure of every session that measured a tree against itself, by session and name."""
    rows = connection.execute(
        "SELECT s.session, s.figure, array_agg(s.value ORDER BY s.round) AS ours,"
        " array_agg(o.value ORDER BY s.round) AS theirs FROM benchmark_measured s"
        " JOIN benchmark_measured o ON (o.session, o.figure, o.round, o.side) ="
        " (s.session, s.figure, s.round, 'then')"
        " JOIN benchmark_sessions t ON t.id = s.session"
        " WHERE s.side = 'now' AND t.against = t.revision GROUP BY s.session, s.figure"
        " ORDER BY s.session, s.figure"
    ).fetchall()
    for row in rows:
        name = f"{row['session'][-22:-14]} {row['figure']}"
        yield name, np.array([row["ours"], row["theirs"]]).T


def rates(pairs: Pairs, rounds: int, least: float) -> dict[str, str]:
    """Of one figure: blocks, false alarms in them and in drawn runs, and slowdowns found."""
    blocks = [pairs[at : at + rounds] for at in range(0, len(pairs) - rounds + 1, rounds)]
    draw = np.random.default_rng(0)
    drawn = [exchanged(pairs[draw.permutation(len(pairs))[:rounds]], draw) for _ in range(DRAWN)]
    told = {
        "blocks": f"{len(blocks)}",
        "false": f"{sum(_changed(block, least) for block in blocks)}",
        "drawn: false": f"{np.mean([_changed(one, least) for one in drawn]):.1%}",
    }
    for share in PLANTED:
        slow = [verdict(one * [1 - share, 1], least) == "slower" for one in drawn]
        told[f"found {share:.0%}"] = f"{np.mean(slow):.1%}"
    return told


def exchanged(pairs: Pairs, draw: np.random.Generator) -> Pairs:
    """The pairs, the sides of each exchanged or not."""
    return np.where(draw.integers(0, 2, (len(pairs), 1)) == 1, pairs[:, ::-1], pairs)


def _changed(pairs: Pairs, least: float) -> bool:
    return verdict(pairs, least) in ("faster", "slower")


def verdict(pairs: Pairs, least: float) -> str:
    """The verdict as a run comes to it: at the first look that is sure."""
    kind = ""
    for count in looks(len(pairs)):
        ours, theirs = (list(side[:count]) for side in pairs.T)
        kind = judge(paired_ratio(ours, theirs), "more", least).kind
        if kind != "cannot tell":
            break
    return kind


if __name__ == "__main__":
    main()
