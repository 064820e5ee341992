"""Near duplicates, against every pair of a file compared."""

import random

import numpy as np
import pytest

from finetune.tables import near_duplicates
from finetune.tables.near_duplicates import LEAST, SHINGLE, find_near_duplicates, hash_shingles, jaccard, shingles
from finetune.tables.splits import normalise_text, text_keys

WORDS = [
    "alpha",
    "bravo",
    "charlie",
    "delta",
    "echo",
    "foxtrot",
    "golf",
    "hotel",
    "india",
    "juliet",
    "kilo",
    "lima",
    "mike",
    "november",
    "oscar",
    "papa",
    "québec",
    "ромео",
]


def noisy_texts(seed: int, rows: int = 160) -> list[str]:
    """Texts of which many are others with a letter or a word changed."""
    source = random.Random(seed)
    texts: list[str] = []
    while len(texts) < rows:
        if texts and source.random() < 0.3:
            text = list(source.choice(texts))
            for _ in range(source.choice([1, 1, 2, 6])):
                text[source.randrange(len(text))] = source.choice("abcxyz ")
            texts.append("".join(text))
        else:
            texts.append(" ".join(source.choices(WORDS, k=source.choice([1, 3, 8, 15]))))
    return texts


@pytest.mark.parametrize("seed", range(3))
def test_what_is_found_is_what_all_pairs_show(seed):
    texts = noisy_texts(seed)
    found = find_near_duplicates(texts, text_keys(texts))
    assert all(jaccard(texts[a], texts[b]) == similarity >= LEAST for a, b, similarity in found.pairs)
    sets = [shingles(text) for text in texts]
    alike = [
        (a, b) for b in range(len(texts)) for a in range(b) if len(sets[a] & sets[b]) >= LEAST * len(sets[a] | sets[b])
    ]
    missed = [pair for pair in alike if found.cluster[pair[0]] != found.cluster[pair[1]]]
    assert len(alike) > 20 and len(missed) <= 0.02 * len(alike)
    joined = {row for a, b in alike for row in (a, b)}
    for row, first in enumerate(found.cluster.tolist()):
        assert first <= row and found.cluster[first] == first and (first == row or row in joined)
    different = {row for a, b in alike if normalise_text(texts[a]) != normalise_text(texts[b]) for row in (a, b)}
    assert len(set(found.rows().tolist()) ^ different) <= 0.02 * len(texts)
    assert found.complete and 0 < found.compared < len(texts) ** 2 / 10


def test_equal_texts_are_one_and_no_near_duplicates():
    texts = ["Call me 10", "call  me 99", "nothing alike here", ""]
    found = find_near_duplicates(texts, text_keys(texts))
    assert found.cluster.tolist() == [0, 0, 2, 3] and not found.pairs and not len(found.rows())
    assert not len(find_near_duplicates([], text_keys([])).rows())


def test_hashes_are_one_for_each_shingle():
    texts = ["ab", "", "héllo wörld 😀😀", "lone \ud800 half", "x" * 40]
    hashes, begins = hash_shingles(texts)
    parts = np.split(hashes, begins[1:])
    known = {}
    for text, own in zip(texts, parts, strict=True):
        padded = normalise_text(text).ljust(SHINGLE)
        assert len(own) == len(padded) - SHINGLE + 1 and len(set(own.tolist())) == len(shingles(text))
        for start, value in enumerate(own.tolist()):
            assert known.setdefault(padded[start : start + SHINGLE], value) == value
    assert len(set(known.values())) == len(known)


def test_chunks_make_no_difference(monkeypatch):
    texts = noisy_texts(5)
    whole = find_near_duplicates(texts, text_keys(texts))
    monkeypatch.setattr(near_duplicates, "CHUNK", 99)
    assert find_near_duplicates(texts, text_keys(texts)).pairs == whole.pairs


def test_the_search_has_an_end(monkeypatch):
    monkeypatch.setattr(near_duplicates, "MOST_COMPARED", 20)
    texts = noisy_texts(1)
    found = find_near_duplicates(texts, text_keys(texts))
    assert found.compared == 20 and not found.complete
