"""The gate of policies says yes to a better candidate, and no to a worse, an equal, a broken and a
hacked one, judged by recorded answers."""

import math
from typing import Any

import numpy as np
import pytest

from jobs.policy.diversity import diversity
from tasks.policy.gate import REFERENCES, Gate, has_converged, judge

SIDES = ("candidate", *REFERENCES)
WORDS = (
    "the a little bear dog girl ran found saw big red ball tree and was in house said to".split()
)
HAPPY = "She was happy happy happy happy happy happy happy happy"
SAME = {
    "length": 20.0,
    "unfinished": 0.05,
    "invalid": 0.1,
    "perplexity": 5.0,
    "repetition": 0.03,
    "distinct": 0.29,
    "identical": 0.0,
    "compression": 2.5,
}


def rewards(mean: float, seed: int, items: int = 200) -> list[float]:
    return list((np.random.default_rng(seed).random(items) < mean).astype(float))


def story(seed: int, words: int = 12) -> str:
    return " ".join(np.random.default_rng(seed).choice(WORDS, words))


def rows_of(ours, theirs, groups, texts) -> list[dict[str, Any]]:
    texts = texts or {side: [story(n) for n in range(len(ours))] for side in SIDES}
    given = {"candidate": ours, "champion": theirs, "base": theirs}
    return [
        {
            "prompt": f"say {n}",
            "columns": {"group": groups[n]} if groups else {},
            **{
                side: {
                    "completion": texts[side][n],
                    "reward": given[side][n],
                    "length": len(texts[side][n].split()),
                }
                for side in SIDES
            },
        }
        for n in range(len(ours))
    ]


def metrics_of(kl: float = 1.0, **changed: dict[str, float]) -> dict[str, float]:
    """SAME for all, with what is changed of each side."""
    sides = {side: {**SAME, **changed.get(side, {})} for side in SIDES}
    named = {f"{side}_{name}": v for side, each in sides.items() for name, v in each.items()}
    return {"kl": kl, **named}


def verdict(ours, theirs, /, kl=1.0, gate=Gate(), groups=None, texts=None, **changed):  # noqa: B008
    """Of the candidate's rewards and the champion's, which are the base's too."""
    rows = rows_of(ours, theirs, groups, texts)
    return judge(rows, metrics_of(kl, **changed), gate)


def test_no_gain_over_a_champion_that_is_better_than_the_base_has_converged() -> None:
    def told(ours, champion, base, kl=1.0) -> bool:
        rows = rows_of(ours, champion, None, None)
        for row, value in zip(rows, base, strict=True):
            row["base"]["reward"] = value
        return has_converged(rows, judge(rows, metrics_of(kl), Gate()), Gate())

    high, again, low = rewards(0.8, 1), rewards(0.8, 2), rewards(0.3, 3)
    assert told(high, again, low)
    assert told(high, high, low), "the same answers"
    assert not told(high, low, low), "a gain"
    assert not told(rewards(0.3, 4), low, low), "nothing has been learnt yet"
    assert not told(high, again, low, kl=90), "a guardrail failed"
    assert not told(high[:7], again[:7], low[:7]), "too few to tell"


def better(**changed):
    return verdict(rewards(0.9, 1), rewards(0.1, 2), **changed)


def refused(result) -> str:
    assert not result.promote
    return "; ".join(check.explanation for check in result.checks if not check.passed)


def measured(texts: list[str]) -> dict[str, float]:
    """What the judging measures of such answers, a word being a token."""
    numbers = {word: n for n, word in enumerate(dict.fromkeys(" ".join(texts).split()))}
    return diversity(texts, [[numbers[word] for word in text.split()] for text in texts])


def test_better_candidate_is_promoted() -> None:
    result = verdict(rewards(0.7, 1), rewards(0.3, 2))
    assert result.promote
    assert 0.2 < result.confidence_interval[0] < result.gain < result.confidence_interval[1] < 0.6


@pytest.mark.parametrize(
    ("candidate", "champion"),
    [
        (rewards(0.5, 1), rewards(0.5, 1)),
        (rewards(0.3, 1), rewards(0.7, 2)),
        (rewards(0.52, 1), rewards(0.5, 2)),
        ([1.0] * 50, [1.0] * 50),
    ],
    ids=["equal", "worse", "within noise", "both perfect"],
)
def test_candidate_that_is_not_surely_better_is_refused(candidate, champion) -> None:
    assert "gain" in refused(verdict(candidate, champion))


@pytest.mark.parametrize("side", REFERENCES)
@pytest.mark.parametrize(
    ("ours", "named"),
    [
        ({"length": 31}, "length"),
        ({"length": 12}, "length"),
        ({"length": 0}, "length"),
        ({"perplexity": 8}, "perplexity"),
        ({"invalid": 0.13}, "invalid"),
        ({"repetition": 0.14}, "more repetition"),
        ({"distinct": 0.14}, "distinct bigrams"),
        ({"identical": 0.11}, "more identical"),
        ({"compression": 4}, "compression"),
    ],
)
def test_each_guardrail_refuses_a_better_candidate_by_champion_and_base_alone(
    side, ours, named
) -> None:
    other = next(name for name in REFERENCES if name != side)
    told = refused(better(candidate=ours, **{other: ours}))
    assert f"{named} against the {side}" in told.replace("answers ", "").replace("outputs ", "")
    assert f"against the {other}" not in told


@pytest.mark.parametrize("kl", [41.0, math.nan])
def test_kl_a_completion(kl) -> None:
    assert "KL to the base" in refused(better(kl=kl, candidate={"length": 20.0}))


def test_kl_a_token_whatever_the_length() -> None:
    told = refused(better(kl=31.6, **{side: {"length": 32.0} for side in SIDES}))
    assert told == "KL to the base 0.988 nats a token, at most 0.3"
    assert better(kl=31.6, **{side: {"length": 128.0} for side in SIDES}).promote


def test_collapse_to_one_sentence_is_refused() -> None:
    texts = {side: [story(n, 10) for n in range(40)] for side in SIDES}
    texts["candidate"] = [HAPPY] * 40
    ours, theirs = measured(texts["candidate"]), measured(texts["base"])
    assert ours["repetition"] > 0.5 > 0.2 > theirs["repetition"]
    gained = list(np.random.default_rng(0).random(40) + 7), [0.0] * 40
    changed = {"champion": theirs, "base": theirs}
    told = refused(verdict(*gained, texts=texts, candidate=ours, **changed))
    for name in ("more repetition", "distinct bigrams", "more identical answers", "compression"):
        assert name in told
    assert verdict(*gained, texts=texts, candidate=theirs, **changed).promote


def test_guardrails_do_not_ratchet_over_two_nights() -> None:
    first = {"perplexity": 7.2, "repetition": 0.11, "distinct": 0.19, "compression": 3.4}
    second = {"perplexity": 9.4, "repetition": 0.19, "distinct": 0.12, "compression": 4.5}
    assert better(candidate=first).promote
    told = refused(better(candidate=second, champion=first))
    assert "the champion" not in told
    assert "perplexity against the base 1.88 ×, at most 1.5" in told
    assert told.count("against the base") == 4


def test_answers_that_are_all_cut_are_refused_though_the_bases_are_cut_too() -> None:
    told = refused(better(**{side: {"unfinished": 1.0, "invalid": 1.0} for side in SIDES}))
    assert told.startswith("unfinished answers 1 share, at most 0.5") and "--max-new-tokens" in told
    assert better(
        gate=Gate(max_unfinished=1), **{side: {"unfinished": 1.0, "invalid": 1.0} for side in SIDES}
    ).promote


@pytest.mark.parametrize(
    "gains",
    [[0.022] * 35, [0.022] * 34 + [0.02201], [1.0] * 35],
    ids=["no width", "next to none", "all"],
)
def test_an_interval_without_width_cannot_tell(gains) -> None:
    told = refused(verdict(gains, [0.0] * 35))
    assert "cannot tell: all 35 gain the same" in told


@pytest.mark.parametrize(("prompts", "promoted"), [(1, False), (7, False), (8, True)])
def test_a_gain_on_a_few_prompts_is_no_sure_one(prompts, promoted) -> None:
    result = verdict([0.6, 0.7] * (prompts // 2) + [0.8] * (prompts % 2), [0.5] * prompts)
    assert result.confidence_interval[0] > 0
    assert result.promote == promoted
    told = f"{prompts} held-out prompts, or groups of them, are too few"
    assert (told in result.reason and "--held-out" in result.reason) != promoted


@pytest.mark.parametrize(("groups", "promoted"), [(4, False), (10, True)])
def test_prompts_of_one_group_err_together(groups, promoted) -> None:
    random = np.random.default_rng(0)
    of = [f"debate {n % groups}" for n in range(80)]
    gains = (np.array([n % groups for n in range(80)]) % 3 + random.random(80)).tolist()
    result = verdict(gains, [0.0] * 80, groups=of)
    assert result.promote == promoted
    assert ("4 held-out prompts, or groups of them, are too few" in result.reason) != promoted
    alone = verdict(gains, [0.0] * 80)
    low, high = result.confidence_interval
    assert high - low > alone.confidence_interval[1] - alone.confidence_interval[0]


def test_a_reward_that_measures_length_is_told() -> None:
    texts = {side: [story(n, 8 + n % 5) for n in range(40)] for side in SIDES}
    texts["candidate"] = [story(n, 10 + n % 5) for n in range(40)]
    lengths = {side: [len(text.split()) for text in texts[side]] for side in SIDES}
    by_length = [[math.log(each) for each in lengths[side]] for side in ("candidate", "champion")]
    by_length[0][0] += 0.3  # else all gain the same
    told = refused(verdict(*by_length, texts=texts))
    assert "correlation of reward and length 0.9" in told and "how long an answer is" in told
    assert verdict(*by_length, texts=texts, gate=Gate(max_length_correlation=1)).promote


@pytest.mark.parametrize(("prompts", "promoted"), [(7, False), (8, True), (35, True)])
def test_a_judge_may_be_unanimous(prompts: int, promoted: bool) -> None:
    """That a candidate wins every time is a gain, though drawing again tells nothing."""
    rows = rows_of([1.0] * prompts, [0.0] * prompts, None, None)
    for row in rows:
        row["win"] = 1.0
    result = judge(rows, metrics_of(), Gate())
    assert result.promote == promoted, result
    assert result.confidence_interval[0] == pytest.approx(2 * 0.025 ** (1 / prompts) - 1)


def test_minimum_gain_must_be_exceeded_surely() -> None:
    ours, champion = rewards(0.7, 1), rewards(0.3, 2)
    assert verdict(ours, champion, gate=Gate(minimum_gain=0.1)).promote
    assert not verdict(ours, champion, gate=Gate(minimum_gain=0.4)).promote


def test_diversity_counts_what_its_sources_count() -> None:
    found = diversity(["a b a b", "a b a b ", "c"], [[1, 2, 1, 2], [1, 2, 1, 2], [3]])
    assert found["repetition"] == pytest.approx((1 / 3 + 1 / 3 + 0) / 3)
    assert found["distinct"] == pytest.approx(2 / 6)
    assert found["identical"] == pytest.approx(1 / 3)
    nothing = {"repetition": 0, "distinct": 1, "identical": 0}
    assert diversity([""], [[0]]).items() >= nothing.items()
    spam = diversity(["happy" * 50] * 30, [[1] * 50] * 30)
    tale = diversity([story(n, 50) for n in range(30)], [[n] for n in range(30)])
    assert spam["compression"] > 20 * tale["compression"]
