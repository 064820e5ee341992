"""TextClassifier in the hands of other tools: ensembles, calibration, thresholds, searches in processes, reports."""

import os
import signal
import subprocess
import sys

import joblib
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import sklearn
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import StackingClassifier, VotingClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score
from sklearn.model_selection import (
    FixedThresholdClassifier,
    GridSearchCV,
    TunedThresholdClassifierCV,
    cross_val_score,
    cross_validate,
)
from sklearn.pipeline import make_pipeline

from finetune.errors import InputError
from finetune.estimator import TextClassifier

WORDS = {"spam": ["win", "cash", "prize", "claim"], "ham": ["lunch", "home", "mum", "later"]}
RANDOM = np.random.default_rng(0)
KINDS = np.array(["spam", "ham"] * 20)
TEXTS = np.array([" ".join(RANDOM.choice(WORDS[kind], 1 + i % 3)) + " abc"[i % 4] for i, kind in enumerate(KINDS)])
WEIGHTS = RANDOM.uniform(0.5, 2, len(TEXTS))


@pytest.fixture
def clf(tiny):
    return TextClassifier(weights=str(tiny), epochs=1, lr=2e-2, batch_size=8)


def test_it_votes_and_is_stacked(clf):
    words = make_pipeline(TfidfVectorizer(), LogisticRegression())
    voting = VotingClassifier([("gpt", clf), ("words", words)], voting="soft").fit(TEXTS, KINDS)
    mean = np.mean([estimator.predict_proba(TEXTS) for estimator in voting.estimators_], axis=0)
    assert voting.predict_proba(TEXTS) == pytest.approx(mean) and set(voting.predict(TEXTS)) == {"ham", "spam"}
    weighted = VotingClassifier([("a", clf), ("b", clf)]).fit(TEXTS, KINDS, sample_weight=WEIGHTS).estimators_[0]
    alone = sklearn.clone(clf).fit(TEXTS, (KINDS == "spam").astype(int), WEIGHTS)
    assert np.array_equal(weighted.predict_proba(TEXTS), alone.predict_proba(TEXTS))
    stacked = StackingClassifier([("gpt", clf), ("words", words)], cv=2).fit(TEXTS.tolist(), KINDS)
    assert stacked.score(TEXTS, KINDS) > 0.8


@pytest.mark.parametrize("method", ["sigmoid", "isotonic"])
def test_it_is_calibrated(clf, method):
    calibrated = CalibratedClassifierCV(clf, method=method, cv=2).fit(TEXTS, KINDS, sample_weight=WEIGHTS)
    assert calibrated.predict_proba(TEXTS).sum(1) == pytest.approx(1) and calibrated.score(TEXTS, KINDS) > 0.8
    frozen = CalibratedClassifierCV(FrozenEstimator(clf.fit(TEXTS, KINDS)), method=method).fit(TEXTS, KINDS)
    assert frozen.score(TEXTS, KINDS) > 0.8


@pytest.mark.parametrize("response", ["predict_proba", "decision_function"])
def test_its_threshold_is_tuned(clf, response):
    tuned = TunedThresholdClassifierCV(clf, cv=2, response_method=response).fit(pd.Series(TEXTS), KINDS)
    own = getattr(tuned.estimator_, response)(TEXTS)
    positive = (own if own.ndim == 1 else own[:, 1]) >= tuned.best_threshold_
    assert np.array_equal(tuned.predict(TEXTS), np.where(positive, "spam", "ham"))
    fixed = FixedThresholdClassifier(clf, threshold=0.7, response_method="predict_proba").fit(TEXTS, KINDS)
    own = clf.set_params(threshold=0.7).fit(TEXTS, KINDS)
    assert np.array_equal(fixed.predict(TEXTS), own.predict(TEXTS))


def test_it_is_searched_and_cross_validated_with_every_new_parameter(clf):
    grid = {"threshold": [0.3, 0.5], "class_weight": [None, {"ham": 2}]}
    search = GridSearchCV(clf, grid, cv=2).fit(TEXTS, KINDS)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all() and len(search.cv_results_["params"]) == 4
    figures = cross_validate(clf, TEXTS, KINDS, cv=2, scoring=["roc_auc", "neg_log_loss"])
    assert all(np.isfinite(figures[f"test_{name}"]).all() for name in ("roc_auc", "neg_log_loss"))
    arrays = cross_val_score(clf, TEXTS, KINDS, cv=2)
    assert np.array_equal(cross_val_score(clf, pa.array(TEXTS), pa.array(KINDS), cv=2), arrays)
    assert np.array_equal(cross_val_score(clf, pa.table({"text": TEXTS}), KINDS, cv=2), arrays)


def test_weights_are_routed(clf):
    with sklearn.config_context(enable_metadata_routing=True):
        asks = clf.set_fit_request(sample_weight=True).set_score_request(sample_weight=True)
        search = GridSearchCV(asks, {"lr": [1e-2, 2e-2]}, cv=2).fit(TEXTS, KINDS, sample_weight=WEIGHTS)
    best = search.best_estimator_
    expected = accuracy_score(KINDS, best.predict(TEXTS), sample_weight=WEIGHTS)
    assert best.score(TEXTS, KINDS, WEIGHTS) == pytest.approx(expected)


def test_trainings_in_threads_take_turns(clf):
    clf.set_params(settings={"dropout": 0.2})  # which draws from torch's one state of random numbers
    alone = cross_val_score(clf, TEXTS, KINDS, cv=4, scoring="neg_log_loss")
    with joblib.parallel_config(backend="threading", n_jobs=4):
        assert np.array_equal(cross_val_score(clf, TEXTS, KINDS, cv=4, scoring="neg_log_loss"), alone)


SEARCH = """
import sys, joblib, torch
from sklearn.model_selection import GridSearchCV
from finetune.estimator import TextClassifier
weights, backend = sys.argv[1:]
texts, kinds = ["win cash now", "see you at home"] * 12, [1, 0] * 12
clf = TextClassifier(weights, epochs=1, settings={"threads": 2})
clf.fit(texts, kinds)
torch.set_num_threads(2)
torch.ones(1000, 1000).exp().sum()  # starts OpenMP's threads, which a fork leaves behind
with joblib.parallel_config(backend=backend):
    clf.set_params(settings=None)
    found = GridSearchCV(clf, {"lr": [1e-3, 1e-2]}, cv=2, n_jobs=2, error_score="raise").fit(texts, kinds)
print(found.best_estimator_.predict(["win cash now"]))
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.parametrize("backend", ["loky", "multiprocessing"])
def test_a_search_in_processes_ends_after_a_training_of_several_threads(backend, request):
    free = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    mini = request.config.rootpath / "weights" / "mini"
    command = [sys.executable, "-c", SEARCH, str(mini), backend]
    with subprocess.Popen(command, env=free, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        try:
            assert process.communicate(timeout=300)[0].startswith("[1]") and process.returncode == 0
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # its workers, too, which hold the pipe open
            raise


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_process_trains_with_one_thread(clf):
    with joblib.parallel_config(backend="multiprocessing", n_jobs=2):
        settings = joblib.Parallel()(joblib.delayed(_fitted_threads)(clf) for _ in range(2))
        with pytest.raises(InputError, match="a forked process can train on only one thread; got threads=2"):
            joblib.Parallel()(
                joblib.delayed(_fitted_threads)(clf.set_params(settings={"threads": 2})) for _ in range(2)
            )
    assert settings == [1, 1]


def _fitted_threads(clf):
    return clf.fit(TEXTS, KINDS).settings_.threads


def test_cleanlab_finds_the_wrong_labels(clf):
    classification = pytest.importorskip("cleanlab.classification", reason="cleanlab is not installed")
    labels = (KINDS == "spam").astype(int)
    labels[:2] = 1 - labels[:2]
    cleaner = classification.CleanLearning(clf.set_params(epochs=12), cv_n_folds=2, seed=0)
    quality = cleaner.find_label_issues(TEXTS, labels)["label_quality"].to_numpy()
    assert set(quality.argsort()[:8]) >= {0, 1}


@pytest.mark.parametrize("kind", [list, np.array, lambda texts: pd.DataFrame({"text": texts})])
def test_skore_reports_on_it(clf, kind):
    skore = pytest.importorskip("skore", reason="skore is not installed")
    report = skore.CrossValidationReport(clf, kind(TEXTS), KINDS, splitter=2, pos_label="spam")
    figures = report.metrics.summarize().frame()
    assert np.isfinite(figures.to_numpy(dtype=float)).all() and "log_loss" in figures.index
