"""Near-duplicate texts: MinHash over character shingles with banding; every candidate pair is verified.

Sources: Broder 1997, On the resemblance and containment of documents; Leskovec, Rajaraman and Ullman, Mining of Massive
Datasets, chapter 3 (bands). A pair at the minimum similarity is found with probability above 99 %.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from finetune.console import Advance, progress
from finetune.tables.readers import text_chunks
from finetune.tables.splits import normalise_text

SHINGLE = 5  # characters
BANDS, BAND_ROWS = 14, 5  # P(a pair of similarity s is a candidate) = 1 - (1 - s ** 5) ** 14
LEAST = 0.8  # minimum Jaccard similarity of near duplicates
LONGEST = 50_000  # characters used per text
CHUNK = 1 << 20  # characters hashed at a time
MOST_COMPARED = 2_000_000  # candidate pairs that are verified; a file of templates could have billions


@dataclass(frozen=True)
class NearDuplicates:
    """Clusters of rows, each connected by a chain of near duplicates.

    cluster: (n,) the first row of each row's cluster; a row without near duplicates is its own cluster.
    pairs: verified (row, later row, Jaccard similarity), one for each time that two clusters were joined; the
    normalised texts differ. complete: false if the search stopped early.
    """

    cluster: np.ndarray
    pairs: list[tuple[int, int, float]]
    compared: int
    complete: bool

    def rows(self) -> np.ndarray:
        """The rows with a near duplicate whose normalised text differs."""
        wanted = np.unique(self.cluster[[row for pair in self.pairs for row in pair[:2]]])
        return np.flatnonzero(np.isin(self.cluster, wanted))


def find_near_duplicates(texts: list[str], keys: np.ndarray) -> NearDuplicates:
    """Group texts by similarity. `keys`: equal if the normalised texts are equal (`splits.text_keys`).

    Memory is 8 bytes per band and row, whatever the length of the texts; time grows with the number of characters.
    """
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    leader = list(range(len(first)))  # union-find over the distinct normalised texts
    pairs, compared = [], 0
    with progress("near duplicates", len(first), unit="texts") as advance:
        bands = _band_keys(texts, first, advance)
    for one, other in _candidates(bands):
        if compared == MOST_COMPARED:
            break
        if _find(leader, one) == _find(leader, other):
            continue
        compared += 1
        similarity = jaccard(texts[first[one]], texts[first[other]])
        if similarity >= LEAST:
            a, b = sorted((_find(leader, one), _find(leader, other)), key=first.__getitem__)
            leader[b] = a
            low, high = sorted((int(first[one]), int(first[other])))
            pairs.append((low, high, similarity))
    roots = np.array([_find(leader, text) for text in range(len(first))], dtype=np.int64)
    cluster = first[roots][inverse] if len(first) else np.zeros(0, dtype=np.int64)
    return NearDuplicates(cluster, pairs, compared, compared < MOST_COMPARED)


def shingles(text: str) -> set[str]:
    """All character n-grams of the normalised text; a shorter text is one shingle."""
    text = _padded(text)
    return {text[start : start + SHINGLE] for start in range(len(text) - SHINGLE + 1)}


def _padded(text: str) -> str:
    return normalise_text(text[:LONGEST]).ljust(SHINGLE)


def jaccard(one: str, other: str) -> float:
    """Jaccard similarity of two texts' shingles."""
    left, right = shingles(one), shingles(other)
    common = len(left & right)
    return common / (len(left) + len(right) - common)


def _band_keys(texts: list[str], rows: np.ndarray, advance: Advance) -> np.ndarray:
    """(BANDS, n): a hash of each band of the MinHash signatures; equal if the bands are equal."""
    random = np.random.default_rng(0)
    factors, shifts = random.integers(1, 2**63, size=(2, BANDS * BAND_ROWS), dtype=np.uint64)
    factors |= np.uint64(1)
    keys = np.zeros((BANDS, len(rows)), dtype=np.uint64)
    for start, part in text_chunks([texts[row] for row in rows], CHUNK):
        hashes, begins = hash_shingles(part)
        for number in range(BANDS * BAND_ROWS):
            least = np.minimum.reduceat((hashes * factors[number] + shifts[number]) >> np.uint64(32), begins)
            band = keys[number // BAND_ROWS, start : start + len(part)]
            band *= np.uint64(0x9E3779B97F4A7C15)
            band += least
        advance(len(part))
    return keys


def hash_shingles(texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """A 64-bit hash of every shingle, the texts one after another, and the index of each text's first hash."""
    padded = [_padded(text) for text in texts]
    points = np.frombuffer("".join(padded).encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    lengths = np.array([len(text) for text in padded])
    hashes = np.zeros(len(points) - SHINGLE + 1, dtype=np.uint64)
    for offset in range(SHINGLE):
        hashes *= np.uint64(0x100000001B3)
        hashes += points[offset : offset + len(hashes)]
    hashes ^= hashes >> np.uint64(29)
    hashes *= np.uint64(0xBF58476D1CE4E5B9)
    whole = np.ones(len(points), dtype=bool)  # windows that do not extend into the next text
    ends = np.cumsum(lengths)
    for offset in range(1, SHINGLE):
        whole[ends - offset] = False
    return hashes[whole[: len(hashes)]], np.concatenate([[0], np.cumsum(lengths - SHINGLE + 1)[:-1]])


def _candidates(bands: np.ndarray) -> Iterator[tuple[int, int]]:
    """Pairs with an equal band: each text with the previous one in its bucket, and with the bucket's first."""
    for keys in bands:
        order = np.argsort(keys, kind="stable")
        same = keys[order[1:]] == keys[order[:-1]]
        starts = np.maximum.accumulate(np.where(np.concatenate([[False], same]), 0, np.arange(len(order))))
        at = np.flatnonzero(same) + 1
        for text, before, begin in zip(
            order[at].tolist(), order[at - 1].tolist(), order[starts[at]].tolist(), strict=True
        ):
            yield before, text
            if begin != before:
                yield begin, text


def _find(leader: list[int], text: int) -> int:
    while leader[text] != text:
        leader[text] = leader[leader[text]]
        text = leader[text]
    return text
