"""The ten nearest of 100,000 vectors of 384 numbers: libraries beside numpy, and their recall.

    nightshift run benchmarks --suite search

Inner products of vectors of length 1, one query after the other, one thread, CPU time: a loaded
machine changes it least. Numpy multiplies with the machine's own BLAS and partitions the products.
An index is built once for all rounds. The vectors are made up: about 2,000 middles, with directions
whose variance falls as 1 / i as that of embeddings does. Recall depends on the vectors: real ones
may give more or less.
"""

import time
from collections.abc import Callable, Iterator
from typing import Any

import faiss
import numpy as np

from benchmarks.figures import Take, figure, yardstick

VECTORS, WIDTH, WANTED = 100_000, 384, 10
MIDDLES = 2_000
QUERIES = 50
"""In a sample of a time."""
CHECKED = 200
"""In a sample of recall."""

Vectors = np.ndarray[Any, np.dtype[np.float32]]
"""(count, WIDTH), each of length 1."""
Search = Callable[[Vectors], "np.ndarray[Any, Any]"]
"""Numbers of the WANTED nearest of one query, (WIDTH,)."""


def vectors(count: int, draw: np.random.Generator) -> Vectors:
    """Vectors about middles that are the same in every call."""
    middles = np.random.default_rng(0).standard_normal((MIDDLES, WIDTH), np.float32)
    around = draw.standard_normal((count, WIDTH), np.float32)
    spread = np.arange(1, WIDTH + 1, dtype=np.float32) ** -0.5
    made = (middles[draw.integers(0, MIDDLES, count)] + around) * spread
    return made / np.linalg.norm(made, axis=1, keepdims=True)


def stored() -> Vectors:
    """Those that are searched."""
    return vectors(VECTORS, np.random.default_rng(1))


def by_numpy(kept: Vectors) -> Search:
    """The baseline: one product, and the largest of it in order."""

    def search(query: Vectors) -> "np.ndarray[Any, Any]":
        products = kept @ query
        found = np.argpartition(products, -WANTED)[-WANTED:]
        return found[np.argsort(-products[found])]

    return search


def by_faiss(kept: Vectors, kind: str, candidates: int = 1) -> Search:
    """An index of faiss, `candidates` times as many compared exactly as are wanted."""
    faiss.omp_set_num_threads(1)
    index = faiss.index_factory(WIDTH, kind, faiss.METRIC_INNER_PRODUCT)
    index.train(kept[:20_000])
    index.add(kept)
    if candidates > 1:
        index.k_factor = candidates
    return lambda query: index.search(query[None], WANTED)[1][0]


def eight_bits(kept: Vectors) -> Search:
    """All compared by codes of eight bits, 40 of them exactly."""
    return by_faiss(kept, "SQ8,RFlat", 4)


def four_bits(kept: Vectors) -> Search:
    """All compared by codes of four bits for each two numbers, 800 of them exactly."""
    return by_faiss(kept, "PQ192x4fs,RFlat", 80)


def times(search: Search) -> Take:
    """CPU milliseconds of single queries, other ones in every sample."""
    draw = np.random.default_rng(2)

    def take() -> list[float]:
        found = []
        for query in vectors(QUERIES, draw):
            began = time.process_time()
            search(query)
            found.append((time.process_time() - began) * 1000)
        return found

    return take


def recall(kept: Vectors, search: Search) -> Take:
    """Share of the true nearest that are found, other queries in every sample."""
    draw = np.random.default_rng(2)

    def take() -> float:
        asked = vectors(CHECKED, draw)
        nearest = np.argpartition(asked @ kept.T, -WANTED)[:, -WANTED:]
        return float(
            np.mean([np.isin(true, search(one)) for true, one in zip(nearest, asked, strict=True)])
        )

    return take


@yardstick("CPU ms/query")
def numpy_search() -> Iterator[Take]:
    """Exact, by numpy."""
    yield times(by_numpy(stored()))


@figure("search", "CPU ms/query", better="less", beside="numpy_search")
def search_flat() -> Iterator[Take]:
    """Exact, by faiss."""
    yield times(by_faiss(stored(), "Flat"))


@figure("search", "CPU ms/query", better="less", beside="numpy_search")
def search_eight_bits() -> Iterator[Take]:
    yield times(eight_bits(stored()))


@figure("search", "recall at 10")
def search_eight_bits_recall() -> Iterator[Take]:
    kept = stored()
    yield recall(kept, eight_bits(kept))


@figure("search", "CPU ms/query", better="less", beside="numpy_search")
def search_four_bits() -> Iterator[Take]:
    yield times(four_bits(stored()))


@figure("search", "recall at 10")
def search_four_bits_recall() -> Iterator[Take]:
    kept = stored()
    yield recall(kept, four_bits(kept))
