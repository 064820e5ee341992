"""The task ``classify`` in a run: a labelled table in, a classifier's bundle out."""

import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from finetune.console import say, warn
from finetune.errors import RecipeError, shorten
from finetune.evaluation.results import Start
from finetune.export.exportable import Exportable
from finetune.files import atomic_write, write_json
from finetune.hub.registry import DataRow, data_registry
from finetune.models.encoder import Encoder
from finetune.models.gpt import GPT
from finetune.models.heads import Classifier, Reader
from finetune.models.transformer import Transformer
from finetune.recipe import Recipe
from finetune.records import Downloaded, Verified
from finetune.run import Run
from finetune.tables.cells import escape_formula, table_writer
from finetune.tables.checks import refuse_meaningless
from finetune.tables.codes import GUIDE, check_muted
from finetune.tables.findings import located
from finetune.tables.sources import DataSource, locate_data, resolve_data
from finetune.tables.splits import SPLITS, normalise_text
from finetune.tasks.base import Prepared, Task, TrainingSetup, read_records, write_records
from finetune.tasks.classify.bundle import answer_columns
from finetune.tasks.classify.data import LabelledRow, length_notes, locate_files, prepare, read_data, table_findings
from finetune.tasks.classify.export import exportable_run
from finetune.tasks.classify.job import Examples, build_job, build_model, keeps_states, kept_bytes
from finetune.tasks.classify.page import PAGE, classifier_table
from finetune.tasks.classify.score import ClassifierEvaluation, positive_label, score_classifier, verdict
from finetune.tasks.setup import base_weights
from finetune.tokenizer import Tokenizer
from finetune.training.batching import micro_batches
from finetune.training.loop import Job
from finetune.training.predict import PREDICT_TOKENS, predict_logits
from finetune.training.probe import batch_size
from finetune.training.token_rows import TokenRows
from finetune.training.trial import Probe, choose, second_time

EVALUATED = 32  # rows per forward pass when a dry run times the evaluation


@dataclass(frozen=True)
class ClassifyPrepared(Prepared):
    """The result of ``prepare``."""

    rows: int
    labels: list[str]  # sorted; a label's number is its position
    max_length: int  # in tokens; longer texts are truncated


class ClassifyTask(Task[ClassifyPrepared, Reader, Classifier, ClassifierEvaluation]):
    """A text belongs to one of K labels."""

    exported = "bundle"
    bodies = (GPT, Transformer, Encoder)
    metrics = ("f1_macro", "accuracy", "log_loss")
    prepared = ClassifyPrepared
    evaluation_files = ("predictions.csv",)
    verdict = staticmethod(verdict)
    summary = staticmethod(classifier_table)
    page = PAGE

    def resolve(self, recipe: Recipe, fetch: bool) -> Recipe:
        """With registry names, bundled samples for unavailable data, and absolute paths."""
        further = {key: resolve_data(name, fetch) for key in ("validation", "test") if (name := getattr(recipe, key))}
        return recipe.model_copy(update={"data": resolve_data(recipe.data, fetch)} | further)

    def locate(self, recipe: Recipe) -> DataSource:
        """A labelled table."""
        return locate_data(recipe.data, recipe.encoding)

    def registry_row(self, recipe: Recipe) -> DataRow | None:
        """The registry row with the name of the data."""
        return data_registry().get(recipe.data)

    def files(self, recipe: Recipe) -> dict[str, Path]:
        """The table, and separate tables for validation and test."""
        words = {"": "the data", "val": "the validation file", "test": "the test file"}
        return {words[side]: data.path for side, data in locate_files(recipe).items()}

    def check_settings(self, recipe: Recipe) -> None:
        """Also check the codes of findings to ignore."""
        super().check_settings(recipe)
        check_muted(recipe.ignore)
        by_time = recipe.split.protocol == "time"
        if by_time != (recipe.columns.time is not None):
            raise RecipeError(
                "split.protocol=time needs the column of times"
                if by_time
                else "columns.time is read only by split.protocol=time",
                do="Give --time COL, which sets both, or --set split.protocol=time --set columns.time=COL.",
            )

    def check_data(self, recipe: Recipe) -> None:
        """Check the whole table."""
        table = read_data(recipe)
        refuse_meaningless(table)
        positive_label(recipe, sorted(set(table.labels)))

    def check_prepared(self, recipe: Recipe, prepared: ClassifyPrepared) -> None:
        """Check that the labels suit the section `evaluate`."""
        positive_label(recipe, prepared.labels)

    def prepare(self, recipe: Recipe, run: Run) -> ClassifyPrepared:
        """Write data/{train,val,test}.jsonl and their tokens."""
        source = read_data(recipe)
        for note in source.notes:
            say(note)
        tokenizer = Tokenizer.from_directory(base_weights(recipe, run).directory)
        context = run.result("verify", Verified).context
        for note in length_notes(recipe, context):
            warn(note)
        records, tokens_of, card = prepare(recipe, source, tokenizer, context, table_findings(recipe, source))
        write_records(run, records)
        for name, rows in tokens_of.items():
            rows.save(run.path("data", name))
        write_json(run.path("data", "card.json"), card.of(run.result("download", Downloaded).data).to_json())
        sizes = " / ".join(f"{name} {part.rows:,}" for name, part in card.splits.items())
        labels = ", ".join(f"{shorten(label)} {count:,}" for label, count in list(card.labels.items())[:6])
        tokens = card.tokens
        kept = (
            f"split by column {recipe.columns.split!r}"
            if recipe.columns.split
            else f"{card.protocol} split" + (f", seed {card.seed}" if card.protocol in ("grouped", "balanced") else "")
        )
        say(f"rows: {card.rows:,} ({labels}); {kept}: {sizes}")
        say(
            f"tokens per text: median {tokens.median}, 95 % have at most {tokens.p95}, longest {tokens.max}; "
            f"{tokens.cut_rows} truncated to {tokens.max_length}"
        )
        left_out = [part for part in source.left_out if part.code not in card.muted]
        for part in left_out:
            say(f"note: {part} [{part.code}]")
        warnings = [
            finding
            for finding in card.checks
            if finding.level != "note" and finding.check not in {part.check for part in left_out}
        ]
        for finding in warnings:
            warn(f"{located(finding)}. {finding.do} [{finding.code}]")
        if left_out or any(finding.rows for finding in warnings):
            say("row numbers start at 0 and do not count the header")
        if left_out or warnings:
            say(f"{GUIDE} explains each code")
        if card.muted:
            say(f"muted: {', '.join(card.muted)}")
        return ClassifyPrepared(
            {name: part.rows for name, part in card.splits.items()}, card.rows, sorted(card.labels), tokens.max_length
        )

    def preview(self, recipe: Recipe, context: int) -> ClassifyPrepared:
        """Labels and the sizes of the splits."""
        records, _, card = prepare(recipe, read_data(recipe), Tokenizer.of_bytes(), context)
        say(f"rows: {card.rows:,}; " + " / ".join(f"{name} {len(part):,}" for name, part in records.items()))
        return ClassifyPrepared(
            {name: len(part) for name, part in records.items()}, card.rows, sorted(card.labels), context
        )

    def build_model(self, recipe: Recipe, gpt: Reader, prepared: ClassifyPrepared) -> Classifier:
        """The model with a fresh head."""
        return build_model(gpt, len(prepared.labels), recipe.train.seed)

    def build_job(
        self, recipe: Recipe, run: Run, setup: TrainingSetup[Classifier], device: torch.device
    ) -> Job[Classifier]:
        """The job over the training split's rows."""
        parts = run_examples(run, ("train", "val"))
        return build_job(setup.model, setup.trainable, setup.settings, parts["train"], parts["val"], device)

    @torch.inference_mode()
    def evaluate(
        self, recipe: Recipe, run: Run, model: Classifier, tokenizer: Tokenizer, start: Start
    ) -> ClassifierEvaluation:
        """Evaluate on the test rows, with baselines; predictions.csv contains a line per test row."""
        labels = run.result("prepare", ClassifyPrepared).labels
        headline = recipe.evaluate.metric
        if headline == "auto":
            headline = "f1" if len(labels) == 2 else "accuracy"
        records = {name: read_records(run, name, LabelledRow) for name in SPLITS}
        parts = run_examples(run, SPLITS)
        logits = {name: predict_logits(model, parts[name].ids, show=f"{name} rows") for name in ("val", "test")}
        found, probabilities, predicted = score_classifier(
            labels=labels,
            positive=positive_label(recipe, labels),
            threshold_rule=recipe.evaluate.threshold,
            headline=headline,
            resamples=recipe.evaluate.resamples,
            seed=recipe.train.seed,
            texts={name: [record.text for record in records[name]] for name in SPLITS},
            targets={name: parts[name].targets for name in SPLITS},
            logits=logits,
            normalise=normalise_text,
            start=start,
        )
        write_predictions(run, records["test"], labels, predicted, probabilities)
        return found

    def exportable(self, recipe: Recipe, run: Run, model: Classifier, tokenizer: Tokenizer) -> Exportable:
        """The classifier with its card; its logits are compared on test texts."""
        prepared = run.result("prepare", ClassifyPrepared)
        rows, labels = read_records(run, "test", LabelledRow), prepared.labels
        texts, targets = [row.text for row in rows], [labels.index(row.label) for row in rows]
        return exportable_run(run, recipe, model, tokenizer, labels, prepared.max_length, texts, targets)

    def next_command(self, directory: Path) -> str:
        """Predict a label."""
        return f'predict {directory} "your text"'

    def probe(self, recipe: Recipe, run: Run, setup: TrainingSetup, device: torch.device) -> Probe:
        """Only the rows of the chosen batches, so that the frozen blocks, which are timed, run on few texts."""
        model, settings, trainable = setup.model, setup.settings, setup.trainable
        train, val = run_examples(run, ("train", "val")).values()
        lengths, val_lengths = (part.ids.lengths() for part in (train, val))
        budget = settings.micro_batch_tokens
        chosen = choose(lengths, settings)
        rows = [row for batch in chosen for row in batch]
        largest = max(
            micro_batches(list(range(len(val_lengths))), val_lengths, budget),
            key=lambda part: len(part) * val_lengths[part[-1]],
        )
        cached = keeps_states(model, trainable, settings, train.ids + val.ids)
        begun = time.monotonic()
        parts = _take(train, rows), _take(val, largest)
        job = build_job(model, trainable, settings, *parts, device, cached)
        spent = time.monotonic() - begun
        tried = sum(batch_size(list(range(len(part.ids))), part.ids.lengths(), budget).tokens for part in parts)
        every = sum(batch_size(list(range(len(own))), own, budget).tokens for own in (lengths, val_lengths))
        numbers = np.split(np.arange(len(rows)), np.cumsum([len(batch) for batch in chosen])[:-1])
        kept = [kept_bytes(model, trainable, ids) for ids in (train.ids + val.ids, parts[0].ids + parts[1].ids)]
        return Probe(
            job,
            [own.tolist() for own in numbers],
            replace(job, lengths=lengths, validation_tokens=sum(val_lengths)),
            spent / tried * every if cached else 0.0,
            max(kept[0] - kept[1], 0) if cached else 0,
        )

    def evaluation_seconds(self, recipe: Recipe, run: Run, setup: TrainingSetup, device: torch.device) -> float:
        """Estimated seconds for validation and test rows, from rows of evenly spaced lengths."""
        ids = [own for part in run_examples(run, ("val", "test")).values() for own in part.ids]
        ordered = sorted(ids, key=len)
        some = [ordered[len(ordered) * (2 * i + 1) // (2 * EVALUATED)] for i in range(EVALUATED)]
        model = setup.model.to(device).eval()

        def padded(rows: list[list[int]]) -> int:
            return batch_size(list(range(len(rows))), [len(row) for row in rows], PREDICT_TOKENS).tokens

        return second_time(lambda: predict_logits(model, some)) / padded(some) * padded(ids)


def run_examples(run: Run, splits: Iterable[str] = SPLITS) -> dict[str, Examples]:
    """The rows of a run's splits, with the tokens that ``prepare`` wrote."""
    number = {label: i for i, label in enumerate(run.result("prepare", ClassifyPrepared).labels)}
    found = {}
    for name in splits:
        records = read_records(run, name, LabelledRow)
        found[name] = Examples(
            [record.row for record in records],
            TokenRows.load(run.path("data", name)),
            np.array([number[record.label] for record in records]),
        )
    return found


def _take(part: Examples, rows: list[int]) -> Examples:
    return Examples([part.rows[i] for i in rows], part.ids.take(rows), part.targets[rows])


def write_predictions(
    run: Run, records: list[LabelledRow], labels: list[str], predicted: np.ndarray, probabilities: np.ndarray
) -> None:
    """predictions.csv: each row with the predicted label and the probability (n, K) of each."""
    with atomic_write(run.path("predictions.csv")) as file:
        writer = table_writer(file)
        writer.writerow(["row", "text", "label", *answer_columns(labels)])
        for record, guess, p in zip(records, predicted, probabilities, strict=True):
            writer.writerow(
                [
                    record.row,
                    escape_formula(record.text),
                    escape_formula(record.label),
                    escape_formula(labels[guess]),
                    f"{p[guess]:.6f}",
                    *(f"{value:.6f}" for value in p),
                ]
            )


TASK = ClassifyTask()
