"""The task ``classify`` under ``classify.labels = many``: a text has any number of K labels."""

import numpy as np

from finetune.errors import RecipeError
from finetune.evaluation.label_sets import choose_thresholds, label_set_metrics, sigmoid
from finetune.evaluation.results import Metric, Start
from finetune.models.heads import Classifier
from finetune.recipe import Recipe, Train
from finetune.run import Run
from finetune.tables.splits import normalise_text
from finetune.tasks.classify.job import Examples, Objective
from finetune.tasks.classify.labelled import LabelledTask
from finetune.tasks.classify.many.job import label_indicators, many_labels
from finetune.tasks.classify.many.page import PAGE, many_table
from finetune.tasks.classify.many.score import HEADLINES, ManyEvaluation, score_many
from finetune.tasks.classify.score import Scored, verdict
from finetune.tasks.classify.seeds import with_seeds
from finetune.tokenizer import Tokenizer


class ManyTask(LabelledTask[ManyEvaluation]):
    """A text has any number of K labels, each with its own probability and threshold."""

    metrics = ("f1_macro", "log_loss")
    decided_by = "subset_accuracy"
    verdict = staticmethod(verdict)
    summary = staticmethod(many_table)
    page = PAGE
    targets = staticmethod(label_indicators)

    def check_settings(self, recipe: Recipe) -> None:
        """Also refuse settings that need one label per row."""
        super().check_settings(recipe)
        wanted = recipe.evaluate
        for setting, asked, fix in (
            ("split.protocol=balanced", recipe.split.protocol == "balanced", "Leave it out."),
            ("evaluate.choose=best", wanted.choose == "best", "Leave it out."),
            ("evaluate.positive", wanted.positive is not None, "Leave it out: each label has scores of its own."),
            (
                f"evaluate.aim={wanted.aim}",
                wanted.aim not in (None, "half", "max-f1"),
                "Set it to half or max-f1, of each label.",
            ),
            ("evaluate.costs", wanted.costs is not None, "Leave it out."),
            (
                f"evaluate.metric={wanted.metric}",
                wanted.metric not in (None, "auto", *HEADLINES),
                f"Set it to one of {', '.join(HEADLINES)}.",
            ),
        ):
            if asked:
                raise RecipeError(f"{setting} needs one label per row", got="classify.labels=many", do=fix)

    def objective(self, classes: int, settings: Train, train: Examples, val: Examples) -> Objective:
        """Binary cross entropy of each label."""
        return many_labels(train, val, settings)

    def score(
        self,
        recipe: Recipe,
        labels: list[str],
        texts: dict[str, list[str]],
        parts: dict[str, Examples],
        logits: dict[str, np.ndarray],
        start: Start,
    ) -> Scored[ManyEvaluation]:
        """With one-vs-rest TF-IDF and the most frequent labels as baselines."""
        headline = recipe.evaluate.metric
        return score_many(
            labels=labels,
            aim=recipe.evaluate.aim or "max-f1",
            headline=headline if headline in HEADLINES else HEADLINES[0],
            resamples=recipe.evaluate.resamples,
            seed=recipe.train.seed,
            texts=texts,
            targets={name: part.targets.astype(bool) for name, part in parts.items()},
            logits=logits,
            normalise=normalise_text,
            start=start,
        )

    def evaluate(
        self, recipe: Recipe, run: Run, model: Classifier, tokenizer: Tokenizer, start: Start
    ) -> ManyEvaluation:
        """Also with further seeds."""
        return with_seeds(self, recipe, run, super().evaluate(recipe, run, model, tokenizer, start))

    def measure(
        self, recipe: Recipe, labels: list[str], targets: dict[str, np.ndarray], logits: dict[str, np.ndarray]
    ) -> dict[str, Metric]:
        """With each label's threshold chosen on val."""
        p_val, p_test = (sigmoid(logits[name]) for name in ("val", "test"))
        thresholds = choose_thresholds(targets["val"].astype(bool), p_val, recipe.evaluate.aim or "max-f1")
        truth, decided = targets["test"].astype(bool), p_test >= thresholds
        return label_set_metrics(truth, decided, p_test, recipe.evaluate.resamples, recipe.train.seed)


TASK = ManyTask()
