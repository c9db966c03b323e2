"""How much answers repeat themselves and each other. No torch here.

    repetition   mean share of an answer's bigrams that it had before: Welleck et al. 2020
                 (arXiv:1908.04319, section 6), who count 4-grams
    distinct     distinct bigrams among all bigrams of all answers: Li et al. 2016, arXiv:1510.03055
    identical    share of answers that an earlier prompt was given, too
    compression  bytes of all answers over their compressed ones: Shaib et al. 2024,
                 arXiv:2403.00553

The first two count tokens, so that no language and no missing space matters.
"""

import zlib
from collections.abc import Sequence
from itertools import pairwise


def diversity(texts: Sequence[str], tokens: Sequence[Sequence[int]]) -> dict[str, float]:
    """All four by name, of the answers to different prompts; `tokens` are those of each answer."""
    bigrams = [list(pairwise(each)) for each in tokens]
    repeated = [1 - len(set(each)) / len(each) if each else 0.0 for each in bigrams]
    every = [bigram for each in bigrams for bigram in each]
    raw = "\n".join(texts).encode()
    return {
        "repetition": sum(repeated) / len(repeated),
        "distinct": len(set(every)) / len(every) if every else 1.0,
        "identical": 1 - len({text.strip() for text in texts}) / len(texts),
        "compression": len(raw) / len(zlib.compress(raw, 9)),
    }
