"""ROUGE is the library's where that knows the letters, and knows every script."""

import numpy as np
import pytest
from rouge_score.rouge_scorer import RougeScorer

from finetune.evaluation.rouge import NAMES, rouge

WORDS = ["The", "the", "cat", "Cat.", "sat", "on", "mat!", "red,", "--", "x-ray", "2"]


def test_rouge_is_the_librarys():
    draw = np.random.default_rng(0)
    own, wanted = ([" ".join(draw.choice(WORDS, draw.integers(0, 8))) for _ in range(100)] for _ in range(2))
    library = RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=False)
    expected = [library.score(reference, output) for output, reference in zip(own, wanted, strict=True)]
    for name, scores in rouge(own, wanted).items():
        assert scores == pytest.approx([score[NAMES[name]].fmeasure for score in expected], abs=1e-9)
        assert len(set(scores)) > 10 and rouge(own, wanted, (name,)) == {name: scores}


def test_rouge_knows_every_script():
    # longest common subsequence of "ö ä é" and "ö é x ß": 2 of 3 and of 4
    both = ["Ö ä é"], ["ö É x ß"]
    assert rouge(*both)["rouge_l"] == pytest.approx([2 * (2 / 3) * (2 / 4) / (2 / 3 + 2 / 4)])
    assert rouge(*both)["rouge_2"] == [0] and rouge([""], ["!"])["rouge_1"] == [0]
