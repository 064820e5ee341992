"""The task ``classify`` in a run: a labelled table in, a classifier's bundle out."""

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from finetune.console import say, warn
from finetune.errors import shorten
from finetune.evaluation.results import Start
from finetune.files import atomic_write, write_json
from finetune.hub.registry import DataRow, data_registry
from finetune.models.gpt import GPT
from finetune.models.heads import Classifier
from finetune.recipe import Recipe
from finetune.records import DataOrigin
from finetune.run import Run
from finetune.tables.cells import defuse, table_writer
from finetune.tables.checks import places, refuse_meaningless
from finetune.tables.sources import DataSource, locate_data, resolve_data
from finetune.tables.splits import SPLITS, normalise_text
from finetune.tasks.base import Task, TrainingSetup, read_records, write_records
from finetune.tasks.classify.data import prepare, read_data, table_findings
from finetune.tasks.classify.export import write_bundle
from finetune.tasks.classify.job import Examples, build_job, build_model, examples, keeps_states, kept_bytes
from finetune.tasks.classify.page import PAGE, classifier_table
from finetune.tasks.classify.score import ClassifierEvaluation, positive_label, score_classifier, verdict
from finetune.tasks.setup import base_weights
from finetune.tokenizer import Tokenizer
from finetune.training.batching import micro_batches
from finetune.training.loop import Job
from finetune.training.predict import PREDICT_TOKENS, predict_logits
from finetune.training.probe import batch_size
from finetune.training.trial import Probe, choose, second_time

EVALUATED = 32  # rows of a forward pass that stands for the evaluation


class ClassifyTask(Task):
    """A text belongs to one of K labels."""

    exported = "bundle"
    metrics = ("f1_macro", "accuracy", "log_loss")
    unread = ("pretrain", "instruct", "seq2seq")
    verdict = staticmethod(verdict)
    summary = staticmethod(classifier_table)
    page = PAGE

    def resolve_data(self, name: str, fetch: bool) -> str:
        """A registry's row, its sample in its stead, or a file's whole path."""
        return resolve_data(name, fetch)

    def locate(self, recipe: Recipe) -> DataSource:
        """A labelled table."""
        return locate_data(recipe.data, recipe.encoding)

    def registry_row(self, recipe: Recipe) -> DataRow | None:
        """The row of that name."""
        return data_registry().get(recipe.data)

    def check(self, recipe: Recipe) -> None:
        """The whole table, and the labels that the evaluation asks for."""
        super().check(recipe)
        table = read_data(recipe)
        refuse_meaningless(table)
        positive_label(recipe, sorted(set(table.labels)))

    def prepare(self, recipe: Recipe, run: Run) -> dict:
        """data/{train,val,test}.jsonl."""
        source = read_data(recipe)
        for note in source.notes:
            say(note)
        positive_label(recipe, sorted(set(source.labels)))
        tokenizer = Tokenizer.from_directory(base_weights(recipe, run).directory)
        records, card = prepare(recipe, source, tokenizer, run.result("verify")["context"],
                                         table_findings(recipe, source))
        write_records(run, records)
        write_json(run.path("data", "card.json"), card.of(DataOrigin(**run.result("download")["data"])).to_json())
        sizes = " / ".join(f"{name} {part.rows:,}" for name, part in card.splits.items())
        labels = ", ".join(f"{shorten(label)} {count:,}" for label, count in list(card.labels.items())[:6])
        tokens = card.tokens
        kept = f"split by column {recipe.columns.split!r}" if recipe.columns.split else (
            f"{card.protocol} split, seed {card.seed}")
        say(f"rows: {card.rows:,} ({labels}); {kept}: {sizes}")
        say(f"tokens a text: median {tokens.median}, 95 % within {tokens.p95}, longest {tokens.max}; "
            f"{tokens.cut_rows} cut at {tokens.max_length}")
        for part in source.left_out:
            say(f"note: {part}")
        for finding in card.checks:
            if finding.level != "note" and finding.check.replace("_", " ") not in card.dropped:
                at = f" ({', '.join(places(finding.as_dict()))})" if finding.rows else ""
                warn(f"{finding.what}{at}. {finding.do}")
        if source.left_out or any(finding.rows for finding in card.checks):
            say("rows are counted from 0, the first of their file that is no header")
        if near := card.near_duplicates.test_rows_near_train:
            warn(f"{near:,} of {card.splits['test'].rows:,} test rows are almost the same as a training row "
                 "(see: finetune data check FILE)")
        return {"rows": card.rows, "labels": sorted(card.labels), "max_length": tokens.max_length,
                "splits": {name: part.rows for name, part in card.splits.items()}}

    def foresee(self, recipe: Recipe, context: int) -> dict:
        """Labels and the sizes of the splits."""
        records, card = prepare(recipe, read_data(recipe), Tokenizer.of_bytes(), context)
        say(f"rows: {card.rows:,}; " + " / ".join(f"{name} {len(part):,}" for name, part in records.items()))
        return {"labels": sorted(card.labels), "splits": {name: len(part) for name, part in records.items()}}

    def build_model(self, recipe: Recipe, gpt: GPT, prepared: dict) -> Classifier:
        """The GPT with a fresh head."""
        return build_model(gpt, len(prepared["labels"]), recipe.train.seed)

    def build_job(self, recipe: Recipe, run: Run, built: TrainingSetup, device: torch.device) -> Job:
        """Over the rows of the training split."""
        parts = _examples(run, built.tokenizer, ("train", "val"))
        return build_job(built.model, built.trainable, built.settings, *parts.values(), device)

    @torch.inference_mode()
    def evaluate(self, recipe: Recipe, run: Run, model: Classifier, tokenizer: Tokenizer,
                 start: Start) -> ClassifierEvaluation:
        """The test rows beside the baselines; predictions.csv holds each of them."""
        labels = run.result("prepare")["labels"]
        headline = recipe.evaluate.metric
        if headline == "auto":
            headline = "f1" if len(labels) == 2 else "accuracy"
        records = {name: read_records(run, name) for name in SPLITS}
        parts = _examples(run, tokenizer, SPLITS)
        logits = {name: predict_logits(model, parts[name].ids, show=f"{name} rows")
                  for name in ("val", "test")}
        found, probabilities, predicted = score_classifier(
            labels=labels, positive=positive_label(recipe, labels), threshold_rule=recipe.evaluate.threshold,
            headline=headline, resamples=recipe.evaluate.resamples, seed=recipe.train.seed,
            texts={name: [record["text"] for record in records[name]] for name in SPLITS},
            targets={name: parts[name].targets for name in SPLITS}, logits=logits, normalise=normalise_text,
            start=start)
        _write_predictions(run, records["test"], labels, predicted, probabilities)
        return found

    def export(self, recipe: Recipe, run: Run, model: Classifier, tokenizer: Tokenizer) -> dict:
        """The bundle, compared on the test texts."""
        return write_bundle(run, recipe, model, tokenizer, self.adapter_texts(run))

    def adapter_texts(self, run: Run) -> list[str]:
        """The test texts."""
        return [record["text"] for record in read_records(run, "test")]

    def next_command(self, directory: Path) -> str:
        """A prediction."""
        return f'predict {directory} "your text"'

    def probe(self, recipe: Recipe, run: Run, built: TrainingSetup, device: torch.device) -> Probe:
        """The rows of the chosen batches alone, so that the frozen blocks run over few texts; they are timed."""
        model, settings, trainable = built.model, built.settings, built.trainable
        train, val = _examples(run, built.tokenizer, ("train", "val")).values()
        lengths, val_lengths = (part.ids.lengths() for part in (train, val))
        budget = settings.micro_batch_tokens
        chosen = choose(lengths, settings)
        rows = [row for batch in chosen for row in batch]
        largest = max(micro_batches(list(range(len(val_lengths))), val_lengths, budget),
                      key=lambda part: len(part) * val_lengths[part[-1]])
        cached = keeps_states(model, trainable, settings, train.ids + val.ids)
        begun = time.monotonic()
        parts = _take(train, rows), _take(val, largest)
        job = build_job(model, trainable, settings, *parts, device, cached)
        spent = time.monotonic() - begun
        tried = sum(batch_size(list(range(len(part.ids))), part.ids.lengths(), budget).tokens for part in parts)
        every = sum(batch_size(list(range(len(own))), own, budget).tokens for own in (lengths, val_lengths))
        numbers = np.split(np.arange(len(rows)), np.cumsum([len(batch) for batch in chosen])[:-1])
        kept = [kept_bytes(model, trainable, ids)
                for ids in (train.ids + val.ids, parts[0].ids + parts[1].ids)]
        return Probe(job, [own.tolist() for own in numbers],
                     replace(job, lengths=lengths, validation_tokens=sum(val_lengths)),
                     spent / tried * every if cached else 0.0, max(kept[0] - kept[1], 0) if cached else 0)

    def evaluation_seconds(self, recipe: Recipe, run: Run, built: TrainingSetup, device: torch.device) -> float:
        """Over validation and test rows, from some rows spread over the lengths."""
        ids = [own for part in _examples(run, built.tokenizer, ("val", "test")).values() for own in part.ids]
        ordered = sorted(ids, key=len)
        some = [ordered[len(ordered) * (2 * i + 1) // (2 * EVALUATED)] for i in range(EVALUATED)]
        model = built.model.to(device).eval()

        def padded(rows: list[list[int]]) -> int:
            return batch_size(list(range(len(rows))), [len(row) for row in rows], PREDICT_TOKENS).tokens
        return second_time(lambda: predict_logits(model, some)) / padded(some) * padded(ids)


def _examples(run: Run, tokenizer: Tokenizer, splits: tuple[str, ...]) -> dict[str, Examples]:
    prepared = run.result("prepare")
    return {name: examples(read_records(run, name), prepared["labels"], tokenizer, prepared["max_length"])
            for name in splits}


def _take(part: Examples, rows: list[int]) -> Examples:
    return Examples([part.rows[i] for i in rows], part.ids.take(rows), part.targets[rows])


def _write_predictions(run: Run, records: list[dict], labels: list[str], predicted, probabilities) -> None:
    with atomic_write(run.path("predictions.csv")) as file:
        writer = table_writer(file)
        writer.writerow(["row", "text", "label", "predicted", "probability", *(f"p_{i}" for i in range(len(labels)))])
        for record, guess, p in zip(records, predicted, probabilities, strict=True):
            writer.writerow([record["row"], defuse(record["text"]), defuse(record["label"]), defuse(labels[guess]),
                             f"{p[guess]:.6f}", *(f"{value:.6f}" for value in p)])


TASK = ClassifyTask()
