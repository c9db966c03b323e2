"""Which of many pairs stay: votes on the same pair are counted, conflicts settled, near duplicates
removed. Everything is arrays of one number a pair, so that millions fit in memory."""

import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from multiprocessing import get_context
from pathlib import Path
from zlib import crc32

import numpy as np
import pyarrow as pa
from datasketch import MinHash

from jobs.dpo.data import Pair, normalised

SHINGLE = 3
PERMUTATIONS = 32
BANDS = 8
"""Each of 4 rows of the prompt and 4 of the answers: pairs of which both are 0.9 similar meet in
some band with probability 0.99 (1 - (1 - 0.9^8)^8), then their similarity is estimated."""
TIE = 0.1
"""Log-odds below which opposite votes do not decide."""


def number_of(*texts: str) -> int:
    """64 bits of a hash of the texts, the same on every machine."""
    digest = blake2b("\0".join(texts).encode("utf-8", "surrogatepass"), digest_size=8)
    return int.from_bytes(digest.digest())


@dataclass(frozen=True)
class Vote:
    """A pair as numbers: `pair` whichever way round, `forward` which way, `voter` who with it."""

    pair: int
    forward: bool
    voter: int


def vote_of(pair: Pair, apart: bool = False) -> Vote:
    """The numbers of a pair; unnamed users of one source are one voter. Pairs that the user holds
    out are `apart`: they are no votes on others."""
    prompt, chosen, rejected = map(normalised, (pair.prompt, pair.chosen, pair.rejected))
    forward = chosen < rejected
    first, second = (chosen, rejected) if forward else (rejected, chosen)
    number = number_of(prompt, first, second, *(["apart"] if apart else []))
    source = pair.source if not pair.user else ""
    return Vote(number, forward, number_of(str(number), str(forward), pair.user, source))


@dataclass
class Settled:
    """Rows that stay, with confidence [rows], 0.5 to 1, and the numbers of agreeing voters; and
    the numbers of votes of which none did, and of pairs with conflicts."""

    rows: np.ndarray
    confidence: np.ndarray
    votes: np.ndarray
    duplicates: int
    repeated: int
    outvoted: int
    undecided: int
    conflicts: dict[str, int]

    @property
    def left_out(self) -> dict[str, int]:
        """Why votes have no row of their own: with the rows they are all that there were."""
        return {
            "exact duplicates": self.duplicates,
            "of other users with the same choice": self.repeated,
            "outvoted": self.outvoted,
            "cancelled by opposite votes": self.undecided,
        }


def settle(
    pair: np.ndarray, forward: np.ndarray, voter: np.ndarray, weight: np.ndarray, votes: np.ndarray
) -> Settled:
    """One row of each pair, in the direction that the weights (log-odds) favour; ties go.

    All arrays are [N]: pair and voter uint64, forward bool, weight float, votes integer.
    """
    _, first = np.unique(voter, return_index=True)
    first.sort()
    numbers, group = np.unique(pair[first], return_inverse=True)
    ahead, heavy, many = forward[first], weight[first], votes[first]
    net = np.bincount(group, np.where(ahead, heavy, -heavy), minlength=len(numbers))
    for_it = np.bincount(group, ahead, minlength=len(numbers)) > 0
    against = np.bincount(group, ~ahead, minlength=len(numbers)) > 0
    conflict = for_it & against
    dropped = conflict & (np.abs(net) < TIE)
    wins = (ahead == (net > 0)[group]) | ~conflict[group]
    agreeing = np.bincount(group, np.where(wins, many, 0), minlength=len(numbers))
    stays, place = np.unique(group[wins], return_index=True)
    rows = first[wins][place]
    kept = ~dropped[stays]
    stays, rows = stays[kept], rows[kept]
    order = np.argsort(rows)
    stays, rows = stays[order], rows[order]
    return Settled(
        rows=rows,
        confidence=1 / (1 + np.exp(-np.abs(net[stays]))),
        votes=agreeing[stays].astype(np.int64),
        duplicates=len(pair) - len(first),
        repeated=int((wins & ~dropped[group]).sum()) - len(rows),
        outvoted=int((~wins & ~dropped[group]).sum()),
        undecided=int(dropped[group].sum()),
        conflicts={"resolved": int((conflict & ~dropped).sum()), "dropped": int(dropped.sum())},
    )


def near_duplicates(path: Path, rows: np.ndarray, threshold: float, workers: int | None):
    """[rows] bool: which of these rows of the Arrow file repeat an earlier one nearly.

    Prompt and answers must both be as similar as `threshold`, by MinHash (Broder 1997).
    """
    repeated = np.zeros(len(rows), bool)
    if threshold == 1 or len(rows) < 2:
        return repeated
    signatures = _signatures(path, rows, workers)
    width = PERMUTATIONS // BANDS
    for band in range(BANDS):
        columns = slice(band * width, (band + 1) * width)
        answers = slice(PERMUTATIONS + columns.start, PERMUTATIONS + columns.stop)
        keys = np.ascontiguousarray(np.hstack([signatures[:, columns], signatures[:, answers]]))
        keys = keys.view(np.dtype((np.void, keys.dtype.itemsize * keys.shape[1]))).ravel()
        order = np.argsort(keys, kind="stable")
        begins = np.r_[True, keys[order[1:]] != keys[order[:-1]]]
        leaders = order[np.maximum.accumulate(np.where(begins, np.arange(len(order)), 0))]
        mine, leader = order[~begins], leaders[~begins]
        same = signatures[mine] == signatures[leader]
        prompt = same[:, :PERMUTATIONS].mean(1)
        answer = same[:, PERMUTATIONS:].mean(1)
        repeated[mine[(prompt >= threshold) & (answer >= threshold)]] = True
    return repeated


def _signatures(path: Path, rows: np.ndarray, workers: int | None) -> np.ndarray:
    """[rows, 2 × PERMUTATIONS] uint32: of the prompts, then of the answers."""
    with pa.memory_map(str(path)) as source:
        batches = pa.ipc.open_file(source)
        ends = np.cumsum(
            [0] + [batches.get_batch(n).num_rows for n in range(batches.num_record_batches)]
        )
    parts = [
        (n, rows[(rows >= ends[n]) & (rows < ends[n + 1])] - ends[n]) for n in range(len(ends) - 1)
    ]
    count = min(workers or os.cpu_count() or 1, len(parts))
    sign = partial(_sign, path)
    if count == 1:
        return np.concatenate([sign(part) for part in parts])
    with ProcessPoolExecutor(count, mp_context=get_context("spawn")) as pool:
        return np.concatenate(list(pool.map(sign, parts)))


def _sign(path: Path, part: tuple[int, np.ndarray]) -> np.ndarray:
    number, rows = part
    with pa.memory_map(str(path)) as source:
        batch = pa.ipc.open_file(source).get_batch(number).take(pa.array(rows))
        texts = [batch.column(name).to_pylist() for name in ("prompt", "chosen", "rejected")]
    empty = MinHash(PERMUTATIONS, hashfunc=crc32, scheme="affine32")
    found = np.empty((len(rows), 2 * PERMUTATIONS), np.uint32)
    for row, (prompt, chosen, rejected) in enumerate(zip(*texts, strict=True)):
        found[row, :PERMUTATIONS] = _minima(empty, _shingles(prompt))
        both = _shingles(chosen) + [b"- " + shingle for shingle in _shingles(rejected)]
        found[row, PERMUTATIONS:] = _minima(empty, both)
    return found


def _minima(empty: MinHash, shingles: list[bytes]) -> np.ndarray:
    empty.clear()
    empty.update_batch(shingles)
    return empty.hashvalues


def _shingles(text: str) -> list[bytes]:
    words = text.lower().encode("utf-8", "surrogatepass").split()
    if len(words) < SHINGLE:
        return [b" ".join(words)]
    return [b" ".join(three) for three in zip(words, words[1:], words[2:], strict=False)]
