"""The task ``classify`` in a run: a labelled table in, a classifier's bundle out. A text has one of K labels."""

from functools import partial
from typing import Any

import numpy as np

from finetune.errors import RecipeError
from finetune.evaluation.aims import choose_rule
from finetune.evaluation.calibration import fit_temperature, softmax
from finetune.evaluation.choice import MODEL
from finetune.evaluation.metrics import classification_metrics
from finetune.evaluation.results import Metric, Start
from finetune.export.exportable import Exported
from finetune.files import read_json, write_json
from finetune.models.heads import Classifier
from finetune.recipe import Recipe, Train
from finetune.run import Run
from finetune.tables.checks import refuse_meaningless
from finetune.tables.splits import normalise_text
from finetune.tables.white_space import fold_white_space
from finetune.tasks.base import AnyTask
from finetune.tasks.classify.choose import score_best
from finetune.tasks.classify.data import LabelledRow, read_data
from finetune.tasks.classify.explain import Trained, explain
from finetune.tasks.classify.job import Examples, Objective, label_numbers, one_label
from finetune.tasks.classify.labelled import ClassifyPrepared, LabelledTask
from finetune.tasks.classify.many.task import TASK as MANY
from finetune.tasks.classify.page import PAGE, classifier_table
from finetune.tasks.classify.score import (
    ClassifierEvaluation,
    Scored,
    positive_label,
    recipe_costs,
    score_classifier,
    verdict,
)
from finetune.tasks.classify.seeds import with_seeds
from finetune.tasks.classify.winner_export import export_winner
from finetune.tokenizer import Tokenizer


class ClassifyTask(LabelledTask[ClassifierEvaluation]):
    """A text belongs to one of K labels."""

    metrics = ("f1_macro", "accuracy", "log_loss")
    evaluation_files = (*LabelledTask.evaluation_files, "explanations.json")
    verdict = staticmethod(verdict)
    summary = staticmethod(classifier_table)
    page = PAGE
    targets = staticmethod(label_numbers)

    def variant(self, recipe: Recipe) -> AnyTask:
        """The form for many labels per row, if the recipe asks for it."""
        return labelled_task(recipe)

    def check_settings(self, recipe: Recipe) -> None:
        """Also check the headline metric."""
        super().check_settings(recipe)
        if recipe.evaluate.metric in ("f1_micro", "subset_accuracy"):
            raise RecipeError(
                f"evaluate.metric={recipe.evaluate.metric} is for rows with many labels",
                known="accuracy, f1, f1_macro",
                do="Set one of these, or classify.labels=many.",
            )

    def check_data(self, recipe: Recipe) -> None:
        """Also check that the labels suit the section `evaluate`."""
        table = read_data(recipe)
        refuse_meaningless(table)
        positive_label(recipe, sorted(set(table.labels)))

    def check_prepared(self, recipe: Recipe, prepared: ClassifyPrepared) -> None:
        """Check that the labels suit the section `evaluate`."""
        positive_label(recipe, prepared.labels)

    def objective(self, classes: int, settings: Train, train: Examples, val: Examples) -> Objective:
        """Cross entropy."""
        return one_label(train, val, classes, settings)

    def score(
        self,
        recipe: Recipe,
        labels: list[str],
        texts: dict[str, list[str]],
        parts: dict[str, Examples],
        logits: dict[str, np.ndarray],
        start: Start,
    ) -> Scored[ClassifierEvaluation]:
        """With TF-IDF and the majority class as baselines, or with the winner on the validation rows."""
        headline = recipe.evaluate.metric or "accuracy"
        if headline == "auto":
            headline = "f1" if len(labels) == 2 else "accuracy"
        tfidf = None
        arguments: dict[str, Any] = dict(
            labels=labels,
            positive=positive_label(recipe, labels),
            aim=recipe.evaluate.aim or "half",
            costs=recipe_costs(recipe),
            headline=headline,
            resamples=recipe.evaluate.resamples,
            seed=recipe.train.seed,
            texts=texts,
            targets={name: part.targets for name, part in parts.items()},
            logits=logits,
            normalise=normalise_text,
            start=start,
        )
        if recipe.evaluate.choose == "best":
            found, probabilities, predicted, tfidf = score_best(**arguments)
        else:
            found, probabilities, predicted = score_classifier(**arguments)
        confidence = probabilities[np.arange(len(predicted)), predicted]
        abstain_below = found.decision.rule.abstain_below
        return Scored(found, [labels[i] for i in predicted], confidence, probabilities, abstain_below, tfidf)

    def measure(
        self, recipe: Recipe, labels: list[str], targets: dict[str, np.ndarray], logits: dict[str, np.ndarray]
    ) -> dict[str, Metric]:
        """With the temperature and the decision rule chosen on val."""
        temperature, positive = fit_temperature(logits["val"], targets["val"]), positive_label(recipe, labels)
        p_val, p_test = (softmax(logits[name], temperature) for name in ("val", "test"))
        rule = choose_rule(recipe.evaluate.aim or "half", recipe_costs(recipe), targets["val"], p_val, positive)
        decided = rule.predict(p_test, positive)
        return classification_metrics(
            targets["test"], decided, p_test, labels, positive, recipe.evaluate.resamples, recipe.train.seed
        )

    def winner(self, run: Run) -> str:
        """The predictor that was chosen on the validation rows."""
        choice = self._evaluation(run).choice
        return MODEL if choice is None else choice.winner

    def model_evaluation(self, run: Run) -> ClassifierEvaluation:
        """The model's own, even if another predictor won."""
        found = self._evaluation(run)
        return found.model or found

    def _evaluation(self, run: Run) -> ClassifierEvaluation:
        path = run.path("eval.json")
        return ClassifierEvaluation.from_json(read_json(path), path)

    def export_winner(self, recipe: Recipe, run: Run) -> Exported:
        """Write export/bundle/ with TF-IDF, or with TF-IDF and the model."""
        return export_winner(recipe, run, self._evaluation(run), partial(self.exportable, recipe, run))

    def evaluate(
        self, recipe: Recipe, run: Run, model: Classifier, tokenizer: Tokenizer, start: Start
    ) -> ClassifierEvaluation:
        """Also with further seeds."""
        return with_seeds(self, recipe, run, super().evaluate(recipe, run, model, tokenizer, start))

    def explain(
        self,
        recipe: Recipe,
        run: Run,
        model: Classifier,
        tokenizer: Tokenizer,
        evaluation: ClassifierEvaluation,
        records: dict[str, list[LabelledRow]],
        parts: dict[str, Examples],
        test_logits: np.ndarray,
    ) -> None:
        """Write explanations.json, on the model's decisions even if another predictor won."""
        evaluation = evaluation.model or evaluation
        folds = recipe.columns.white_space == "fold"
        trained = Trained(
            model,
            tokenizer,
            evaluation.labels,
            positive_label(recipe, evaluation.labels),
            evaluation.decision.rule,
            evaluation.temperature,
            run.result("prepare", ClassifyPrepared).max_length,
            fold_white_space if folds else str,
        )
        groups = row_groups(recipe)
        found = explain(
            trained, records, parts, test_logits, groups, recipe.columns.group or "", recipe.evaluate.resamples
        )
        write_json(run.path("explanations.json"), found.to_json())


def row_groups(recipe: Recipe) -> dict[int, str]:
    """Row number -> value of the group column; nothing if there is none, or row numbers are not unique."""
    source = read_data(recipe) if recipe.columns.group else None
    if source is None or len(set(source.rows)) < len(source.rows):
        return {}
    return dict(zip(source.rows, source.groups, strict=True))


TASK = ClassifyTask()


def labelled_task(recipe: Recipe) -> LabelledTask[Any]:
    """The variant of the task that a recipe selects."""
    return MANY if recipe.classify.labels == "many" else TASK
