"""The task ``seq2seq`` in a run: pairs of source and target in, a model that writes targets out."""

import json
import sys
from pathlib import Path

import torch

from finetune.console import say
from finetune.errors import RecipeError
from finetune.evaluation.results import Start
from finetune.export.hf import write_language_model
from finetune.files import read_json, write_json
from finetune.models.encoder_decoder import EncoderDecoder
from finetune.models.gpt import GPT
from finetune.recipe import Recipe, Train
from finetune.records import DataOrigin
from finetune.run import Run
from finetune.tables.sources import DataSource, resolve_path
from finetune.tables.splits import SPLITS
from finetune.tasks.base import OF_TABLES, Task, TrainingSetup, read_records, write_records
from finetune.tasks.seq2seq.export import write_seq2seq
from finetune.tasks.seq2seq.job import Examples, build_job, build_model, evaluate, examples, write, writing_room
from finetune.tasks.seq2seq.model import Family, SourceThenTarget
from finetune.tasks.seq2seq.page import PAGE, targets_table, verdict
from finetune.tasks.seq2seq.pairs import FEWEST, Pairs, locate_pairs, read_pairs
from finetune.tasks.seq2seq.prepare import divide_pairs, prepare
from finetune.tasks.seq2seq.score import TargetsEvaluation
from finetune.tasks.setup import base_weights
from finetune.tasks.writing import TRIED, probe_training, write_rows, writing_seconds
from finetune.tokenizer import Tokenizer
from finetune.training.loop import Job
from finetune.training.precision import device_type
from finetune.training.trainable import Trainable, adapt, freeze
from finetune.training.trial import Probe


class Seq2SeqTask(Task):
    """Write the target of a source."""

    unread = (*(key for key in OF_TABLES if key not in ("encoding", "validation", "test")), "pretrain", "instruct")
    page = PAGE
    verdict = staticmethod(verdict)
    summary = staticmethod(targets_table)

    def resolve_data(self, name: str, fetch: bool) -> str:
        """The bundled sample, or a file's whole path."""
        return resolve_path(name)

    def locate(self, recipe: Recipe) -> DataSource:
        """A table of pairs."""
        return locate_pairs(recipe.data, recipe.encoding)

    def check(self, recipe: Recipe) -> None:
        """Every pair."""
        super().check(recipe)
        if recipe.split.protocol == "balanced":
            raise RecipeError("split.protocol=balanced needs labels", known="grouped, ordered")
        if recipe.train.method == "head":
            raise RecipeError("method head trains nothing here", known="full, last-blocks, lora",
                              do="A model that writes has no head of its own.")
        self._read(recipe)

    def _read(self, recipe: Recipe) -> tuple[Pairs, dict[str, Pairs]]:
        """The pairs, and those of the files for validation and test."""
        found, given = self._table(recipe, recipe.data), {}
        for side, name in (("val", recipe.validation), ("test", recipe.test)):
            if name:
                given[side] = self._table(recipe, name, found.columns, fewest=1)
        return found, given

    def _table(self, recipe: Recipe, name: str, columns: tuple[str | None, str | None] | None = None,
               fewest: int = FEWEST) -> Pairs:
        data = locate_pairs(name, recipe.encoding)
        source, target = columns or (recipe.seq2seq.source, recipe.seq2seq.target)
        found = read_pairs(data.path, source, target, data.layout, fewest)
        found.notes[:0] = data.detected.notes
        return found

    def prepare(self, recipe: Recipe, run: Run) -> dict:
        """data/{train,val,test}.jsonl."""
        source, given = self._read(recipe)
        for note in source.notes:
            say(note)
        tokenizer = Tokenizer.from_directory(base_weights(recipe, run).directory)
        origin = DataOrigin(**run.result("download")["data"])
        records, card = prepare(recipe, source, given, tokenizer, run.result("verify")["context"], origin)
        write_records(run, records)
        write_json(run.path("data", "card.json"), card.to_json())
        sizes = " / ".join(f"{name} {part.records:,}" for name, part in card.splits.items())
        say(f"pairs: {card.records:,}; {card.protocol} split: {sizes}; family {card.family}")
        say("tokens: " + "; ".join(f"a {side} has {own.median} in the median, {own.max} at most"
                                   for side, own in (("source", card.tokens.source), ("target", card.tokens.target))))
        for note in card.notes:
            say(f"note: {note}")
        return {"records": card.records, "max_length": card.tokens.max_length, "end": tokenizer.end_of_text,
                "splits": {name: part.used for name, part in card.splits.items()}}

    def foresee(self, recipe: Recipe, context: int) -> dict:
        """The sizes of the splits."""
        source, given = self._read(recipe)  # of any length: bytes are more than the weights' own tokens
        records, _ = divide_pairs(recipe, source, given, Tokenizer.of_bytes(), sys.maxsize)
        say(f"pairs: {sum(map(len, records.values())):,}; " + " / ".join(f"{name} {len(part):,}"
                                                                         for name, part in records.items()))
        return {"splits": {name: len(part) for name, part in records.items()}, "end": 0}

    def build_model(self, recipe: Recipe, gpt: GPT | EncoderDecoder, prepared: dict) -> Family:
        """The family's model; an encoder-decoder begins with the GPT's weights on both sides."""
        model, started = build_model(gpt, recipe, prepared["end"])
        if started:
            copied = sum(map(len, started.copied.values()))
            say(f"  encoder-decoder: all {len(started.copied)} tensors of the GPT used, in {copied} places; "
                f"{len(started.fresh)} fresh ones, all of the cross-attention")
        return model

    def set_free(self, model: Family, gpt: GPT | EncoderDecoder, settings: Train) -> Trainable:
        """What the method moves, on both sides of an encoder-decoder; the cross-attention always moves."""
        body = model.gpt if isinstance(model, SourceThenTarget) else model.model
        adapt(body, settings)
        return freeze(model, body, settings.method, settings.last_blocks)

    def build_job(self, recipe: Recipe, run: Run, built: TrainingSetup, device: torch.device) -> Job:
        """Over the pairs of the training split."""
        return build_job(built.model, built.settings, *_examples(recipe, run, built.tokenizer), device)

    def evaluate(self, recipe: Recipe, run: Run, model: Family, tokenizer: Tokenizer,
                 start: Start) -> TargetsEvaluation:
        """Targets before and after; targets.csv holds all of the test's, attention.json where a few look."""
        base, device = base_weights(recipe, run).load().model, torch.device(device_type())
        prepared = run.result("prepare")
        before, warm_start = build_model(getattr(base, "gpt", base), recipe, prepared["end"])
        evaluation, rows, maps = evaluate(
            before.to(device), model, tokenizer, {name: read_records(run, name) for name in SPLITS}, recipe,
            prepared["max_length"], run.result("verify")["context"], warm_start, start, device)
        write_rows(run.path("targets.csv"), rows)
        write_json(run.path("attention.json"), [own.to_json() for own in maps])
        return evaluation

    def export(self, recipe: Recipe, run: Run, model: Family, tokenizer: Tokenizer) -> dict:
        """A language model's directory, or an encoder-decoder's; seq2seq.json says how a source is read."""
        measured, settings = run.path("eval.json"), recipe.seq2seq
        said = self.verdict(TargetsEvaluation.from_json(read_json(measured), measured))
        use = {"family": settings.family, "max_length": run.result("prepare")["max_length"],
               "max_new_tokens": settings.max_new_tokens, "beams": settings.beams,
               "length_penalty": settings.length_penalty}
        files = {"seq2seq.json": json.dumps(use, indent=2) + "\n"}
        if isinstance(model, SourceThenTarget):
            return write_language_model(run, model.gpt, tokenizer, [said], [
                "    finetune generate DIRECTORY \"a source\"", "",
                "In other programs: the source's tokens, `<|endoftext|>`, then let it write up to `<|endoftext|>`."],
                files)
        return write_seq2seq(run, model.model, tokenizer, said, files)

    def next_command(self, directory: Path) -> str:
        """A target."""
        return f'generate {directory} "your source"'

    def probe(self, recipe: Recipe, run: Run, built: TrainingSetup, device: torch.device) -> Probe:
        """With a validation of one forward pass."""
        train, val = _examples(recipe, run, built.tokenizer)
        return probe_training(train, val, built.settings,
                              lambda own, other: build_job(built.model, built.settings, own, other, device))

    def evaluation_seconds(self, recipe: Recipe, run: Run, built: TrainingSetup, device: torch.device) -> float:
        """Of writing the test's targets before and after training."""
        settings, model = recipe.seq2seq, built.model.to(device).eval()
        room = writing_room(settings.family, run.result("prepare")["max_length"], run.result("verify")["context"],
                            settings.max_new_tokens)
        sources = [built.tokenizer.encode(record["source"])[:room] for record in read_records(run, "test")]
        return writing_seconds([len(ids) + 1 for ids in sources], settings.max_new_tokens, lambda rows: write(
            model, [sources[row] for row in rows], built.tokenizer, settings, TRIED, device), settings.beams)


def _examples(recipe: Recipe, run: Run, tokenizer: Tokenizer) -> list[Examples]:
    """Those to train on and those to validate with."""
    return [examples(read_records(run, name), tokenizer, recipe.seq2seq.family, run.result("prepare")["max_length"])
            for name in ("train", "val")]


TASK = Seq2SeqTask()
