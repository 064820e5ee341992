"""TF-IDF with logistic regression as plain values: stored without pickle, it predicts the same as when it was fitted.

The stored values are the terms with their inverse document frequencies, the coefficients and the intercepts. They are
loaded back into scikit-learn's own classes, so that the probabilities are the same.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from finetune.records import Record

CHUNK = 20_000  # rows vectorised at once


@dataclass(frozen=True)
class Terms(Record):
    """The vocabulary of one kind of n-grams, and how texts are split into them."""

    name: str
    analyzer: str
    ngrams: tuple[int, int]  # the shortest and the longest
    terms: list[str]  # in the order of the features


@dataclass(frozen=True)
class TfidfRecord(Record):
    """The content of tfidf.json; the numbers are in tfidf.safetensors."""

    schema_version: int
    classes: int  # number of labels
    learnt: list[int]  # the labels that occur in training, in the order of the coefficients
    cost: float  # C of the logistic regression
    note: str  # what was fitted
    parts: list[Terms]


@dataclass(frozen=True)
class TfidfModel:
    """A fitted TF-IDF with logistic regression: scikit-learn's FeatureUnion and LogisticRegression."""

    features: Any
    model: Any
    classes: int
    note: str

    def probabilities(self, texts: list[str]) -> np.ndarray:
        """Probabilities (n, K); 0 for labels that do not occur in training."""
        found = np.zeros((len(texts), self.classes))
        for first in range(0, len(texts), CHUNK):
            counted = self.features.transform(texts[first : first + CHUNK])
            found[first : first + CHUNK, self.model.classes_] = self.model.predict_proba(counted)
        return found

    def stored(self) -> tuple[TfidfRecord, dict[str, np.ndarray]]:
        """The content of tfidf.json and of tfidf.safetensors."""
        parts, arrays = [], {}
        for name, own in self.features.transformer_list:
            terms = own.get_feature_names_out().tolist()
            parts.append(Terms(name, own.analyzer, own.ngram_range, terms))
            arrays[f"idf.{name}"] = own.idf_
        arrays |= {"coefficients": self.model.coef_, "intercepts": self.model.intercept_}
        learnt = self.model.classes_.tolist()
        return TfidfRecord(1, self.classes, learnt, float(self.model.C), self.note, parts), arrays

    @classmethod
    def restore(cls, record: TfidfRecord, arrays: dict[str, np.ndarray]) -> "TfidfModel":
        """The model from what ``stored`` returned. Raises ValueError or KeyError if the two parts do not match."""
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import FeatureUnion

        vectorizers = []
        for part in record.parts:
            own = TfidfVectorizer(
                analyzer=part.analyzer, ngram_range=part.ngrams, sublinear_tf=True, vocabulary=part.terms
            )
            own.idf_ = arrays[f"idf.{part.name}"]
            vectorizers.append((part.name, own))
        model = LogisticRegression(C=record.cost)
        model.classes_ = np.array(record.learnt)
        model.coef_, model.intercept_ = arrays["coefficients"], arrays["intercepts"]
        rows = 1 if len(record.learnt) == 2 else len(record.learnt)
        width = sum(len(part.terms) for part in record.parts)
        if model.coef_.shape != (rows, width) or model.intercept_.shape != (rows,):
            raise ValueError(f"coefficients {model.coef_.shape} for {rows} x {width}")
        if not all(0 <= label < record.classes for label in record.learnt):
            raise ValueError(f"labels {record.learnt} of {record.classes}")
        model.n_features_in_ = width
        return cls(FeatureUnion(vectorizers), model, record.classes, record.note)
