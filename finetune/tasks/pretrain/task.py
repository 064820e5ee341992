"""The task ``pretrain`` in a run: plain text in, a language model out."""

from dataclasses import dataclass
from pathlib import Path

import torch

from finetune.console import say
from finetune.evaluation.results import Start
from finetune.export.card import Card
from finetune.export.exportable import Exportable
from finetune.export.hf import language_model_readme
from finetune.files import read_json, write_json
from finetune.models.gpt import GPT
from finetune.models.heads import NextToken
from finetune.recipe import Recipe
from finetune.records import Downloaded
from finetune.run import Run
from finetune.tables.sources import DataSource, resolve_path
from finetune.tasks.base import Prepared, Task, TrainingSetup
from finetune.tasks.pretrain.documents import locate_text, write_evaluation_tokens, write_tokens
from finetune.tasks.pretrain.exclusion import evaluation_files
from finetune.tasks.pretrain.job import block_nll, build_job, evaluate
from finetune.tasks.pretrain.packing import PackedTokens
from finetune.tasks.pretrain.page import PAGE, language_table, verdict
from finetune.tasks.pretrain.results import LanguageEvaluation, TextCard
from finetune.tasks.setup import base_weights, load_base
from finetune.tokenizer import Tokenizer
from finetune.training.loop import Job
from finetune.training.precision import device_type
from finetune.training.trial import Probe, choose, second_time


@dataclass(frozen=True)
class PackedPrepared(Prepared):
    """The result of ``prepare``; ``splits`` counts documents."""

    documents: dict[str, int]
    tokens: dict[str, int]
    bytes: dict[str, int]

    def training_rows(self, context: int) -> int:
        """Blocks that fill the model's context."""
        return self.tokens["train"] // context


class PretrainTask(Task[PackedPrepared, GPT, NextToken, LanguageEvaluation]):
    """Predict the next token."""

    prepared = PackedPrepared
    verdict = staticmethod(verdict)
    summary = staticmethod(language_table)
    page = PAGE

    def resolve(self, recipe: Recipe, fetch: bool) -> Recipe:
        """With the absolute paths of the text, the evaluation text and the evaluation sets."""
        found, own = super().resolve(recipe, fetch), recipe.pretrain
        whole = {
            "exclude": tuple(map(resolve_path, own.exclude)),
            "eval_data": resolve_path(own.eval_data) if own.eval_data else "",
        }
        return found.model_copy(update={"pretrain": own.model_copy(update=whole)})

    def locate(self, recipe: Recipe) -> DataSource:
        """Plain text."""
        return locate_text(recipe.data)

    def files(self, recipe: Recipe) -> dict[str, Path]:
        """The text, the evaluation text, and the evaluation sets to exclude."""
        further = recipe.pretrain.eval_data
        found = super().files(recipe) | ({"the evaluation text": locate_text(further).path} if further else {})
        return found | {str(file): file for file in evaluation_files(recipe.pretrain.exclude)}

    def prepare(self, recipe: Recipe, run: Run) -> PackedPrepared:
        """Write data/train.bin and data/val.bin, token ids that training memory-maps."""
        data = locate_text(recipe.data)
        tokenizer = Tokenizer.from_directory(base_weights(recipe, run).directory)
        run.path("data").mkdir(exist_ok=True)
        found = write_tokens(data.path, run.path("data"), tokenizer, recipe.pretrain, recipe.split.seed)
        evaluated = None
        if recipe.pretrain.eval_data:
            evaluated = write_evaluation_tokens(
                locate_text(recipe.pretrain.eval_data).path, run.path("data"), tokenizer
            )
        card = found.of(run.result("download", Downloaded).data, evaluated)
        write_json(run.path("data", "card.json"), card.to_json())
        say(
            f"text: {card.documents['train']:,} training documents ({card.tokens['train']:,} tokens), "
            f"{card.documents['val']:,} held out ({card.tokens['val']:,} tokens); "
            f"{card.bytes['train'] / card.tokens['train']:.2f} bytes per token"
        )
        if card.excluded:
            say(
                f"  {card.excluded.documents:,} documents left out that contain one of the {card.excluded.rows:,} rows of "
                "evaluation sets"
            )
        return PackedPrepared(card.documents, card.documents, card.tokens, card.bytes)

    def preview(self, recipe: Recipe, context: int) -> None:
        """None: the number of tokens depends on the tokenizer."""

    def build_model(self, recipe: Recipe, gpt: GPT, prepared: PackedPrepared) -> NextToken:
        """The GPT itself, whose only head is its tied embedding."""
        return NextToken(gpt)

    def build_job(
        self, recipe: Recipe, run: Run, setup: TrainingSetup[NextToken], device: torch.device
    ) -> Job[NextToken]:
        """Over the blocks of the packed tokens."""
        prepared = run.result("prepare", PackedPrepared)
        train_tokens, val_tokens = (
            packed_tokens(recipe, run, setup.model.gpt, setup.tokenizer, name) for name in ("train", "val")
        )
        return build_job(
            setup.model,
            setup.settings,
            train_tokens,
            val_tokens,
            prepared.bytes["val"] / prepared.tokens["val"],
            recipe.pretrain.val_blocks,
            device,
        )

    def evaluate(
        self, recipe: Recipe, run: Run, model: NextToken, tokenizer: Tokenizer, start: Start
    ) -> LanguageEvaluation:
        """Evaluate before and after training on the held-out text and the evaluation text."""
        path = run.path("data", "card.json")
        card = TextCard.from_json(read_json(path), path)
        parts: dict[str, dict[str, PackedTokens]] = {"val": {}}
        offset = 0
        for name, counts in card.sources.items():
            if size := counts.val.tokens:
                parts["val"][name] = packed_tokens(recipe, run, model.gpt, tokenizer, "val", offset, offset + size)
                offset += size
        if card.eval:
            parts["eval"] = {card.eval.name: packed_tokens(recipe, run, model.gpt, tokenizer, "eval")}
        device = torch.device(device_type())
        before = NextToken(load_base(recipe, run).gpt).to(device)
        return evaluate(before, model, tokenizer, parts, recipe.evaluate.resamples, device, start)

    def exportable(self, recipe: Recipe, run: Run, model: NextToken, tokenizer: Tokenizer) -> Exportable:
        """A language model."""
        path = run.path("eval.json")
        evaluation = LanguageEvaluation.from_json(read_json(path), path)
        headline = evaluation.headline
        readme = language_model_readme(
            run.name,
            evaluation.weights.name,
            [
                f"{headline.value:.4f} bits per byte on held-out text (95 % interval {headline.low:.4f} to "
                f"{headline.high:.4f})"
            ],
            ['    finetune generate DIRECTORY "A beginning"', "    finetune classify my.csv --weights DIRECTORY"],
        )
        return Exportable(
            run.name,
            model.gpt,
            tokenizer,
            readme,
            card=Card("text-generation", evaluation.weights, headline),
            generation={"do_sample": True, "temperature": 0.8, "top_k": 50, "max_new_tokens": 60},
        )

    def next_command(self, directory: Path) -> str:
        """Classify with the pretrained weights."""
        return f"classify my.csv --weights {directory}"

    def probe(self, recipe: Recipe, run: Run, setup: TrainingSetup, device: torch.device) -> Probe:
        """With a validation of one forward pass."""
        whole = self.build_job(recipe, run, setup, device)
        together = max(setup.settings.micro_batch_tokens // max(whole.lengths), 1)
        shorter = recipe.pretrain.model_copy(update={"val_blocks": together})
        job = self.build_job(recipe.model_copy(update={"pretrain": shorter}), run, setup, device)
        return Probe(job, choose(whole.lengths, setup.settings), whole)

    def evaluation_seconds(self, recipe: Recipe, run: Run, setup: TrainingSetup, device: torch.device) -> float:
        """For the held-out blocks, one at a time, before and after training."""
        tokens = packed_tokens(recipe, run, setup.model.gpt, setup.tokenizer, "val")
        model = setup.model.to(device).eval()
        took = second_time(lambda: block_nll(model, tokens, [0], 1, device))
        return 2 * took * len(tokens.ids) / tokens.length(0)


def packed_tokens(
    recipe: Recipe, run: Run, gpt: GPT, tokenizer: Tokenizer, split: str, start: int = 0, stop: int | None = None
) -> PackedTokens:
    """A token file, or a part of it, in blocks of the recipe's max_length, at most the model's context."""
    context = min(recipe.max_length or gpt.config.context, gpt.config.context)
    return PackedTokens(
        run.path("data", f"{split}.bin"),
        context,
        tokenizer.vocab_size,
        tokenizer.end_of_text,
        recipe.pretrain.across_documents,
        start,
        stop,
    )


TASK = PretrainTask()
