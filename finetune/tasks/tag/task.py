"""The task ``tag`` in a run: sentences of words and tags in, a tagger's bundle out."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch

from finetune.console import say
from finetune.errors import RecipeError
from finetune.evaluation.leakage import clean_rows
from finetune.evaluation.results import Start
from finetune.export.exportable import Exportable
from finetune.files import write_json
from finetune.models.encoder import Encoder
from finetune.models.gpt import GPT
from finetune.models.heads import Reader
from finetune.models.transformer import Transformer
from finetune.recipe import Recipe
from finetune.records import Downloaded, Verified
from finetune.run import Run
from finetune.tables.sources import DataSource, resolve_path
from finetune.tables.splits import SPLITS, fold_text
from finetune.tasks.base import Prepared, Task, TrainingSetup, read_records, write_records
from finetune.tasks.setup import base_weights
from finetune.tasks.tag.baselines import logistic, most_frequent
from finetune.tasks.tag.data import Tokens, divide_sentences, prepare, tags_in
from finetune.tasks.tag.export import exportable_run
from finetune.tasks.tag.job import Examples, build_job, predict_tags, word_loss
from finetune.tasks.tag.model import Tagger
from finetune.tasks.tag.page import PAGE, summary
from finetune.tasks.tag.score import METRICS, TagEvaluation, decode, score_tagger, verdict
from finetune.tasks.tag.sentences import Sentence, Sentences, locate_sentences, read_sentences
from finetune.tasks.writing import load_tokens, refuse_balanced, write_rows
from finetune.tokenizer import Tokenizer
from finetune.training.job import Job


@dataclass(frozen=True)
class TagPrepared(Prepared):
    """The result of ``prepare``."""

    tags: list[str]  # a tag's number is its position
    max_length: int  # maximum tokens of a sentence; longer ones are truncated


@dataclass(frozen=True)
class WordRow:
    """A row of tags.csv: a word of the test sentences."""

    sentence: int
    word: str
    tag: str
    predicted: str


class TagTask(Task[TagPrepared, Reader, Tagger, TagEvaluation]):
    """Every word of a sentence has a tag that says whether it is part of a name, and of which kind."""

    exported = "bundle"
    metrics = ("f1_macro", "accuracy", "log_loss")
    prepared = TagPrepared
    bodies = (GPT, Transformer, Encoder)
    evaluation_files = ("tags.csv",)
    verdict = staticmethod(verdict)
    summary = staticmethod(summary)
    page = PAGE

    def resolve(self, recipe: Recipe, fetch: bool) -> Recipe:
        """With absolute paths."""
        names = {key: resolve_path(name) for key in ("data", "validation", "test") if (name := getattr(recipe, key))}
        return recipe.model_copy(update=names)

    def locate(self, recipe: Recipe) -> DataSource:
        """Sentences with tags."""
        return locate_sentences(recipe.data, recipe.encoding)

    def files(self, recipe: Recipe) -> dict[str, Path]:
        """The sentences, and those of validation and test."""
        return super().files(recipe) | {
            f"the {key} file": locate_sentences(name, recipe.encoding).path
            for key in ("validation", "test")
            if (name := getattr(recipe, key))
        }

    def check_settings(self, recipe: Recipe) -> None:
        """Also check that the headline is a metric of names or words."""
        super().check_settings(recipe)
        refuse_balanced(recipe)
        if recipe.evaluate.metric not in (None, "auto", *METRICS):
            raise RecipeError(
                f"evaluate.metric={recipe.evaluate.metric} is not a metric of this task",
                known=f"auto, {', '.join(METRICS)}",
            )

    def check_data(self, recipe: Recipe) -> None:
        """Check every sentence."""
        divide_sentences(recipe, *_read(recipe))

    def prepare(self, recipe: Recipe, run: Run) -> TagPrepared:
        """Write data/{train,val,test}.jsonl and their tokens."""
        source, given = _read(recipe)
        tokenizer = Tokenizer.from_directory(base_weights(recipe, run).directory)
        origin, context = run.result("download", Downloaded).data, run.result("verify", Verified).context
        splits, tokens, card = prepare(recipe, source, given, tokenizer, context, origin)
        write_records(run, splits)
        for name, part in tokens.items():
            for field in fields(part):
                getattr(part, field.name).save(run.path("data", f"{name}.{field.name}"))
        write_json(run.path("data", "card.json"), card.to_json())
        names = ", ".join(
            f"{kind} {sum(own.names.get(kind, 0) for own in card.splits.values()):,}" for kind in card.kinds
        )
        sizes = " / ".join(f"{name} {own.sentences:,}" for name, own in card.splits.items())
        say(f"sentences: {sum(map(len, splits.values())):,}; entities: {names}; {card.protocol} split: {sizes}")
        say(
            f"tokens per sentence: median {card.tokens.median}, 95 % have at most {card.tokens.p95}, longest {card.tokens.max}; "
            f"{len(card.cut_rows)} truncated to {card.max_length}"
        )
        for note in card.notes:
            say(f"note: {note}")
        for why, count in card.dropped.items():
            say(f"note: left out {count:,} times: {why}")
        return TagPrepared({name: len(part) for name, part in splits.items()}, tags_in(splits), card.max_length)

    def preview(self, recipe: Recipe, context: int) -> TagPrepared:
        """Tags and the sizes of the splits."""
        splits = divide_sentences(recipe, *_read(recipe))
        say("sentences: " + " / ".join(f"{name} {len(part):,}" for name, part in splits.items()))
        return TagPrepared({name: len(part) for name, part in splits.items()}, tags_in(splits), context)

    def build_model(self, recipe: Recipe, gpt: Reader, prepared: TagPrepared) -> Tagger:
        """The language model or the encoder with a new head."""
        if isinstance(gpt, Transformer):
            gpt.drop_output()
        return Tagger(gpt, len(prepared.tags)).initialise_head(recipe.train.seed)

    def build_job(self, recipe: Recipe, run: Run, setup: TrainingSetup[Tagger], device: torch.device) -> Job[Tagger]:
        """The job over the training split's sentences."""
        tags = run.result("prepare", TagPrepared).tags
        train, val = _examples(run, tags, "train", "val")
        return build_job(setup.model, setup.settings, tags, train, val, device)

    @torch.inference_mode()
    def evaluate(self, recipe: Recipe, run: Run, model: Tagger, tokenizer: Tokenizer, start: Start) -> TagEvaluation:
        """Evaluate on the test sentences, with baselines; tags.csv contains a line per word."""
        tags, seed = run.result("prepare", TagPrepared).tags, recipe.train.seed
        train, val, test = _examples(run, tags, *SPLITS)
        logits = {
            name: predict_tags(model, part.tokens, show=f"{name} sentences")
            for name, part in (("val", val), ("test", test))
        }
        predicted = {name: decode(logits[name], tags, part.sentences) for name, part in (("val", val), ("test", test))}
        words = np.array([len(own) for own in test.targets])
        sides = (train.sentences, val.sentences, test.sentences)
        found = score_tagger(
            train=train.sentences,
            val=val.sentences,
            test=test.sentences,
            tags=tags,
            predicted=predicted,
            nats=(word_loss(logits["test"], test.targets), words),
            baselines=[logistic(*sides, tags, seed), most_frequent(train.sentences, test.sentences)],
            clean=clean_rows(_texts(train.sentences + val.sentences), _texts(test.sentences), fold_text),
            headline="f1" if recipe.evaluate.metric == "auto" else recipe.evaluate.metric or "accuracy",
            resamples=recipe.evaluate.resamples,
            seed=seed,
            cut_words=sum(len(own.words) for own in test.sentences) - int(words.sum()),
            start=start,
        )
        rows = [
            WordRow(own.row, *cells)
            for own, guess in zip(test.sentences, predicted["test"], strict=True)
            for cells in zip(own.words, own.tags, guess, strict=True)
        ]
        write_rows(run.path("tags.csv"), rows)
        return found

    def exportable(self, recipe: Recipe, run: Run, model: Tagger, tokenizer: Tokenizer) -> Exportable:
        """The tagger with its card, to compare on the test sentences."""
        prepared = run.result("prepare", TagPrepared)
        tokens, texts = load_tokens(run, "test", Tokens), [own.text for own in read_records(run, "test", Sentence)]
        return exportable_run(run, recipe, model, tokenizer, prepared.tags, prepared.max_length, tokens, texts)

    def next_command(self, directory: Path) -> str:
        """Find the names in a sentence."""
        return f'predict {directory} "your text"'


def _read(recipe: Recipe) -> tuple[Sentences, dict[str, Sentences]]:
    """The sentences, and those of the files for validation and test."""
    found = read_sentences(locate_sentences(recipe.data, recipe.encoding), recipe.tag, recipe.encoding)
    given = {
        side: read_sentences(locate_sentences(name, recipe.encoding), recipe.tag, recipe.encoding, fewest=1)
        for side, name in (("val", recipe.validation), ("test", recipe.test))
        if name
    }
    return found, given


def _examples(run: Run, tags: list[str], *splits: str) -> list[Examples]:
    """The sentences of a run's splits, with the tokens that ``prepare`` wrote."""
    found = []
    for name in splits:
        sentences = read_records(run, name, Sentence)
        found.append(Examples.of(sentences, load_tokens(run, name, Tokens), tags))
    return found


def _texts(sentences: Sequence[Sentence]) -> list[str]:
    return [own.text for own in sentences]


TASK = TagTask()
