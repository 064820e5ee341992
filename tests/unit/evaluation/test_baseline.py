"""The baselines: against scikit-learn's dummy, a pipeline built by hand, and awkward inputs."""

import numpy as np
import pytest
from sklearn.dummy import DummyClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline, make_union

from finetune.evaluation import baseline
from finetune.evaluation.baseline import nearest_answers

TOPICS = {0: "lunch meeting home tomorrow", 1: "win cash prize now", 2: "goal match team score"}


def texts_of(y, seed=0):
    generator = np.random.default_rng(seed)
    return [" ".join(generator.choice(TOPICS[label].split(), size=4)) + f" {generator.integers(99)}" for label in y]


def test_majority_equals_scikit_learns_prior():
    y = np.array([0, 0, 0, 2, 2, 1])
    expected = DummyClassifier(strategy="prior").fit(np.zeros((6, 1)), y).predict_proba(np.zeros((4, 1)))
    assert baseline.majority(y, 3, 4) == pytest.approx(expected)


def test_majority_gives_a_label_that_train_lacks_no_chance():
    assert baseline.majority([1, 1], 3, 1).tolist() == [[0, 1, 0]]


def test_tfidf_equals_the_same_pipeline_built_by_hand():
    y_train, y_val = np.arange(90) % 3, np.arange(30) % 3
    train, val, test = texts_of(y_train), texts_of(y_val, 1), texts_of(np.arange(12) % 3, 2)
    found, note, seconds = baseline.tfidf_logistic(train, y_train, val, y_val, test, 3)
    cost = float(note.split("C = ")[1].split()[0])
    pipeline = make_pipeline(
        make_union(
            TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True),
            TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True),
        ),
        LogisticRegression(C=cost, max_iter=1000),
    ).fit(train, y_train)
    assert found == pytest.approx(pipeline.predict_proba(test), abs=1e-3)
    assert (found.argmax(axis=1) == np.arange(12) % 3).all() and seconds > 0


@pytest.mark.parametrize(("noise", "preferred"), [(0.3, 1), (0.0, 100)])
def test_tfidf_takes_the_cost_that_validation_prefers(noise, preferred):
    """Wrong labels in train want the strongest penalty, right ones the weakest."""
    generator = np.random.default_rng(0)
    y_train, y_val = np.arange(120) % 2, np.arange(60) % 2
    noisy = np.where(generator.random(120) < noise, 1 - y_train, y_train)
    train, val = texts_of(y_train), texts_of(y_val, 1)
    scores = {}
    for cost in (1, 10, 100):
        vectors = make_union(
            TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True),
            TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True),
        )
        model = make_pipeline(vectors, LogisticRegression(C=cost, max_iter=300)).fit(train, noisy)
        p = model.predict_proba(val)
        scores[cost] = ((p.argmax(axis=1) == y_val).mean(), np.log(p[np.arange(60), y_val]).mean())
    _, note, _ = baseline.tfidf_logistic(train, noisy, val, y_val, val, 2)
    assert max(scores, key=scores.get) == preferred and f"C = {preferred} " in note


def test_labels_that_train_lacks_get_probability_zero():
    y_train = np.arange(40) % 2 * 2  # classes 0 and 2 of 4
    found, _, _ = baseline.tfidf_logistic(texts_of(y_train), y_train, texts_of([0, 2]), [0, 3], texts_of([0, 2]), 4)
    assert found.shape == (2, 4) and (found[:, [1, 3]] == 0).all()
    assert found.sum(axis=1) == pytest.approx(1) and found.argmax(axis=1).tolist() == [0, 2]


def test_a_single_label_in_train_is_not_an_error():
    found, note, _ = baseline.tfidf_logistic(["a", "b"], [1, 1], ["a"], [0], ["c"], 2)
    assert found.tolist() == [[0, 1]] and "fewer than two" in note


@pytest.mark.parametrize("texts", [["", " ", "", "\n"], ["!", "?", "!", "?"], ["你好", "再见", "你好", "再见"]])
def test_texts_without_words_are_not_an_error(texts):
    found, note, _ = baseline.tfidf_logistic(texts, [0, 1, 0, 1], [], [], texts, 2)
    assert found.shape == (4, 2) and found.sum(axis=1) == pytest.approx(1) and note


def test_much_text_is_sampled_with_every_label_kept_and_reported(monkeypatch):
    y = np.array([0] * 99 + [1])
    monkeypatch.setattr(baseline, "_WORK_LIMIT", 600)
    found, note, _ = baseline.tfidf_logistic(texts_of(y), y, [], [], texts_of([1]), 2)
    assert "of 100 rows" in note and found[0, 1] > 0
    monkeypatch.setattr(baseline, "_CHARACTER_NGRAM_LIMIT", 10)
    assert "too much text" in baseline.tfidf_logistic(texts_of(y), y, [], [], texts_of([1]), 2)[1]


def test_chunks_of_the_test_do_not_change_it(monkeypatch):
    y = np.arange(30) % 2
    arguments = (texts_of(y), y, texts_of(y, 1), y, texts_of(y, 2), 2)
    whole = baseline.tfidf_logistic(*arguments)[0]
    monkeypatch.setattr(baseline, "_CHUNK", 7)
    assert baseline.tfidf_logistic(*arguments)[0] == pytest.approx(whole)


def test_the_nearest_question_is_scikit_learns_nearest_neighbour():
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.neighbors import NearestNeighbors

    draw = np.random.default_rng(0)
    pool = ["colour", "Farbe", "number", "日本語", "é", "the last", "word", "🦊"]
    known, asked = ([" ".join(draw.choice(pool, 5)) for _ in range(count)] for count in (300, 450))
    features = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True).fit(known)
    index = NearestNeighbors(n_neighbors=1, metric="cosine", algorithm="brute").fit(features.transform(known))
    distance, _ = index.kneighbors(features.transform(asked))
    found = [int(answer) for answer in nearest_answers(known, [str(i) for i in range(300)], asked)]
    own = 1 - (features.transform(asked).toarray() * features.transform(known).toarray()[found]).sum(axis=1)
    assert own == pytest.approx(distance[:, 0], abs=1e-9)  # ties may go to another neighbour
    assert len(set(found)) > 50
