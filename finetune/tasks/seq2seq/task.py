"""The task ``seq2seq`` in a run: from pairs of source and target to a model that writes targets."""

import json
import sys
from pathlib import Path
from typing import Any, cast

import torch

from finetune.checkpoints import blenderbot
from finetune.checkpoints.scratch import VANILLA_VOCABULARY, Architecture
from finetune.console import say
from finetune.errors import RecipeError
from finetune.evaluation.compare_runs import TestedRows
from finetune.evaluation.results import Start
from finetune.evaluation.written import corpus_metrics
from finetune.export.card import Card
from finetune.export.exportable import Exportable
from finetune.export.hf import language_model_readme
from finetune.files import read_json, write_json
from finetune.models.bodies import Body
from finetune.models.encoder_decoder import EncoderDecoder
from finetune.models.gpt import GPT, GPTConfig
from finetune.models.transformer import Transformer
from finetune.recipe import Recipe, Train
from finetune.records import Downloaded, Verified
from finetune.run import Run
from finetune.tables.sources import DataSource, resolve_path
from finetune.tables.splits import SPLITS
from finetune.tasks.base import Task, TrainingSetup, read_records, write_records
from finetune.tasks.seq2seq.examples import Examples, Tokens, make_examples, writing_room
from finetune.tasks.seq2seq.export import SEQ2SEQ, SourceUse, encoder_decoder_readme
from finetune.tasks.seq2seq.job import Origin, build_job, build_model, evaluate, write
from finetune.tasks.seq2seq.model import AnyFamily, SourceThenTarget
from finetune.tasks.seq2seq.page import PAGE, targets_table, verdict
from finetune.tasks.seq2seq.pairs import FEWEST, Pairs, TextPair, locate_pairs, read_column, read_pairs
from finetune.tasks.seq2seq.prepare import divide_pairs, prepare
from finetune.tasks.seq2seq.score import TargetsEvaluation, target_scores
from finetune.tasks.setup import base_weights, load_base
from finetune.tasks.writing import (
    TRIED,
    WrittenPrepared,
    load_tokens,
    probe_training,
    refuse_balanced,
    save_tokens,
    tested_texts,
    write_rows,
    writing_seconds,
)
from finetune.tokenizer import Tokenizer, train_vocabulary
from finetune.training.job import Job
from finetune.training.precision import device_type
from finetune.training.trainable import Trainable
from finetune.training.trial import Probe


class Seq2SeqTask(Task[WrittenPrepared, Origin, AnyFamily, TargetsEvaluation]):
    """Write the target of a source."""

    prepared = WrittenPrepared
    evaluation_files = ("targets.csv", "attention.json")
    bodies = (GPT, Transformer, EncoderDecoder)
    page = PAGE
    verdict = staticmethod(verdict)
    summary = staticmethod(targets_table)

    def resolve(self, recipe: Recipe, fetch: bool) -> Recipe:
        """With absolute paths."""
        names = {key: resolve_path(name) for key in ("data", "validation", "test") if (name := getattr(recipe, key))}
        return recipe.model_copy(update=names)

    def locate(self, recipe: Recipe) -> DataSource:
        """A table of pairs."""
        return locate_pairs(recipe.data, recipe.encoding)

    def files(self, recipe: Recipe) -> dict[str, Path]:
        """The table, and separate tables for validation and test."""
        further = {
            f"the {key} file": locate_pairs(name, recipe.encoding).path
            for key in ("validation", "test")
            if (name := getattr(recipe, key))
        }
        return super().files(recipe) | further

    def check_settings(self, recipe: Recipe) -> None:
        """Pairs have no labels, and a seq2seq model has no classification head."""
        super().check_settings(recipe)
        refuse_balanced(recipe)
        if recipe.train.method == "head":
            raise RecipeError(
                "method head has nothing to train here",
                known="full, last-blocks, lora",
                do="A seq2seq model has no classification head.",
            )
        settings = recipe.seq2seq
        if settings.beams == 1 and settings.length_penalty != 1:
            raise RecipeError(
                "only beam search uses seq2seq.length_penalty",
                got="seq2seq.beams=1",
                do="Leave it out, or give --set seq2seq.beams=4.",
            )
        if settings.family == "decoder" and not settings.zero_init_cross_attention:
            raise RecipeError(
                "a decoder has no cross-attention",
                got="seq2seq.zero_init_cross_attention=false",
                do="Leave it out, or give --set seq2seq.family=encoder-decoder.",
            )

    def check_start(self, recipe: Recipe, body: type[Body], config: GPTConfig) -> None:
        """Also check that the weights fit the family; both can start from a GPT-2."""
        super().check_start(recipe, body, config)
        own: dict[type[Body], str] = {Transformer: "decoder", EncoderDecoder: "encoder-decoder"}
        family = own.get(body, recipe.seq2seq.family)
        if family != recipe.seq2seq.family:
            raise RecipeError(
                f"the family {recipe.seq2seq.family} cannot start from {body.kind}'s weights",
                got=f"seq2seq.family={recipe.seq2seq.family}",
                do=f"Give --set seq2seq.family={family}, or other weights.",
            )

    def architecture(self, recipe: Recipe) -> Architecture:
        """The family's."""
        return "decoder" if recipe.seq2seq.family == "decoder" else "encoder-decoder"

    def new_tokenizer(self, recipe: Recipe) -> Tokenizer:
        """The vanilla preset learns its vocabulary from the training pairs, if it is given none."""
        if recipe.shape.preset != "vanilla" or recipe.shape.tokenizer:
            return super().new_tokenizer(recipe)
        records, _ = divide_pairs(recipe, *self._read(recipe), Tokenizer.of_bytes(), sys.maxsize)
        texts = [text for pair in records["train"] for text in (pair.source, pair.target)]
        tokenizer = train_vocabulary(texts, VANILLA_VOCABULARY)
        unused = VANILLA_VOCABULARY - tokenizer.vocab_size
        say(f"vocabulary: {tokenizer.vocab_size:,} tokens learned from the training pairs; {unused:,} more are unused")
        return tokenizer.with_tokens(*(f"<|unused_{number}|>" for number in range(unused)))

    def check_data(self, recipe: Recipe) -> None:
        """Check every pair."""
        self._read(recipe)
        self._column(recipe)

    def _column(self, recipe: Recipe) -> dict[int, str] | None:
        """Row number -> value, in the test rows' table, of the column whose values are slices, if the recipe names one."""
        name = recipe.evaluate.slice_by
        return read_column(locate_pairs(recipe.test or recipe.data, recipe.encoding), name) if name else None

    def _read(self, recipe: Recipe) -> tuple[Pairs, dict[str, Pairs]]:
        """The pairs, and those of separate files for validation and test."""
        found, given = self._table(recipe, recipe.data), {}
        for side, name in (("val", recipe.validation), ("test", recipe.test)):
            if name:
                given[side] = self._table(recipe, name, found.columns, fewest=1)
        return found, given

    def _table(
        self, recipe: Recipe, name: str, columns: tuple[str | None, str | None] | None = None, fewest: int = FEWEST
    ) -> Pairs:
        data = locate_pairs(name, recipe.encoding)
        source, target = columns or (recipe.seq2seq.source, recipe.seq2seq.target)
        found = read_pairs(data.path, source, target, data.layout, fewest)
        found.notes[:0] = data.detected.notes
        return found

    def prepare(self, recipe: Recipe, run: Run) -> WrittenPrepared:
        """Write data/{train,val,test}.jsonl and their tokens."""
        source, given = self._read(recipe)
        for note in source.notes:
            say(note)
        tokenizer = Tokenizer.from_directory(base_weights(recipe, run).directory)
        origin = run.result("download", Downloaded).data
        context = run.result("verify", Verified).context
        records, found, card = prepare(recipe, source, given, tokenizer, context, origin)
        write_records(run, records)
        save_tokens(run, found)
        write_json(run.path("data", "card.json"), card.to_json())
        sizes = " / ".join(f"{name} {part.records:,}" for name, part in card.splits.items())
        say(f"pairs: {card.records:,}; {card.protocol} split: {sizes}; family {card.family}")
        say(
            "tokens: "
            + "; ".join(
                f"{side}s have a median of {own.median} and a maximum of {own.max}"
                for side, own in (("source", card.tokens.source), ("target", card.tokens.target))
            )
        )
        for note in card.notes:
            say(f"note: {note}")
        return WrittenPrepared(
            {name: part.used for name, part in card.splits.items()},
            card.records,
            card.tokens.max_length,
            tokenizer.end_of_text,
        )

    def preview(self, recipe: Recipe, context: int) -> WrittenPrepared:
        """The sizes of the splits."""
        source, given = self._read(recipe)  # no maximum length: these tokens are bytes
        records, _ = divide_pairs(recipe, source, given, Tokenizer.of_bytes(), sys.maxsize)
        say(
            f"pairs: {sum(map(len, records.values())):,}; "
            + " / ".join(f"{name} {len(part):,}" for name, part in records.items())
        )
        return WrittenPrepared(
            {name: len(part) for name, part in records.items()}, sum(map(len, records.values())), context, 0
        )

    def build_model(self, recipe: Recipe, gpt: Origin, prepared: WrittenPrepared) -> AnyFamily:
        """The family's model; both sides of an encoder-decoder start from a GPT's weights, or from their own."""
        model, started = build_model(gpt, recipe, prepared.end)
        if started:
            copied = sum(map(len, started.copied.values()))
            say(
                f"  encoder-decoder: {copied} tensors copied from the {len(started.copied)} of the GPT; "
                f"{len(started.fresh)} new ones, all in the cross-attention"
            )
        return model

    def configure_trainable(self, model: AnyFamily, gpt: Origin, settings: Train) -> Trainable:
        """Select the trained weights, on both sides of an encoder-decoder; the cross-attention is always trained."""
        return super().configure_trainable(model, model.body, settings)

    def build_job(self, recipe: Recipe, run: Run, setup: TrainingSetup[AnyFamily], device: torch.device) -> Job[Any]:
        """The job over the training split's pairs."""
        train, val = _examples(recipe, run, "train", "val")
        return build_job(setup.model, setup.settings, train, val, device)

    def evaluate(
        self, recipe: Recipe, run: Run, model: AnyFamily, tokenizer: Tokenizer, start: Start
    ) -> TargetsEvaluation:
        """Evaluate targets before and after training. Write targets.csv for all test pairs, attention.json for a few."""
        device, prepared = torch.device(device_type()), run.result("prepare", WrittenPrepared)
        before, warm_start = build_model(cast(Origin, load_base(recipe, run).body), recipe, prepared.end)
        test, val = _examples(recipe, run, "test", "val")
        evaluation, rows, maps = evaluate(
            before.to(device),
            model,
            tokenizer,
            {name: read_records(run, name, TextPair) for name in SPLITS},
            {"test": test, "val": val},
            recipe,
            run.result("verify", Verified).context,
            warm_start,
            start,
            device,
            self._column(recipe),
        )
        write_rows(run.path("targets.csv"), rows)
        write_json(run.path("attention.json"), [own.to_json() for own in maps])
        return evaluation

    def exportable(self, recipe: Recipe, run: Run, model: AnyFamily, tokenizer: Tokenizer) -> Exportable:
        """A language model or an encoder-decoder; seq2seq.json describes how to generate targets."""
        measured, settings = run.path("eval.json"), recipe.seq2seq
        evaluation = TargetsEvaluation.from_json(read_json(measured), measured)
        said = self.verdict(evaluation)
        use = SourceUse(
            settings.family,
            run.result("prepare", WrittenPrepared).max_length,
            settings.max_new_tokens,
            settings.beams,
            settings.length_penalty,
        )
        files = {SEQ2SEQ: json.dumps(use.to_json(), indent=2) + "\n"}
        about = Card("text2text-generation", evaluation.weights, evaluation.headline, "", evaluation.metrics)
        writing = {"do_sample": False, "max_new_tokens": settings.max_new_tokens}
        if settings.beams > 1:
            writing |= {"num_beams": settings.beams, "length_penalty": settings.length_penalty}
        if isinstance(model, SourceThenTarget):
            readme = language_model_readme(
                run.name,
                evaluation.weights.name,
                [said],
                [
                    '    finetune generate DIRECTORY "a source"',
                    "",
                    "In other programs: feed the source's tokens and `<|endoftext|>`, then generate up to `<|endoftext|>`.",
                ],
            )
            return Exportable(run.name, model.body, tokenizer, readme, files=files, card=about, generation=writing)
        readme = encoder_decoder_readme(run.name, said, blenderbot.fits(model.body.config))
        room = writing_room(use.family, use.max_length, model.body.config.context, use.max_new_tokens)
        return Exportable(
            run.name,
            model.body,
            tokenizer,
            readme,
            files=files,
            card=about,
            tokenizer_settings={"model_max_length": room},
            generation=writing,
        )

    def tested_rows(self, run: Run) -> TestedRows:
        """The generated target of each test source, with its score by the headline's metric."""
        path = run.path("eval.json")
        metric = TargetsEvaluation.from_json(read_json(path), path).headline.metric
        return tested_texts(
            run.path("targets.csv"),
            ("row", "source", "reference"),
            "output",
            metric,
            lambda texts, references: target_scores(texts, references, corpus_metrics(references.texts)),
        )

    def next_command(self, directory: Path) -> str:
        """Generate a target."""
        return f'generate {directory} "your source"'

    def probe(self, recipe: Recipe, run: Run, setup: TrainingSetup, device: torch.device) -> Probe:
        """With a validation of one forward pass."""
        train, val = _examples(recipe, run, "train", "val")
        return probe_training(
            train, val, setup.settings, lambda own, other: build_job(setup.model, setup.settings, own, other, device)
        )

    def evaluation_seconds(self, recipe: Recipe, run: Run, setup: TrainingSetup, device: torch.device) -> float:
        """Estimated seconds to generate the test targets before and after training."""
        settings, model = recipe.seq2seq, setup.model.to(device).eval()
        [test] = _examples(recipe, run, "test")
        sources = test.sources(
            writing_room(
                settings.family, test.max_length, run.result("verify", Verified).context, settings.max_new_tokens
            )
        )
        return writing_seconds(
            [len(ids) + 1 for ids in sources],
            settings.max_new_tokens,
            lambda rows: write(model, [sources[row] for row in rows], setup.tokenizer, settings, TRIED, device),
            settings.beams,
        )


def _examples(recipe: Recipe, run: Run, *splits: str) -> list[Examples]:
    """The examples of a run's splits, with the tokens that ``prepare`` wrote."""
    max_length = run.result("prepare", WrittenPrepared).max_length
    return [
        make_examples(
            read_records(run, name, TextPair), load_tokens(run, name, Tokens), max_length, recipe.seq2seq.family
        )
        for name in splits
    ]


TASK = Seq2SeqTask()
