"""The shared part of the two variants of the task ``classify``: one label per row (task.py), and many (many/task.py)."""

import time
from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from finetune.console import say, warn
from finetune.errors import RecipeError, shorten
from finetune.evaluation.aims import ABSTAIN, decided_rows
from finetune.evaluation.compare_runs import TestedRows
from finetune.evaluation.results import Metric, Start
from finetune.export.exportable import Exportable
from finetune.files import atomic_write, read_json, write_json
from finetune.hub.registry import DataRow, data_registry
from finetune.models.encoder import Encoder
from finetune.models.gpt import GPT
from finetune.models.heads import Classifier, Reader
from finetune.models.transformer import Transformer
from finetune.recipe import Recipe, Train
from finetune.records import Downloaded, Verified
from finetune.run import Run
from finetune.tables.cells import escape_formula, table_writer
from finetune.tables.checks import refuse_meaningless
from finetune.tables.codes import GUIDE, check_muted
from finetune.tables.findings import located
from finetune.tables.fixes import read_fixes
from finetune.tables.sources import DataSource, locate_data, resolve_data, resolve_path
from finetune.tables.splits import SPLITS
from finetune.tasks.base import Prepared, Task, TrainingSetup, read_records, read_tested, write_records
from finetune.tasks.classify.bundle import Bundle, ManyBundle, answer_columns
from finetune.tasks.classify.data import (
    ClassifierCard,
    LabelledRow,
    length_notes,
    locate_files,
    prepare,
    read_data,
    table_findings,
)
from finetune.tasks.classify.export import exportable_run
from finetune.tasks.classify.job import (
    Examples,
    Frozen,
    Objective,
    build_job,
    build_model,
    keeps_states,
    kept_bytes,
    label_numbers,
    run_frozen,
)
from finetune.tasks.classify.long_texts import (
    TOKENS,
    LongTexts,
    Sample,
    compare_windows,
    draw_sample,
    told_of,
    what_ways_cost,
)
from finetune.tasks.classify.score import L, Scored
from finetune.tasks.classify.winner import TFIDF_FILES, write_tfidf
from finetune.tasks.setup import base_weights
from finetune.tokenizer import Tokenizer
from finetune.training.batching import inference_batches, padded_tokens
from finetune.training.job import Job
from finetune.training.pieces import CUT, WINDOWS, Pieces, average
from finetune.training.predict import PREDICT_TOKENS, predict_logits
from finetune.training.trial import Probe, choose, second_time

FROZEN, LOGITS = "frozen states", "test logits"  # keys of a run's memory
EVALUATED = 32  # rows per forward pass when a dry run times the evaluation


@dataclass(frozen=True)
class ClassifyPrepared(Prepared):
    """The result of ``prepare``."""

    rows: int
    labels: list[str]  # sorted; a label's number is its position
    max_length: int  # in tokens
    long_texts: str = CUT  # how longer texts are read


class LabelledTask(Task[ClassifyPrepared, Reader, Classifier, L]):
    """A text has one of K labels, or any number of them."""

    exported = "bundle"
    solvable = True
    bodies = (GPT, Transformer, Encoder)
    prepared = ClassifyPrepared
    decided_by = "accuracy"  # the metric that is the mean of the rows' correctness
    evaluation_files: tuple[str, ...] = ("predictions.csv", *TFIDF_FILES)

    @abstractmethod
    def targets(self, labels_of_rows: list[str], labels: list[str]) -> np.ndarray:
        """The training target of each row, from its label in the prepared data."""

    @abstractmethod
    def objective(self, classes: int, settings: Train, train: Examples, val: Examples) -> Objective:
        """The loss of these targets, and the metrics of a validation."""

    @abstractmethod
    def score(
        self,
        recipe: Recipe,
        labels: list[str],
        texts: dict[str, list[str]],
        parts: dict[str, Examples],
        logits: dict[str, np.ndarray],
        start: Start,
    ) -> Scored[L]:
        """The evaluation of the logits (n, K) of val and test. texts, parts: of train, val and test."""

    @abstractmethod
    def measure(
        self, recipe: Recipe, labels: list[str], targets: dict[str, np.ndarray], logits: dict[str, np.ndarray]
    ) -> dict[str, Metric]:
        """The metrics on the test rows of logits (n, K) of val and test, with a rule chosen on val."""

    def resolve(self, recipe: Recipe, fetch: bool) -> Recipe:
        """With registry names, bundled samples for unavailable data, and absolute paths."""
        further = {key: resolve_data(name, fetch) for key in ("validation", "test") if (name := getattr(recipe, key))}
        fixes = tuple(map(resolve_path, recipe.classify.fixes))
        further["classify"] = recipe.classify.model_copy(update={"fixes": fixes})
        return recipe.model_copy(update={"data": resolve_data(recipe.data, fetch)} | further)

    def locate(self, recipe: Recipe) -> DataSource:
        """A labelled table."""
        return locate_data(recipe.data, recipe.encoding)

    def registry_row(self, recipe: Recipe) -> DataRow | None:
        """The registry row with the name of the data."""
        return data_registry().get(recipe.data)

    def files(self, recipe: Recipe) -> dict[str, Path]:
        """The table, separate tables for validation and test, and the fixes."""
        words = {"": "the data", "val": "the validation file", "test": "the test file"}
        fixes = {f"the fixes in {Path(name).name}": Path(name) for name in recipe.classify.fixes}
        return {words[side]: data.path for side, data in locate_files(recipe).items()} | fixes

    def check_settings(self, recipe: Recipe) -> None:
        """Also check the codes of findings to ignore, and the fixes."""
        super().check_settings(recipe)
        check_muted(recipe.ignore)
        for name in recipe.classify.fixes:
            read_fixes(Path(name))
        if recipe.classify.labels == "many" and (recipe.classify.fixes or recipe.classify.audit == "on"):
            raise RecipeError(
                "the search for wrong labels and their correction need one label per row",
                got="classify.labels=many",
                do="Leave classify.audit and classify.fixes out.",
            )
        by_time = recipe.split.protocol == "time"
        if by_time != (recipe.columns.time is not None):
            raise RecipeError(
                "split.protocol=time needs a time column"
                if by_time
                else "columns.time is used only by split.protocol=time",
                do="Give --time COL, which sets both, or --set split.protocol=time --set columns.time=COL.",
            )

    def check_data(self, recipe: Recipe) -> None:
        """Check the whole table."""
        refuse_meaningless(read_data(recipe))

    def prepare(self, recipe: Recipe, run: Run) -> ClassifyPrepared:
        """Write data/{train,val,test}.jsonl and their tokens."""
        source = read_data(recipe)
        read = len(source.notes)
        for note in source.notes:
            say(note)
        tokenizer = Tokenizer.from_directory(base_weights(recipe, run).directory)
        context = run.result("verify", Verified).context
        for note in length_notes(recipe, context):
            warn(note)
        records, tokens_of, card = prepare(recipe, source, tokenizer, context, table_findings(recipe, source))
        for note in source.notes[read:]:  # the effect of the fixes
            say(note)
        write_records(run, records)
        for name, pieces in tokens_of.items():
            pieces.save(run.path("data", name))
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
            f"{told_of(tokens)}"
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
            {name: part.rows for name, part in card.splits.items()},
            card.rows,
            sorted(card.labels),
            tokens.max_length,
            tokens.long_texts,
        )

    def preview(self, recipe: Recipe, context: int) -> ClassifyPrepared:
        """Labels and the sizes of the splits."""
        records, _, card = prepare(recipe, read_data(recipe), Tokenizer.of_bytes(), context)
        say(f"rows: {card.rows:,}; " + " / ".join(f"{name} {len(part):,}" for name, part in records.items()))
        if recipe.classify.long_texts == WINDOWS:
            say("windows: each is a separate training row; how many there are depends on the weights' tokenizer")
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
        train, val = run_examples(run, ("train", "val"), self.targets).values()
        objective = self.objective(setup.model.head.out_features, setup.settings, train, val)
        given = setup.model, setup.trainable, setup.settings, train, val, device
        frozen = run_frozen(*given)
        if setup.settings.precision == "fp32":  # in which ``evaluate`` computes
            run.memory[FROZEN] = frozen
        return build_job(*given, objective, frozen)

    @torch.inference_mode()
    def evaluate(self, recipe: Recipe, run: Run, model: Classifier, tokenizer: Tokenizer, start: Start) -> L:
        """Evaluate on the test rows, with baselines; predictions.csv contains a line per test row."""
        prepared = run.result("prepare", ClassifyPrepared)
        labels = prepared.labels
        records = {name: read_records(run, name, LabelledRow) for name in SPLITS}
        texts = {name: [record.text for record in records[name]] for name in SPLITS}
        parts = run_examples(run, SPLITS, self.targets)
        kept = run.memory.pop(FROZEN, None) or Frozen(0)  # of a training in this process
        found = {
            "val": predict_logits(model, parts["val"].ids, kept.val, kept.first_block, show="val rows"),
            "test": predict_logits(model, parts["test"].ids, show="test rows"),
        }
        logits = {name: average(found[name], parts[name].pieces) for name in found}
        if prepared.long_texts == CUT:
            run.memory[LOGITS] = logits["test"]
        scored = self.score(recipe, labels, texts, parts, logits, start)
        write_predictions(
            run,
            records["test"],
            labels,
            scored.predicted,
            scored.confidence,
            scored.probabilities,
            scored.abstain_below,
        )
        begun = {name: part.beginnings() for name, part in parts.items()}
        self.explain(recipe, run, model, tokenizer, scored.evaluation, records, begun, logits["test"])
        if scored.tfidf is not None:
            write_tfidf(run.directory, scored.tfidf)
        own = getattr(scored.evaluation, "model", None) or scored.evaluation  # the model's, where another won
        long = self._compare_windows(recipe, prepared, own, model, tokenizer, texts["test"], parts, logits)
        return replace(scored.evaluation, long_texts=long)

    def _compare_windows(
        self,
        recipe: Recipe,
        prepared: ClassifyPrepared,
        evaluation: L,
        model: Classifier,
        tokenizer: Tokenizer,
        texts: list[str],
        parts: dict[str, Examples],
        logits: dict[str, np.ndarray],
    ) -> LongTexts:
        """The model's accuracy on a sample of the long test rows, as read and in windows."""
        decides = (Bundle if evaluation.thresholds is None else ManyBundle)(
            model,
            tokenizer,
            evaluation.labels,
            evaluation.positive,
            prepared.max_length,
            evaluation.threshold,
            evaluation.temperature,
            thresholds=evaluation.thresholds,
        )
        sample = self._sample(recipe, prepared, tokenizer, texts, parts["test"])
        in_windows = predict_logits(model, sample.windows.ids, show="long test rows" if sample.at else "")
        as_read, whole = (
            decides.decide(decides.probabilities(found))
            for found in (logits["test"][sample.at], average(in_windows, sample.windows.counts))
        )
        known = LongTexts(prepared.long_texts, prepared.max_length, sample.rows, sample.unread)
        targets, resamples = parts["test"].targets[sample.at], recipe.evaluate.resamples
        return compare_windows(known, as_read, whole, targets, resamples, recipe.train.seed)

    def _sample(
        self, recipe: Recipe, prepared: ClassifyPrepared, tokenizer: Tokenizer, texts: list[str], test: Examples
    ) -> Sample:
        """A sample of the long test rows, to read in windows as well."""
        budget = max(sum(test.ids.lengths()), TOKENS)
        read = np.bincount(test.row_of_piece(), test.ids.lengths(), len(test.rows))
        return draw_sample(tokenizer, texts, read, prepared.long_texts, prepared.max_length, budget, recipe.train.seed)

    def explain(
        self,
        recipe: Recipe,
        run: Run,
        model: Classifier,
        tokenizer: Tokenizer,
        evaluation: L,
        records: dict[str, list[LabelledRow]],
        parts: dict[str, Examples],
        test_logits: np.ndarray,
    ) -> None:
        """Write explanations of the errors on test rows; by default nothing."""

    def exportable(self, recipe: Recipe, run: Run, model: Classifier, tokenizer: Tokenizer) -> Exportable:
        """The classifier with its card. Its logits are compared on test texts, with the evaluated ones if still in memory."""
        evaluation = self.model_evaluation(run)
        rows, prepared = read_records(run, "test", LabelledRow), run.result("prepare", ClassifyPrepared)
        texts, targets = [row.text for row in rows], self.targets([row.label for row in rows], evaluation.labels)
        thing = exportable_run(run, recipe, model, tokenizer, evaluation, prepared.max_length, texts, targets)
        return replace(thing, logits=run.memory.get(LOGITS))

    def tested_rows(self, run: Run) -> TestedRows:
        """The predicted label or labels of each test row, and whether they are right."""
        rows, given = read_tested(run.path("predictions.csv"), ("row", "text", "label"), "predicted")
        scores = np.array([wanted == own for (*_, wanted), own in zip(rows, given, strict=True)], dtype=float)
        return TestedRows(rows, given, self.decided_by, scores, share=True)

    def model_evaluation(self, run: Run) -> L:
        """The evaluation of the model."""
        path = run.path("eval.json")
        found: L = self.page.evaluation.from_json(read_json(path), path)
        return found

    def next_command(self, directory: Path) -> str:
        """Predict a label."""
        return f'predict {directory} "your text"'

    def alternatives(self, recipe: Recipe, run: Run) -> list[str]:
        """The cost of each way to read long texts."""
        path = run.path("data", "card.json")
        return what_ways_cost(ClassifierCard.from_json(read_json(path), path).tokens)

    def probe(self, recipe: Recipe, run: Run, setup: TrainingSetup, device: torch.device) -> Probe:
        """Only the rows of the chosen batches, so that the frozen blocks, which are timed, run on few texts."""
        model, settings, trainable = setup.model, setup.settings, setup.trainable
        train, val = (part.by_piece() for part in run_examples(run, ("train", "val"), self.targets).values())
        lengths, val_lengths = (part.ids.lengths() for part in (train, val))
        budget = settings.tokens_per_pass
        chosen = choose(lengths, settings)
        rows = [row for batch in chosen for row in batch]
        largest = max(inference_batches(val_lengths, budget), key=lambda part: len(part) * val_lengths[part[-1]])
        cached = keeps_states(model, trainable, settings, train.ids + val.ids)
        begun = time.monotonic()
        parts = train.take(rows), val.take(largest)
        given = model, trainable, settings, *parts, device
        objective = self.objective(model.head.out_features, settings, *parts)
        job = build_job(*given, objective, run_frozen(*given, cached))
        spent = time.monotonic() - begun
        tried = sum(padded_tokens(part.ids.lengths(), budget) for part in parts)
        every = sum(padded_tokens(own, budget) for own in (lengths, val_lengths))
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
        parts = run_examples(run, ("val", "test"), self.targets)
        texts = [record.text for record in read_records(run, "test", LabelledRow)]
        prepared = run.result("prepare", ClassifyPrepared)
        sample = self._sample(recipe, prepared, setup.tokenizer, texts, parts["test"])
        ids = [own for part in (parts["val"].ids, parts["test"].ids, sample.windows.ids) for own in part]
        ordered = sorted(ids, key=len)
        some = [ordered[len(ordered) * (2 * i + 1) // (2 * EVALUATED)] for i in range(EVALUATED)]
        model = setup.model.to(device).eval()

        def padded(rows: list[list[int]]) -> int:
            return padded_tokens([len(row) for row in rows], PREDICT_TOKENS)

        return second_time(lambda: predict_logits(model, some)) / padded(some) * padded(ids)


def run_examples(
    run: Run, splits: Iterable[str] = SPLITS, targets: Callable[[list[str], list[str]], np.ndarray] = label_numbers
) -> dict[str, Examples]:
    """The rows of a run's splits, with the tokens that ``prepare`` wrote. targets: as ``LabelledTask.targets``."""
    labels = run.result("prepare", ClassifyPrepared).labels
    found = {}
    for name in splits:
        records = read_records(run, name, LabelledRow)
        read = Pieces.load(run.path("data", name))
        found[name] = Examples(
            [record.row for record in records],
            read.ids,
            targets([record.label for record in records], labels),
            pieces=read.counts,
        )
    return found


def write_predictions(
    run: Run,
    records: list[LabelledRow],
    labels: list[str],
    predicted: Sequence[str],
    confidence: np.ndarray,
    probabilities: np.ndarray,
    abstain_below: float | None = None,
) -> None:
    """predictions.csv: each row with the prediction, its probability (n,) and the probability (n, K) of each label.

    With `abstain_below`, the decision is added: the prediction if its probability is at least that.
    """
    decided = decided_rows(confidence, abstain_below)
    with atomic_write(run.path("predictions.csv")) as file:
        writer = table_writer(file)
        writer.writerow(["row", "text", "label", *answer_columns(labels, abstain_below is not None)])
        for record, guess, sure, is_decided, p in zip(
            records, predicted, confidence, decided, probabilities, strict=True
        ):
            writer.writerow(
                [
                    record.row,
                    escape_formula(record.text),
                    escape_formula(record.label),
                    escape_formula(guess),
                    *([] if abstain_below is None else [escape_formula(guess) if is_decided else ABSTAIN]),
                    f"{sure:.6f}",
                    *(f"{value:.6f}" for value in p),
                ]
            )
