"""scikit-learn's own checks of an estimator, on a TextClassifier that spells numbers as words.

``check_estimator`` skips estimators of text, so a subclass takes the checks' matrices of numbers and hands texts on:
all but the reading of X is TextClassifier's. What asks for a numeric X is left out below, with the reason.
"""

import warnings

import numpy as np
import pytest
from sklearn.utils import estimator_checks

from finetune.estimator import TextClassifier

NUMERIC = "asks how matrices of numbers are read and refused; X is text"
LEFT_OUT = {
    "check_readonly_memmap_input": NUMERIC,
    "check_n_features_in_after_fitting": NUMERIC,
    "check_positive_only_tag_during_fit": NUMERIC,
    "check_estimators_dtypes": NUMERIC,
    "check_complex_data": NUMERIC,
    "check_dtype_object": NUMERIC,
    "check_estimators_empty_data_messages": NUMERIC,
    "check_estimators_nan_inf": NUMERIC,
    "check_estimator_sparse_tag": NUMERIC,
    "check_estimator_sparse_array": NUMERIC,
    "check_estimator_sparse_matrix": NUMERIC,
    "check_array_api_input": NUMERIC,
    "check_f_contiguous_array_estimator": NUMERIC,
    "check_fit2d_1feature": NUMERIC,
    "check_n_features_in": NUMERIC,
    "check_fit1d": NUMERIC,
    "check_fit2d_predict1d": NUMERIC,
    "check_fit2d_1sample": "one row has one class, which check_classifiers_one_label covers",
    "check_sample_weight_equivalence_on_dense_data": "a row given twice is drawn into two batches; one of weight 2 is not",
    "check_methods_subset_invariance": "asks for 1e-7, and logits are float32; the last test asks for 3e-6",
    "check_estimators_partial_fit_n_features": "there is no partial_fit",
    "check_non_transformer_estimators_n_iter": "there is no max_iter",
    "check_estimators_pickle": "pickles hold code and are not offered: save and load stand in their place",
}
LETTERS = np.array(list("abcdefghijklmnopqrstuvwxyz"))


class Spelled(TextClassifier):
    """TextClassifier on rows of numbers, each number a letter of the alphabet."""

    def fit(self, X, y, sample_weight=None):
        super().fit(self.spell(X), y, sample_weight)
        self.width_ = np.asarray(X).shape[1]
        return self

    def _logits(self, X):
        self._fitted()
        if np.asarray(X).shape[1] != self.width_:
            raise ValueError("another number of columns")
        return super()._logits(self.spell(X))

    def spell(self, X):
        return ["".join(LETTERS[np.clip(4 * row + 13, 0, 25).astype(int)]) for row in np.asarray(X, dtype=float)]

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array, tags.input_tags.one_d_array = True, False
        return tags


def checks() -> dict:
    """Each check that scikit-learn has for such a classifier, once, by its name."""
    found = {}
    for _, check in estimator_checks.estimator_checks_generator(Spelled()):
        found.setdefault(estimator_checks._check_name(check), check)
    return found


@pytest.mark.parametrize("name", [name for name in checks() if name not in LEFT_OUT])
def test_the_check_passes(name, tiny):
    estimator = Spelled(weights=str(tiny), epochs=6 if "train" in name else 1, lr=3e-3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn's check of its own warnings catches them itself
        assert checks()[name](estimator) is None


def test_most_checks_are_run_and_each_left_out_is_one():
    names = set(checks())
    assert len(names - set(LEFT_OUT)) >= 25
    assert set(LEFT_OUT) <= names


def test_a_row_alone_gives_what_it_gives_among_others(tiny):
    X = np.random.default_rng(0).normal(size=(40, 5))
    clf = Spelled(weights=str(tiny), epochs=1, lr=3e-3).fit(X, np.arange(40) % 2)
    assert len(set(clf.decision_function(X))) == 40
    for method in ("predict", "predict_proba", "predict_log_proba", "decision_function"):
        call = getattr(clf, method)
        alone = np.concatenate([call(X[row : row + 1]) for row in range(40)])
        np.testing.assert_allclose(alone, call(X), rtol=0, atol=3e-6)
