"""The task ``pretrain`` in a run: plain text in, a language model out."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch

from finetune.checkpoints.scratch import Architecture
from finetune.config import value_of
from finetune.console import say
from finetune.errors import RecipeError, counted
from finetune.evaluation.results import Start
from finetune.export.card import Card
from finetune.export.exportable import Exportable
from finetune.export.hf import language_model_readme
from finetune.files import read_json, remove, write_json
from finetune.hub.streams import TextStream
from finetune.models.bodies import Body
from finetune.models.encoder import Encoder
from finetune.models.gpt import GPT, GPTConfig
from finetune.models.heads import LossModule
from finetune.models.transformer import LanguageModel, Transformer
from finetune.models.warm_start import warm_encoder
from finetune.recipe import Recipe, Train
from finetune.records import Downloaded
from finetune.run import Run
from finetune.tables.sources import DataSource, resolve_path
from finetune.tasks.base import Prepared, Task, TrainingSetup
from finetune.tasks.pretrain import masked
from finetune.tasks.pretrain.documents import locate_text, text_files, write_evaluation_tokens, write_tokens
from finetune.tasks.pretrain.exclusion import evaluation_files
from finetune.tasks.pretrain.job import block_nll, build_job, evaluate
from finetune.tasks.pretrain.masking import choose_masking
from finetune.tasks.pretrain.packing import PackedTokens, TokenBlocks
from finetune.tasks.pretrain.page import PAGE, language_table, verdict
from finetune.tasks.pretrain.results import LanguageEvaluation, TextCard
from finetune.tasks.pretrain.settings import STREAM
from finetune.tasks.pretrain.sharding import PROGRESS, check_room, write_stream
from finetune.tasks.pretrain.streaming import INDEX, SHARDS, ShardFolder, StreamedTokens, read_index
from finetune.tasks.setup import base_weights, load_base
from finetune.tokenizer import MASK, Tokenizer
from finetune.training.job import Job
from finetune.training.precision import device_type
from finetune.training.trainable import Trainable
from finetune.training.trial import Probe, choose, second_time

Learner = LanguageModel | Encoder  # the models that it trains


@dataclass(frozen=True)
class PackedPrepared(Prepared):
    """The result of ``prepare``; ``splits`` counts documents."""

    documents: dict[str, int]
    tokens: dict[str, int]
    bytes: dict[str, int]
    vocab_size: int | None = None  # for an encoder, including the mask

    def training_rows(self, context: int) -> int:
        """Number of blocks that fill the model's context."""
        return self.tokens["train"] // context


class PretrainTask(Task[PackedPrepared, Learner, LossModule[Learner], LanguageEvaluation]):
    """Predict the next token, or the hidden ones."""

    prepared = PackedPrepared
    bodies = (GPT, Transformer, Encoder)
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
        return locate_text(recipe.data, recipe.pretrain.stream)

    def check_settings(self, recipe: Recipe) -> None:
        """Also refuse settings of a stream if there is none, and a disk without room for a shard."""
        super().check_settings(recipe)
        own, changed = recipe.pretrain, [name for name in STREAM if value_of(recipe, name) != value_of(Recipe(), name)]
        if changed and not own.stream:
            raise RecipeError(
                f"{changed[0]} is used only with pretrain.stream",
                got=str(value_of(recipe, changed[0])),
                do="Leave it out, or give --set pretrain.stream=true.",
            )
        if own.stream:
            check_room(own)

    def check_data(self, recipe: Recipe) -> None:
        """Check that a stream has a text."""
        if recipe.pretrain.stream:
            for file in text_files(self.locate(recipe).path, stream=True):
                next(TextStream(file).texts(), None)

    def files(self, recipe: Recipe) -> dict[str, Path]:
        """The text, the evaluation text, and the evaluation sets to exclude."""
        further = recipe.pretrain.eval_data
        found = super().files(recipe) | ({"the evaluation text": locate_text(further).path} if further else {})
        return found | {str(file): file for file in evaluation_files(recipe.pretrain.exclude)}

    def prepare(self, recipe: Recipe, run: Run) -> PackedPrepared:
        """Write data/train.bin and data/val.bin, token ids that training memory-maps."""
        data = self.locate(recipe).path
        own = Tokenizer.from_directory(base_weights(recipe, run).directory)
        tokenizer = self.tokenizer(recipe, own)
        if tokenizer.vocab_size > own.vocab_size:
            say(choose_masking(own, recipe.train.seed)[2])
        run.path("data").mkdir(exist_ok=True)
        if recipe.pretrain.stream:
            found = write_stream(
                text_files(data, stream=True),
                run.path("data"),
                shard_folder(recipe, run),
                tokenizer,
                recipe.pretrain,
                recipe.split.seed,
                run.record("download").external,
            )
        else:
            found = write_tokens(data, run.path("data"), tokenizer, recipe.pretrain, recipe.split.seed)
        evaluated = None
        if recipe.pretrain.eval_data:
            evaluated = write_evaluation_tokens(
                locate_text(recipe.pretrain.eval_data).path, run.path("data"), tokenizer
            )
        card = found.of(run.result("download", Downloaded).data, evaluated)
        write_json(run.path("data", "card.json"), card.to_json())
        remove(run.path("data", PROGRESS))
        say(
            f"text: {card.documents['train']:,} training documents ({card.tokens['train']:,} tokens), "
            f"{card.documents['val']:,} held out ({card.tokens['val']:,} tokens); "
            f"{card.bytes['train'] / card.tokens['train']:.2f} bytes per token"
        )
        if card.excluded:
            say(
                f"  {counted(card.excluded.documents, 'document')} left out for containing a row of the evaluation sets "
                f"({counted(card.excluded.rows, 'row')})"
            )
        vocab_size = tokenizer.vocab_size if is_masked(recipe) else None
        return PackedPrepared(card.documents, card.documents, card.tokens, card.bytes, vocab_size)

    def preview(self, recipe: Recipe, context: int) -> None:
        """None: the number of tokens depends on the tokenizer."""

    def check_start(self, recipe: Recipe, body: type[Body], config: GPTConfig) -> None:
        """Also check the objective: masked words for an encoder, the next token for a decoder; both can start from a GPT-2."""
        super().check_start(recipe, body, config)
        own: dict[type[Body], str] = {Transformer: "next-token", Encoder: "masked"}
        objective = own.get(body, recipe.pretrain.objective)
        if objective != recipe.pretrain.objective:
            raise RecipeError(
                f"this objective cannot start from {body.kind}'s weights",
                got=f"pretrain.objective={recipe.pretrain.objective}",
                do=f"Give --set pretrain.objective={objective}, or other weights.",
            )

    def architecture(self, recipe: Recipe) -> Architecture:
        """An encoder for the objective masked, else a decoder."""
        return "encoder" if is_masked(recipe) else "decoder"

    def new_tokenizer(self, recipe: Recipe) -> Tokenizer:
        """For an encoder, with the mask token."""
        return self.tokenizer(recipe, super().new_tokenizer(recipe))

    def tokenizer(self, recipe: Recipe, own: Tokenizer) -> Tokenizer:
        """For an encoder, a vocabulary without the mask token gets one as its last token."""
        return own.with_tokens(MASK) if is_masked(recipe) else own

    def build_model(self, recipe: Recipe, gpt: Learner, prepared: PackedPrepared) -> LossModule[Learner]:
        """The language model itself; an encoder starts from a GPT's weights or an encoder's."""
        if not is_masked(recipe) or isinstance(gpt, Encoder):
            return LossModule(gpt)
        assert isinstance(gpt, GPT) and prepared.vocab_size is not None, "check_start refuses other models"
        new = prepared.vocab_size - gpt.config.vocab_size
        return LossModule(warm_encoder(gpt, recipe.train.seed, new)[0])

    def configure_trainable(self, model: LossModule[Learner], gpt: Learner, settings: Train) -> Trainable:
        """Select the trained weights, also of an encoder made from a GPT."""
        return super().configure_trainable(model, model.body, settings)

    def build_job(
        self, recipe: Recipe, run: Run, setup: TrainingSetup[LossModule[Learner]], device: torch.device
    ) -> Job[Any]:
        """The job over the blocks of the packed tokens."""
        prepared, model = run.result("prepare", PackedPrepared), setup.model
        val_tokens = packed_tokens(recipe, run, model.body, setup.tokenizer, "val")
        train_tokens: TokenBlocks
        if recipe.pretrain.stream:
            train_tokens = StreamedTokens(
                read_index(run.path("data", INDEX)),
                shard_folder(recipe, run),
                setup.tokenizer,
                val_tokens.context,
                recipe.pretrain.across_documents,
            )
        else:
            train_tokens = packed_tokens(recipe, run, model.body, setup.tokenizer, "train")
        if is_masked(recipe):
            masking, _, _ = choose_masking(setup.tokenizer, recipe.train.seed)
            return masked.build_job(
                cast(LossModule[Encoder], model),
                setup.settings,
                masking,
                train_tokens,
                val_tokens,
                recipe.pretrain.val_blocks,
                device,
            )
        return build_job(
            cast(LossModule[LanguageModel], model),
            setup.settings,
            train_tokens,
            val_tokens,
            prepared.bytes["val"] / prepared.tokens["val"],
            recipe.pretrain.val_blocks,
            device,
            recipe.pretrain.packed_attention,
        )

    def evaluate(
        self, recipe: Recipe, run: Run, model: LossModule[Learner], tokenizer: Tokenizer, start: Start
    ) -> LanguageEvaluation:
        """Evaluate before and after training on the held-out text and the evaluation text; a stream's shards are deleted."""
        remove(run.path(SHARDS))
        path = run.path("data", "card.json")
        card = TextCard.from_json(read_json(path), path)
        parts: dict[str, dict[str, PackedTokens]] = {"val": {}}
        offset = 0
        for name, counts in card.sources.items():
            if size := counts.val.tokens:
                parts["val"][name] = packed_tokens(recipe, run, model.body, tokenizer, "val", offset, offset + size)
                offset += size
        if card.eval:
            parts["eval"] = {card.eval.name: packed_tokens(recipe, run, model.body, tokenizer, "eval")}
        device = torch.device(device_type())
        begun = cast(Learner, load_base(recipe, run).body)
        before = self.build_model(recipe, begun, run.result("prepare", PackedPrepared)).to(device)
        resamples = recipe.evaluate.resamples
        if is_masked(recipe):
            masking, _, _ = choose_masking(tokenizer, recipe.train.seed)
            states = cast(LossModule[Encoder], before), cast(LossModule[Encoder], model)
            return masked.evaluate(*states, tokenizer, masking, parts, resamples, device, start)
        both = cast(LossModule[LanguageModel], before), cast(LossModule[LanguageModel], model)
        return evaluate(*both, tokenizer, parts, resamples, device, start)

    def exportable(self, recipe: Recipe, run: Run, model: LossModule[Learner], tokenizer: Tokenizer) -> Exportable:
        """A language model, or an encoder."""
        path = run.path("eval.json")
        evaluation = LanguageEvaluation.from_json(read_json(path), path)
        headline = evaluation.headline
        unit = "nats per masked token" if is_masked(recipe) else "bits per byte"
        use = ["    finetune classify my.csv --weights DIRECTORY"]
        if not is_masked(recipe):
            use.insert(0, '    finetune generate DIRECTORY "A beginning"')
        readme = language_model_readme(
            run.name,
            evaluation.weights.name,
            [f"{headline.value:.4f} {unit} on held-out text (95 % interval {headline.low:.4f} to {headline.high:.4f})"],
            use,
        )
        return Exportable(
            run.name,
            model.body,
            tokenizer,
            readme,
            card=Card("fill-mask" if is_masked(recipe) else "text-generation", evaluation.weights, headline),
            generation={"do_sample": True, "temperature": 0.8, "top_k": 50, "max_new_tokens": 60},
            held_out=lambda: packed_tokens(recipe, run, model.body, tokenizer, "val").stretches(),
        )

    def next_command(self, directory: Path) -> str:
        """Continue a text; an encoder, which cannot, is used to classify."""
        if is_masked(Run(directory).recipe()):
            return f"classify my.csv --weights {directory}"
        return f'generate {directory} "The"'

    def probe(self, recipe: Recipe, run: Run, setup: TrainingSetup, device: torch.device) -> Probe:
        """With a validation of one forward pass."""
        whole = self.build_job(recipe, run, setup, device)
        together = max(setup.settings.tokens_per_pass // whole.lengths[0], 1)
        shorter = recipe.pretrain.model_copy(update={"val_blocks": together})
        job = self.build_job(recipe.model_copy(update={"pretrain": shorter}), run, setup, device)
        return Probe(job, choose(whole.lengths, setup.settings, whole.groups), whole)

    def evaluation_seconds(self, recipe: Recipe, run: Run, setup: TrainingSetup, device: torch.device) -> float:
        """Estimated seconds for the held-out blocks, one at a time, before and after training."""
        tokens = packed_tokens(recipe, run, setup.model.body, setup.tokenizer, "val")
        model = setup.model.to(device).eval()
        if is_masked(recipe):
            masking, _, _ = choose_masking(setup.tokenizer, recipe.train.seed)
            took = 2 * second_time(lambda: masked.block_nll(model, tokens, masking, [0], 1, device))  # loss and guesses
        else:
            took = second_time(lambda: block_nll(model, tokens, [0], 1, device))
        return 2 * took * len(tokens.ids) / tokens.length(0)


def is_masked(recipe: Recipe) -> bool:
    """Whether the recipe trains an encoder on masked words."""
    return bool(recipe.pretrain.objective == "masked")


def shard_folder(recipe: Recipe, run: Run) -> ShardFolder:
    """The folder with the shards of a run's stream."""
    return ShardFolder(run.path(SHARDS), int(recipe.pretrain.disk_megabytes * 1e6))


def packed_tokens(
    recipe: Recipe, run: Run, model: Learner, tokenizer: Tokenizer, split: str, start: int = 0, stop: int | None = None
) -> PackedTokens:
    """A token file, or a part of it, in blocks of the recipe's max_length, at most the model's context."""
    context = min(recipe.max_length or model.config.context, model.config.context)
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
