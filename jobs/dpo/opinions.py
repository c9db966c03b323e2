"""Pairs from what users left: comparisons and corrections are pairs by themselves, thumbs and
stars make pairs among the answers to the same prompt."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from itertools import combinations

from jobs.dpo.config import PairChoice
from jobs.dpo.data import Feedback, Pair
from jobs.policy.data import Trajectory, stored_content

STARS = 4
"""Between the best and the worst rating: what counts as the full margin."""


READ, USED = "read", "used"
ALONE = "thumbs and stars without an answer to compare with"


def pairs(records: Iterable[Feedback], config: PairChoice, counts: Counter[str]) -> Iterator[Pair]:
    """The pairs that the feedback holds. `counts` says how much was read, how much is used, and why
    the rest is not.

    A user's last thumb or rating of an answer counts; users without a name are one each.
    """
    opinions: dict[tuple, dict[str, dict[str, float]]] = defaultdict(lambda: defaultdict(dict))
    told: dict[tuple, Feedback] = {}
    for number, record in enumerate(records):
        counts[READ] += 1
        if record.kind in ("comparison", "correction"):
            pair = _direct(record)
            if record.kind == "comparison" and record.value == 0:
                counts["ties"] += 1
            elif pair.chosen == pair.rejected:
                counts["chosen equal to rejected"] += 1
            else:
                counts[USED] += 1
                yield pair
            continue
        where = (record.kind, record.simulated, record.prompt)
        value = record.value or 0.0
        votes, voter = opinions[where][record.completion], record.user or f" {number}"
        counts["changed later by the same user"] += voter in votes
        votes[voter] = value
        told[where] = record
    for where, answers in opinions.items():
        made = list(_among(told[where], answers, config))
        kept = made[: config.pairs_per_prompt]
        used, paired = (
            {text for pair in some for text in (pair.chosen, pair.rejected)}
            for some in (kept, made)
        )
        for text, votes in answers.items():
            beyond = "beyond --pairs-per-prompt" if text in paired else ALONE
            counts[USED if text in used else beyond] += len(votes)
        yield from kept


def simulated_pairs(trajectories: Iterable[Trajectory], config: PairChoice) -> Iterator[Pair]:
    """Pairs among sampled answers to the same prompt by their rewards, marked as simulated."""
    answers: dict[str, dict[str, Trajectory]] = defaultdict(dict)
    for trajectory in trajectories:
        answers[trajectory.prompt][trajectory.completion] = trajectory
    for prompt, found in answers.items():
        ranked = sorted(found.values(), key=lambda t: -t.reward)
        made = [
            (better.reward - worse.reward, better, worse)
            for better, worse in combinations(ranked, 2)
            if better.reward - worse.reward >= config.simulated_margin
        ]
        made.sort(key=lambda one: -one[0])
        for difference, better, worse in made[: config.pairs_per_prompt]:
            yield Pair(
                prompt,
                better.completion,
                worse.completion,
                source="simulated",
                simulated=True,
                margin=min(1.0, difference),
                is_chat=not isinstance(stored_content(prompt), str),
                columns=better.columns,
            )


def _direct(record: Feedback) -> Pair:
    if record.kind == "correction":
        chosen, rejected = record.correction or "", record.completion
        columns = {"reference": chosen, **record.columns}
    else:
        chosen, rejected = record.completion, record.against or ""
        columns = record.columns
        if record.value == -1:
            chosen, rejected = rejected, chosen
    return Pair(
        record.prompt,
        chosen,
        rejected,
        source="simulated" if record.simulated else record.kind,
        user=record.user,
        simulated=record.simulated,
        is_chat=record.is_chat,
        group=record.group,
        columns=columns,
    )


def _among(
    told: Feedback, answers: dict[str, dict[str, float]], config: PairChoice
) -> Iterator[Pair]:
    """Pairs among the rated answers to one prompt, the clearest first."""
    means = {text: sum(votes.values()) / len(votes) for text, votes in answers.items()}
    is_thumb = told.kind == "thumb"
    made = []
    for first, second in combinations(answers, 2):
        better, worse = (first, second) if means[first] >= means[second] else (second, first)
        difference = means[better] - means[worse]
        clear = means[better] > 0 > means[worse] if is_thumb else difference >= config.rating_margin
        if clear:
            agreeing = min(len(answers[better]), len(answers[worse]))
            made.append((difference, agreeing, better, worse))
    made.sort(key=lambda one: (-one[0], -one[1]))
    for difference, agreeing, better, worse in made:
        yield Pair(
            told.prompt,
            better,
            worse,
            source="simulated" if told.simulated else told.kind,
            votes=agreeing,
            margin=difference / 2 if is_thumb else min(1.0, difference / STARS),
            simulated=told.simulated,
            is_chat=told.is_chat,
            group=told.group,
            columns=told.columns,
        )
