"""How near a model's outputs come to their target texts, and what they are held against.

Sources: Papineni et al. 2002, ACL (BLEU) and Popović 2015, WMT (chrF), by the library sacrebleu (Post 2018,
arXiv:1804.08771), whose signatures say how; Lin 2004, ROUGE; Koehn 2004, EMNLP (bootstrap of a corpus score).
"""

from dataclasses import dataclass

import numpy as np

from finetune.config import nearest
from finetune.errors import RecipeError
from finetune.evaluation.intervals import bootstrap, paired_differences, wilson
from finetune.evaluation.rouge import rouge

COPY = "the source itself"
NEAREST = "the target of the most similar training source (TF-IDF)"
UNTUNED = "the model before training"
SHORT = 10  # words of the median reference at most, where an output can be expected to be the same
WORDS_OF_BLEU = 4  # in a row that it looks at; punctuation counts
SHARES = ("exact_match", "ended")  # of each output 0 or 1
CORPUS = ("bleu", "chrf")  # of all outputs together, 0 to 100
COMPARED = ("exact_match", *CORPUS, "rouge_1", "rouge_2", "rouge_l", "token_accuracy", "log_loss")


@dataclass(frozen=True)
class Output:
    """What one way to write made of the same sources."""

    texts: list[str]
    ended: list[bool] | None = None  # with the end token, within the budget
    nats: np.ndarray | None = None  # (n,) cross entropy of the references, each summed over its tokens
    right: np.ndarray | None = None  # (n,) tokens of each reference foretold right, the ones before them given


@dataclass(frozen=True)
class Targets:
    """Sources and their reference targets."""

    sources: list[str]
    texts: list[str]
    tokens: np.ndarray  # (n,) of each reference, as the model learns them


def choose_headline(references: list[str]) -> str:
    """exact_match where the median reference has at most ``SHORT`` words, else chrf.

    The references alone decide, so that two models on the same data have the same headline.
    """
    return "exact_match" if np.median([len(text.split()) for text in references]) <= SHORT else "chrf"


def score_targets(own: Output, references: Targets, baselines: dict[str, Output], clean: np.ndarray,
                  headline: str | None, resamples: int, seed: int) -> dict:
    """eval.json's keys for outputs: "headline", "metrics", "clean", "signatures" (sacrebleu's), and in "baselines" what
    other ways to write score on the same rows; ``COPY`` is always among them.

    headline: a metric, or None for ``choose_headline``. clean: bool (n,), the rows whose source stands in no other
    split. A baseline's "differences": metric -> the model's value minus its own, with interval and p of the paired
    bootstrap; "p_value" is that of the headline. RecipeError where the headline is no metric that can be compared.
    """
    from sacrebleu.metrics import BLEU, CHRF

    corpus = {"bleu": BLEU(force=True, references=[references.texts]),  # force: no word on spaces before stops
              "chrf": CHRF(references=[references.texts])}
    sums = _sums(own, references, corpus)
    metrics = _metrics(sums, resamples, seed)
    name = headline or choose_headline(references.texts)
    known = [metric for metric in COMPARED if metrics.get(metric, {"value": None})["value"] is not None]
    if name not in known or name in ("token_accuracy", "log_loss"):  # texts alone have neither
        raise RecipeError(f"the headline metric {name!r} is not one of outputs",
                          known=nearest(name, known) or ", ".join(known))
    entries = []
    for baseline, output in ({COPY: Output(references.sources)} | baselines).items():
        other = _sums(output, references, corpus)
        both = [metric for metric in known if metric in other]
        found = paired_differences(lambda counts, other=other, both=both: _values(sums, both, counts)
                                   - _values(other, both, counts), len(own.texts), resamples, seed)
        differences = dict(zip(both, found, strict=True))
        entries.append({"name": baseline, "metrics": _metrics(other, resamples, seed), "test": "paired bootstrap",
                        "p_value": differences[name]["p_value"], "differences": differences})
    rows = np.flatnonzero(clean)
    alone = _metrics({metric: part.take(rows) for metric, part in sums.items()}, resamples, seed) if len(rows) else {}
    return {"headline": {"metric": name, **metrics[name], "split": "test"}, "metrics": metrics, "baselines": entries,
            "clean": {"n": len(rows), "metrics": alone},
            "signatures": {metric: str(library.get_signature()) for metric, library in corpus.items()}}


@dataclass(frozen=True)
class _Sums:
    """What a metric is made of: statistics of each row, which add up over rows."""

    rows: np.ndarray  # (n, K); for a mean or a share of sums K is 2: what is divided, and by what
    metric: object = None  # sacrebleu's, of a corpus score

    def take(self, rows: np.ndarray) -> "_Sums":
        """Some of the rows, (m,) positions."""
        return _Sums(self.rows[rows], self.metric)

    def value(self, counts: np.ndarray) -> np.ndarray:
        """The metric of rows taken so many times each: (R, n) -> (R,); NaN where it is not defined."""
        sums = counts @ self.rows  # (R, K)
        if self.metric is not None:
            return np.array([self.metric._compute_score_from_stats(list(own)).score for own in sums])
        return np.divide(sums[:, 0], sums[:, 1], out=np.full(len(sums), np.nan), where=sums[:, 1] > 0)


def _sums(output: Output, references: Targets, corpus: dict) -> dict[str, _Sums]:
    """Metric -> its statistics, (n, K) each. corpus: sacrebleu's metrics by name, which know the references."""
    pairs = list(zip(output.texts, references.texts, strict=True))
    one = np.ones(len(pairs))
    parts = {name: (scores, one) for name, scores in rouge(output.texts, references.texts).items()}
    parts["length_ratio"] = tuple([len(text.split()) for text in texts] for texts in (output.texts, references.texts))
    if output.ended is not None:
        parts["ended"] = (output.ended, one)
    if output.right is not None:
        parts["token_accuracy"] = (output.right, references.tokens)
    if output.nats is not None:
        parts["log_loss"] = (output.nats, references.tokens)
    same = [own.split() == wanted.split() for own, wanted in pairs]
    return {"exact_match": _ratio(same, one),
            **{name: _Sums(np.array(metric._extract_corpus_statistics(output.texts, None), dtype=np.float64), metric)
               for name, metric in corpus.items()},
            **{name: _ratio(*part) for name, part in parts.items()}}


def _ratio(above, below) -> _Sums:
    return _Sums(np.stack([above, below], axis=1).astype(np.float64))


def _values(sums: dict[str, _Sums], names: list[str], counts: np.ndarray) -> np.ndarray:
    """Some metrics of resamples: (R, n) -> (R, M)."""
    return np.stack([sums[name].value(counts) for name in names], axis=1)


def _metrics(sums: dict[str, _Sums], resamples: int, seed: int) -> dict[str, dict]:
    """Metric -> {"value", "low", "high", "n"}, with the perplexity; shares have Wilson's interval."""
    names, n = list(sums), len(sums["exact_match"].rows)
    values = _values(sums, names, np.ones((1, n)))[0]
    lows, highs = bootstrap(lambda counts: _values(sums, names, counts), n, resamples, seed)
    metrics = {}
    for name, value, low, high in zip(names, values, lows, highs, strict=True):
        if np.isnan(value) or (name == "bleu" and (sums[name].rows[:, 1] < WORDS_OF_BLEU).all()):
            reason = f"no reference has {WORDS_OF_BLEU} words" if name == "bleu" else "the references have no words"
            metrics[name] = {"value": None, "low": None, "high": None, "n": n, "reason": reason}
            continue
        if name in SHARES:
            low, high = wilson(int(sums[name].rows[:, 0].sum()), n)
        metrics[name] = {"value": float(value), "low": float(low), "high": float(high), "n": n}
    if "log_loss" in metrics:
        metrics["perplexity"] = {key: float(np.exp(min(metrics["log_loss"][key], 50.0)))
                                 for key in ("value", "low", "high")} | {"n": n}
    return metrics
