"""The names and the format of metrics in reports, on the screen and in sentences."""

from finetune.evaluation.results import Metric

METRIC_NAMES = {
    "accuracy": "Accuracy",
    "f1_macro": "Macro F1",
    "f1_micro": "Micro F1",
    "subset_accuracy": "Subset accuracy",
    "precision_micro": "Micro precision",
    "recall_micro": "Micro recall",
    "hamming_loss": "Hamming loss",
    "f1": "F1",
    "precision": "Precision",
    "recall": "Recall",
    "roc_auc": "ROC AUC",
    "average_precision": "Average precision",
    "log_loss": "Log loss",
    "ece": "Calibration error (ECE)",
    "brier": "Brier score",
    "bits_per_byte": "Bits per byte",
    "perplexity": "Perplexity",
    "exact_match": "Exact match",
    "squad_exact_match": "Exact match (SQuAD normalisation)",
    "token_f1": "Word F1",
    "rouge_l": "ROUGE-L",
    "repetition": "Repetition",
    "ended": "Stopped with the end token",
    "well_formed": "Correct format",
    "length_ratio": "Length ratio",
    "bleu": "BLEU",
    "chrf": "chrF",
    "rouge_1": "ROUGE-1",
    "rouge_2": "ROUGE-2",
    "token_accuracy": "Token accuracy",
}
SHARES = {
    "accuracy",
    "f1",
    "f1_macro",
    "f1_micro",
    "subset_accuracy",
    "precision_micro",
    "recall_micro",
    "precision",
    "recall",
    "exact_match",
    "squad_exact_match",
    "token_f1",
    "rouge_1",
    "rouge_2",
    "rouge_l",
    "token_accuracy",
    "repetition",
    "ended",
    "well_formed",
}  # shown in percent
_POINTS = {"bleu", "chrf"}  # these already range from 0 to 100


def points(name: str, difference: float) -> float | None:
    """The difference of two values on a scale of 100 points; None for a metric without such a scale."""
    return 100 * difference if name in SHARES else difference if name in _POINTS else None


def in_sentence(name: str) -> str:
    """A metric's displayed name inside a sentence: accuracy, macro F1, F1, ROC AUC, chrF."""
    return name[:1].lower() + name[1:] if name[1:2].islower() else name


def metric_value(name: str, value: float | None) -> str:
    """98.7 % for shares, 27.3 for scores from 0 to 100, 0.043 for the others; 100.0 is shown only for exactly 100."""
    if value is None:
        return "not defined"
    if name not in _POINTS and name not in SHARES:
        return f"{value:.3f}"
    points = value if name in _POINTS else 100 * value
    shown = f"{min(points, 99.99):.2f}" if 99.95 <= points < 100 else f"{points:.1f}"
    return shown if name in _POINTS else f"{shown} %"


def metric_interval(name: str, metric: Metric) -> str:
    """97.8 to 99.2, in the unit of the value; if the metric is not defined, the reason."""
    if metric.value is None:
        return metric.reason
    return " to ".join(metric_value(name, end).removesuffix(" %") for end in (metric.low, metric.high))


def metric_text(metric: Metric, name: str) -> str:
    """98.7 % (97.8 to 99.2; n = 1,115); if the metric is not defined, the reason."""
    rows = "" if metric.value is None else f"; n = {metric.n:,}"
    return f"{metric_value(name, metric.value)} ({metric_interval(name, metric)}{rows})"


def p_text(p: float) -> str:
    """A p value with two digits: p = 0.75, p = 0.0032, p < 0.0001."""
    return "p < 0.0001" if p < 0.0001 else f"p = {p:.2g}"


def bracket_cell(metric: Metric) -> str:
    """0.9821 [0.9712, 0.9895], for a table on the screen."""
    if metric.value is None:
        return "not defined"
    return f"{metric.value:.4f} [{metric.low:.4f}, {metric.high:.4f}]"
