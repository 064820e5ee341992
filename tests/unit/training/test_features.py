"""Method features: the head is scikit-learn's logistic regression on the states, and what it does not use is refused."""

import json
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from finetune.errors import RecipeError, TrainingError
from finetune.recipe import Train, check_method
from finetune.training import features
from finetune.training.features import solve
from finetune.training.job import Problem
from finetune.training.resume import load_weights


@pytest.fixture(scope="module")
def toy_job():
    return runpy.run_path(str(Path(__file__).parents[2] / "toy.py"))["toy_job"]


def problem(classes: int, many: bool = False) -> Problem:
    """States whose columns differ in scale and mean, one of them constant, and rows of unequal weight."""
    random = np.random.default_rng(3)
    states = (random.normal(size=(90, 7)) * 10.0 ** np.arange(-3, 4) + 2).astype(np.float32)
    states[:, 2] = 1.5
    signal = states @ random.normal(size=(7, classes)) * 10.0 ** -random.integers(0, 3, classes)
    noisy = signal + random.normal(size=signal.shape) * signal.std(axis=0)
    targets = (noisy > np.median(noisy, axis=0)).astype(np.float32) if many else noisy.argmax(1) % classes
    weights = random.uniform(0.2, 3, (90, classes) if many else 90)
    return Problem(torch.nn.Linear(7, classes, bias=False), states, targets, weights)


def expected(states: np.ndarray, targets: np.ndarray, weights: np.ndarray, strength: float) -> np.ndarray:
    """Decisions of scikit-learn's own scaler and default solver on the same rows."""
    scaled = StandardScaler(with_mean=False).fit_transform(states.astype(np.float64))
    model = LogisticRegression(C=strength, fit_intercept=False, tol=1e-9, max_iter=100_000)
    return model.fit(scaled, targets, weights).decision_function(scaled)


@pytest.mark.parametrize("strength", [1e-3, 1.0])
@pytest.mark.parametrize("classes", [2, 3])
def test_the_head_gives_the_decisions_of_scikit_learn(classes, strength):
    given = problem(classes)
    logits = given.states.astype(np.float64) @ solve(given, strength).T
    assert logits.shape == (90, classes)
    wanted = expected(given.states, given.targets, given.weights, strength)
    found = logits[:, 1] - logits[:, 0] if classes == 2 else logits
    np.testing.assert_allclose(found, wanted, atol=2e-3 * np.abs(wanted).max())


def test_each_of_many_labels_is_a_regression_with_its_own_weights():
    given = problem(3, many=True)
    logits = given.states.astype(np.float64) @ solve(given, 0.1).T
    for label in range(3):
        wanted = expected(given.states, given.targets[:, label], given.weights[:, label], 0.1)
        np.testing.assert_allclose(logits[:, label], wanted, atol=2e-3 * np.abs(wanted).max())


def test_the_best_strength_by_the_validation_metric_is_kept(toy_job, tmp_path):
    job, settings = toy_job("features", epochs=1, metric="log_loss")
    frozen = {name: own.detach().clone() for name, own in job.model.named_parameters() if name != "head.weight"}
    found = features.train(job, settings, tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "train.jsonl").read_text().splitlines()]
    losses = [line["validation"]["log_loss"] for line in lines if "validation" in line]
    assert len(losses) == len(features.STRENGTHS) and found.best_value == min(losses) < max(losses)
    assert found.best_step == 1 + losses.index(min(losses)) and found.epochs == 1
    trained = [line["loss"] for line in lines if "loss" in line]
    assert trained == sorted(trained, reverse=True)  # less regularisation fits the training rows better
    assert all(torch.equal(own, frozen[name]) for name, own in job.model.named_parameters() if name in frozen)
    kept = job.model.head.weight.detach().clone()
    np.testing.assert_allclose(kept, solve(job.problem, features.STRENGTHS[found.best_step - 1]), rtol=1e-5)
    with torch.no_grad():
        job.model.head.weight.zero_()
    load_weights(tmp_path / "checkpoints" / f"step-{found.best_step:08d}", job.model)
    assert torch.equal(job.model.head.weight, kept)


def test_what_the_method_does_not_use_is_refused():
    for name, value in (("lr", 1e-3), ("epochs", 3), ("dropout", 0.1), ("last_blocks", 1), ("lora_rank", 2)):
        with pytest.raises(RecipeError, match=f"train.{name} is not used by method features"):
            check_method(Train(method="features", **{name: value}))
    check_method(Train(method="features", class_weights="balanced", precision="fp32", metric="log_loss", threads=2))


def test_states_that_are_not_finite_and_a_label_of_every_row_are_refused(toy_job, tmp_path):
    job, settings = toy_job("features", epochs=1)
    job.problem.states[3, 1] = np.nan
    with pytest.raises(TrainingError, match="not finite"):
        features.train(job, settings, tmp_path)
    given = problem(2)
    given.targets[:] = 1
    with pytest.raises(TrainingError, match="the same value in every training row"):
        solve(given, 1.0)
