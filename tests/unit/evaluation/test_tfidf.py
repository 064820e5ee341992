"""TF-IDF as plain values: restored, it gives the probabilities of scikit-learn's own pipeline."""

import numpy as np
import pytest
from safetensors.numpy import load, save
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline, make_union

from finetune.errors import WeightsError
from finetune.evaluation.baseline import fit_tfidf, tfidf_logistic
from finetune.evaluation.tfidf import TfidfModel, TfidfRecord
from finetune.tasks.classify.winner import read_tfidf, write_tfidf

WORDS = [["win", "cash", "now"], ["lunch", "at", "home"], ["late", "train", "\u00fcber"]]
NEW = ["free cash at home", "lunch with mum", "", "99 \u6771\u4eac", "late late train"]


def rows(k: int, n: int = 60, seed: int = 0) -> tuple[list[str], np.ndarray]:
    draw = np.random.default_rng(seed)
    y = np.arange(n) % k
    return [" ".join(draw.choice(WORDS[label], 3)) + f" {number}" for number, label in enumerate(y)], y


@pytest.mark.parametrize("k", [2, 3])
def test_a_stored_model_gives_scikit_learns_probabilities(tmp_path, k):
    texts, y = rows(k)
    fitted, note = fit_tfidf(texts, y, texts[:9], y[:9], k)
    write_tfidf(tmp_path, fitted)
    cost = fitted.model.C
    reference = make_pipeline(
        make_union(
            TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True),
            TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True),
        ),
        LogisticRegression(C=cost, max_iter=300),
    ).fit(texts, y)
    found = read_tfidf(tmp_path)
    assert found.probabilities(NEW) == pytest.approx(reference.predict_proba(NEW), abs=1e-12)
    assert (found.probabilities(NEW) == fitted.probabilities(NEW)).all() and found.note == note
    assert {path.name for path in tmp_path.iterdir()} == {"tfidf.json", "tfidf.safetensors"}
    p, again, _ = tfidf_logistic(texts, y, texts[:9], y[:9], NEW, k)
    assert (p == fitted.probabilities(NEW)).all() and again == note


def test_a_label_that_training_lacks_has_probability_0():
    texts, y = rows(2)
    fitted, _ = fit_tfidf(texts, np.where(y == 1, 2, 0), [], np.zeros(0), 3)
    record, arrays = fitted.stored()
    found = TfidfModel.restore(TfidfRecord.from_json(record.to_json(), "here"), load(save(arrays)))
    p = found.probabilities(NEW)
    assert p.shape == (5, 3) and (p[:, 1] == 0).all() and p.sum(axis=1) == pytest.approx(1)
    assert fit_tfidf(texts, np.zeros(60), texts, np.zeros(60), 2)[0] is None
    assert fit_tfidf([" ", "\t"], [0, 1], [], [], 2)[0] is None


def test_files_that_do_not_belong_together_are_refused(tmp_path):
    for name, k in (("two", 2), ("three", 3)):
        texts, y = rows(k)
        (tmp_path / name).mkdir()
        write_tfidf(tmp_path / name, fit_tfidf(texts, y, [], [], k)[0])
    (tmp_path / "two" / "tfidf.safetensors").write_bytes((tmp_path / "three" / "tfidf.safetensors").read_bytes())
    with pytest.raises(WeightsError, match="not in the format of an export"):
        read_tfidf(tmp_path / "two")
    (tmp_path / "three" / "tfidf.json").write_text('{"schema_version": 1}')
    with pytest.raises(WeightsError, match="not in the format of an export"):
        read_tfidf(tmp_path / "three")
    (tmp_path / "three" / "tfidf.json").unlink()
    with pytest.raises(WeightsError):
        read_tfidf(tmp_path / "three")
