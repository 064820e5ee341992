"""The pieces of long texts are those of transformers' tokenizers, and their average is one of log-probabilities."""

import numpy as np
import pytest
from scipy.special import expit, log_softmax, softmax

from finetune.errors import RunError
from finetune.export.standalone import OnnxClassifier
from finetune.hub.assets import asset
from finetune.tokenizer import Tokenizer
from finetune.training.pieces import Pieces, average, count_windows, pieces_of
from finetune.training.token_rows import TokenRows


def test_windows_are_those_of_transformers():
    from transformers import AutoTokenizer

    folder = asset("weights") / "mini"
    theirs, ours = AutoTokenizer.from_pretrained(folder), Tokenizer.from_directory(folder)
    text = "The ferry left at nine, and nobody saw it come back before the rain. " * 9
    for most in (5, 8, 31, 64, 10_000):
        found = theirs(text, truncation=True, max_length=most, stride=most // 4, return_overflowing_tokens=True)
        windows = found["input_ids"] if isinstance(found["input_ids"][0], list) else [found["input_ids"]]
        assert pieces_of(ours.encode(text), "windows", most) == windows and len(windows) > 1 or most == 10_000


@pytest.mark.parametrize("most", [1, 2, 3, 4, 7, 16])
def test_what_is_read_of_a_text_of_any_length(most):
    standalone = OnnxClassifier.__new__(OnnxClassifier)
    standalone.max_length = most
    for length in range(1, 60):
        ids = list(range(length))
        for way in ("cut", "head-tail", "windows"):
            standalone.long_texts = way
            assert pieces_of(ids, way, most) == standalone.pieces(ids)
            assert max(map(len, pieces_of(ids, way, most))) == min(length, most)
        assert pieces_of(ids, "cut", most) == [ids[:most]]
        [both] = pieces_of(ids, "head-tail", most)
        head = most // 4
        assert both == (ids if length <= most else [*ids[:head], *ids[length - (most - head) :]])
        windows = pieces_of(ids, "windows", most)
        assert sorted({token for window in windows for token in window}) == ids
        assert len(windows) == count_windows(np.array([length]), most)[0]
        assert all(one[-head:] == other[:head] for one, other in zip(windows, windows[1:], strict=False) if head)


def test_pieces_of_rows_stand_side_by_side_and_come_back_from_disk(tmp_path):
    texts = TokenRows.of([[list(range(n)) for n in (3, 20, 8, 9)]], 50)
    found = Pieces.of(texts, "windows", 8, [3, 0, 1])
    assert found.counts.tolist() == [2, 1, 3]
    assert list(found.ids) == [
        list(range(8)),
        [6, 7, 8],
        [0, 1, 2],
        list(range(8)),
        list(range(6, 14)),
        list(range(12, 20)),
    ]
    for pieces in (found, Pieces.of(texts, "head-tail", 8), Pieces.of(texts, "cut", 8)):
        pieces.save(tmp_path / "train")
        again = Pieces.load(tmp_path / "train")
        assert list(again.ids) == list(pieces.ids)
        assert (again.counts is None) == (pieces is not found)
    found.save(tmp_path / "train")
    for damage in (b"\1" * 7, np.array([2, 1, 4]).tobytes(), np.array([0, 3, 3]).tobytes()):
        (tmp_path / "train.pieces").write_bytes(damage)
        with pytest.raises(RunError, match="not the counts written by this run"):
            Pieces.load(tmp_path / "train")


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_averaged_logits_are_averaged_log_probabilities(temperature):
    logits = np.random.default_rng(0).normal(0, 4, (7, 3)).astype(np.float32)
    counts = np.array([1, 4, 2])
    rows = [logits[:1], logits[1:5], logits[5:]]
    found = average(logits, counts)
    assert found.dtype == np.float32 and (average(logits, None) == logits).all()
    assert (found[0] == logits[0]).all()
    expected = [np.exp(log_softmax(own / temperature, axis=1).mean(axis=0)) for own in rows]
    np.testing.assert_allclose(softmax(found / temperature, axis=1), [p / p.sum() for p in expected], rtol=1e-5)
    yes, no = ([np.log(expit(sign * own)).mean(axis=0) for own in rows] for sign in (1, -1))
    odds = np.exp(yes), np.exp(no)
    np.testing.assert_allclose(expit(found), odds[0] / (odds[0] + odds[1]), rtol=1e-4)
    assert average(np.zeros((0, 3), np.float32), np.zeros(0, int)).shape == (0, 3)
