"""The choice between a model, TF-IDF and their average on validation rows."""

import numpy as np
import pytest
from scipy.stats import gmean
from sklearn.metrics import log_loss

from finetune.evaluation.choice import average_logs, choose_winner

DRAW = np.random.default_rng(0)
P = {name: DRAW.dirichlet(np.ones(3), 40) for name in ("model", "tfidf", "average")}
LOGS = {name: np.log(p) for name, p in P.items()}
Y = np.arange(40) % 3


def test_the_highest_metric_wins_and_among_equals_the_lower_log_loss():
    found = choose_winner({"model": 0.8, "tfidf": 0.9, "average": 0.85}, LOGS, Y, "accuracy")
    assert (found.winner, found.metric, found.rows) == ("tfidf", "accuracy", 40)
    losses = {name: log_loss(Y, p, labels=[0, 1, 2]) for name, p in P.items()}
    assert {name: own.log_loss for name, own in found.validation.items()} == pytest.approx(losses)
    level = choose_winner(dict.fromkeys(LOGS, 0.8), LOGS, Y, "accuracy")
    assert level.winner == min(losses, key=losses.get)
    same = choose_winner({"model": 0.8, "tfidf": 0.8}, {"model": LOGS["model"], "tfidf": LOGS["model"]}, Y, "f1")
    assert same.winner == "model"  # nobody leaves the model without a reason


def test_the_average_is_the_normalised_geometric_mean():
    wanted = gmean([P["model"], P["tfidf"]], axis=0)
    found = np.exp(average_logs(LOGS["model"], LOGS["tfidf"]))
    assert found == pytest.approx(wanted / wanted.sum(axis=1, keepdims=True))
