"""Export a winner that is not the model: export/bundle/, compared with the evaluation."""

import csv
import sys
from collections.abc import Callable

import numpy as np

from finetune.console import clean, escape_markdown
from finetune.errors import WeightsError
from finetune.evaluation.choice import AVERAGE
from finetune.export import hf
from finetune.export.card import Card, front_matter
from finetune.export.exportable import Exportable, Exported, draft_of
from finetune.files import write_json
from finetune.recipe import Recipe
from finetune.run import Run
from finetune.tables.cells import unescape_formula
from finetune.tasks.classify.bundle import BundleCard, open_bundle
from finetune.tasks.classify.export import decision_text, facts_of, run_card, run_data
from finetune.tasks.classify.labelled import ClassifyPrepared
from finetune.tasks.classify.score import ClassifierEvaluation, subject
from finetune.tasks.classify.winner import MODEL_FOLDER, TFIDF_FILES, read_tfidf, write_tfidf
from finetune.tasks.setup import best_model

CLOSE = 2e-6  # probabilities in predictions.csv are rounded


def export_winner(
    recipe: Recipe, run: Run, evaluation: ClassifierEvaluation, exportable: Callable[..., Exportable]
) -> Exported:
    """Write export/bundle/, read it back, and compare its probabilities with those of the evaluation.

    exportable: of a model and its tokenizer. Raises WeightsError if a probability differs.
    """
    assert evaluation.choice is not None, "a winner was chosen"
    winner, directory = evaluation.choice.winner, run.path("export", "bundle")
    with draft_of(directory) as draft:
        draft.mkdir(parents=True)
        if winner == AVERAGE:
            hf.write(exportable(*best_model(recipe, run)), draft / MODEL_FOLDER)
        write_tfidf(draft, read_tfidf(run.directory))
        max_length = run.result("prepare", ClassifyPrepared).max_length
        card = run_card(run, recipe, evaluation, max_length, "", winner)
        write_json(draft / "bundle.json", card.to_json())
        texts, wanted = _predicted(run, card.labels)
        difference = float(np.abs(open_bundle(draft).predict(texts)[1] - wanted).max(initial=0.0))
        if not difference <= CLOSE:
            raise WeightsError(
                "the bundle's probabilities differ from the evaluation's",
                got=f"a difference of {difference:.2e}",
                do="This is a bug: please report it.",
            )
        exported = Exported(
            True,
            f"read back, the bundle gives the probabilities of predictions.csv on {len(texts):,} texts",
            difference,
        )
        about = Card(
            "text-classification", evaluation.weights, evaluation.headline, run_data(run).name, evaluation.metrics
        )
        head = front_matter(about, run.name, library="gpt2-finetune")
        said = head + clean(_readme(run, card, evaluation, exported))
        (draft / "README.md").write_text(said, encoding="utf-8", newline="\n")
    return exported


def _predicted(run: Run, labels: list[str]) -> tuple[list[str], np.ndarray]:
    """The test texts of predictions.csv, and their probabilities (n, K)."""
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    with open(run.path("predictions.csv"), encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, strict=True))
    texts = [unescape_formula(row["text"]) for row in rows]
    return texts, np.array([[float(row[f"p_{label}"]) for label in labels] for row in rows]).reshape(-1, len(labels))


def _readme(run: Run, card: BundleCard, evaluation: ClassifierEvaluation, exported: Exported) -> str:
    """The README of a winner's bundle."""
    choice = evaluation.choice
    assert choice is not None, "a winner was chosen"
    labels = ", ".join(map(escape_markdown, card.labels))
    reached = ", ".join(f"{name} {own.metric:.4f}" for name, own in choice.validation.items())
    lines = [
        f"# {escape_markdown(run.name)}",
        "",
        f"A text classifier with the labels {labels}, made by gpt2-finetune: {subject(evaluation)}.",
        "",
        f"- chosen on {choice.rows:,} validation texts by {choice.metric}: {reached}",
        *(f"- {fact}" for fact in facts_of(evaluation, run_data(run))),
        f"- {decision_text(card)}",
        f"- {exported.summary}",
        f"- {TFIDF_FILES[0]} contains words and parts of words from the training texts",
        "",
        "## Use",
        "",
        '    finetune predict DIRECTORY "a text"',
        "",
    ]
    return "\n".join(lines)
