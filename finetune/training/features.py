"""The method ``features``: logistic regression on the hidden states of the frozen model, instead of the training loop.

Every text passes through the model once. scikit-learn then solves the convex problem of the head for several strengths
of L2 regularisation, and the validation metric chooses among them, as it chooses the best checkpoint of a training. The
head has no bias, so the regression has no intercept. The states are divided by their standard deviations but not
centred: the divisors fold into the head, and the model remains a GPT2ForSequenceClassification.
"""

import json
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from finetune.console import say
from finetune.errors import TrainingError
from finetune.files import atomic_write, write_json
from finetune.recipe import Train
from finetune.records import Trained
from finetune.training import resume
from finetune.training.job import Job, Problem
from finetune.training.loop import State, note_best, set_threads, validate
from finetune.training.precision import device_type
from finetune.training.probe import peak_bytes

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # scikit-learn's C: the inverse strength of regularisation
ITERATIONS = 1000
ROWS = 4096  # per forward pass of the head


def solve(problem: Problem, strength: float) -> np.ndarray:
    """The weight of the head, (K, C), that minimises strength * weighted loss + ||scaled weight||² / 2.

    The loss is cross entropy, or with many labels the binary cross entropy of each. With two classes, one row of the
    weight is the negative of the other.
    """
    scale = problem.states.std(axis=0, dtype=np.float64)
    scale[scale == 0] = 1.0
    states = problem.states / scale
    if problem.targets.ndim == 1:
        found = _regress(states, problem.targets, problem.weights, strength)
        found = np.concatenate([-found, found]) / 2 if len(found) == 1 else found
    else:
        weights = np.broadcast_to(problem.weights.T, problem.targets.T.shape)  # (K, n)
        each = zip(problem.targets.T, weights, strict=True)
        found = np.concatenate([_regress(states, label, own, strength) for label, own in each])
    return found / scale


def _regress(states: np.ndarray, targets: np.ndarray, weights: np.ndarray, strength: float) -> np.ndarray:
    """scikit-learn's coefficients: (1, C) for two classes, else (K, C)."""
    from sklearn.linear_model import LogisticRegression

    classes = len(np.unique(targets))
    if classes < 2:
        raise TrainingError(
            "a label has the same value in every training row", do="Use another method, or leave the label out."
        )
    model = LogisticRegression(
        C=strength, fit_intercept=False, solver="newton-cholesky" if classes == 2 else "lbfgs", max_iter=ITERATIONS
    )
    return np.asarray(model.fit(states, targets, sample_weight=weights).coef_)


def train(job: Job, settings: Train, directory: Path, set_up_seconds: float = 0.0) -> Trained:
    """Solve for the head of `job` at each strength, and write the best as ``loop.train`` writes its best step.

    A step is one strength. set_up_seconds: time already spent, mostly on computing the states.
    """
    assert job.problem is not None, "the method features solves a problem"
    if not np.isfinite(job.problem.states).all():
        raise TrainingError("the states of the model are not finite", do="Check the weights: finetune weights verify.")
    threads, begun, state = set_threads(settings.threads), time.monotonic(), State()
    lines: list[dict[str, Any]] = []
    head, root = job.problem.head, directory / "checkpoints"
    best = head.weight.detach().clone()
    for state.step, strength in enumerate(STRENGTHS, 1):
        with torch.no_grad():
            head.weight.copy_(torch.from_numpy(solve(job.problem, strength)))
        found = validate(job, settings, head.weight.device)
        improved = note_best(state, settings, found)
        if improved:
            best = head.weight.detach().clone()
        entry: dict[str, Any] = {"step": state.step, "epoch": 1.0}
        lines += [entry | {"strength": strength, "loss": _loss(job)}]
        lines += [entry | {"validation": found, "best": improved}]
        shown = "  ".join(f"{name} {value:.4f}" for name, value in found.items())
        say(f"  regularisation C={strength:g}: validation {shown}{'  (best)' if improved else ''}")
    with torch.no_grad():
        head.weight.copy_(best)
    shutil.rmtree(root, ignore_errors=True)
    assert state.best is not None, "each strength is validated"
    state.tokens, state.seconds = sum(job.lengths), round(set_up_seconds + time.monotonic() - begun, 3)
    resume.save_step(root, state.best["step"], job.model, [], vars(state))
    with atomic_write(directory / "train.jsonl") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)
    write_json(root / "best.json", state.best)
    return Trained(
        steps=state.step,
        planned_steps=state.step,
        epochs=1.0,
        rows=len(job.lengths),
        tokens=state.tokens,
        seconds=state.seconds,
        tokens_per_second=round(state.tokens / max(state.seconds, 1e-9), 1),
        best_step=state.best["step"],
        best_value=state.best["value"],
        metric=settings.metric,
        stopped_early=False,
        processes=1,
        threads=threads,
        device=device_type(),
        peak_bytes=peak_bytes(head.weight.device),
    )


def _loss(job: Job) -> float:
    """The mean loss of the training rows."""
    rows = list(range(len(job.lengths)))
    with torch.no_grad():
        parts = [job.loss_sum(job.model, job.batch(rows[at : at + ROWS])) for at in range(0, len(rows), ROWS)]
    return float(sum(parts)) / sum(job.weights)
