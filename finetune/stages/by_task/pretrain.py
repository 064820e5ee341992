"""The task ``pretrain`` in a run: plain text in, a language model out."""

from pathlib import Path

import torch

from finetune.console import say
from finetune.datasets.exclusion import evaluation_files
from finetune.datasets.packing import PackedTokens
from finetune.datasets.sources import DataSource, locate_text, resolve_text
from finetune.export.huggingface import write_language_model
from finetune.files import read_json, write_json
from finetune.models.gpt import GPT
from finetune.models.heads import NextToken
from finetune.recipe import Recipe
from finetune.report import language
from finetune.report.summary import language_table
from finetune.run import Run
from finetune.stages.by_task.task import OF_TABLES, Built, Task
from finetune.stages.by_task.trial import Probe, choose, second_time
from finetune.stages.convert import base_weights
from finetune.tasks import pretrain
from finetune.tokenizer import Tokenizer
from finetune.training.loop import Job
from finetune.training.precision import device_type


class PretrainTask(Task):
    """Predict the next token."""

    unread = (*OF_TABLES, "split.protocol", "split.val_fraction", "split.test_fraction", "instruct", "seq2seq")
    verdict = staticmethod(language.verdict)
    summary = staticmethod(language_table)
    page = staticmethod(language.page)

    def resolve_data(self, name: str, fetch: bool) -> str:
        """A file's or a folder's whole path."""
        return resolve_text(name)

    def locate(self, recipe: Recipe) -> DataSource:
        """Plain text."""
        return locate_text(recipe.data)

    def check(self, recipe: Recipe) -> None:
        """Nothing is set that this task does not read, and the evaluation text is there."""
        super().check(recipe)
        if recipe.pretrain.eval_data:
            locate_text(recipe.pretrain.eval_data)
        evaluation_files(recipe.pretrain.exclude)

    def prepare(self, recipe: Recipe, run: Run) -> dict:
        """data/train.bin and data/val.bin: token ids, mapped into memory by the training."""
        data = locate_text(recipe.data)
        tokenizer = Tokenizer.from_directory(base_weights(recipe, run).directory)
        run.path("data").mkdir(exist_ok=True)
        card = pretrain.write_tokens(data.path, run.path("data"), tokenizer, recipe.pretrain, recipe.split.seed)
        if recipe.pretrain.eval_data:
            card["eval"] = pretrain.write_evaluation_tokens(locate_text(recipe.pretrain.eval_data).path,
                                                            run.path("data"), tokenizer)
        write_json(run.path("data", "card.json"), run.result("download")["data"] | card)
        say(f"text: {card['documents']['train']:,} documents of {card['tokens']['train']:,} tokens to train on, "
            f"{card['documents']['val']:,} of {card['tokens']['val']:,} held out; "
            f"{card['bytes']['train'] / card['tokens']['train']:.2f} bytes a token")
        if "excluded" in card:
            say(f"  {card['excluded']['documents']:,} documents are left out, which hold one of the "
                f"{card['excluded']['rows']:,} rows of evaluation sets")
        return {"documents": card["documents"], "tokens": card["tokens"], "bytes": card["bytes"]}

    def foresee(self, recipe: Recipe, context: int) -> dict:
        """Nothing: how many tokens a text has is the tokenizer's matter."""
        return {}

    def build_model(self, recipe: Recipe, gpt: GPT, prepared: dict) -> NextToken:
        """The GPT itself, which has no other head than its embedding."""
        return NextToken(gpt)

    def build_job(self, recipe: Recipe, run: Run, built: Built, device: torch.device) -> Job:
        """Over the blocks of the packed tokens."""
        prepared = run.result("prepare")
        train_tokens, val_tokens = (packed_tokens(recipe, run, built.model.gpt, built.tokenizer, name)
                                    for name in ("train", "val"))
        return pretrain.build_job(built.model, built.settings, train_tokens, val_tokens,
                                  prepared["bytes"]["val"] / prepared["tokens"]["val"], recipe.pretrain.val_blocks,
                                  device)

    def evaluate(self, recipe: Recipe, run: Run, model: NextToken, tokenizer: Tokenizer) -> dict:
        """Before and after, on what is held out and on the evaluation's own text."""
        start = base_weights(recipe, run).load().model
        card = read_json(run.path("data", "card.json"))
        parts: dict[str, dict] = {"val": {}}
        offset = 0
        for name, counts in card["sources"].items():
            if size := counts["val"]["tokens"]:
                parts["val"][name] = packed_tokens(recipe, run, model.gpt, tokenizer, "val", offset, offset + size)
                offset += size
        if "eval" in card:
            parts["eval"] = {card["eval"]["name"]: packed_tokens(recipe, run, model.gpt, tokenizer, "eval")}
        device = torch.device(device_type())
        before = NextToken(getattr(start, "gpt", start)).to(device)
        return pretrain.evaluate(before, model, tokenizer, parts, recipe.evaluate.resamples, device)

    def export(self, recipe: Recipe, run: Run, model: NextToken, tokenizer: Tokenizer) -> dict:
        """A language model's directory."""
        headline = read_json(run.path("eval.json"))["headline"]
        return write_language_model(
            run, model.gpt, tokenizer,
            [f"{headline['value']:.4f} bits per byte on held-out text (95 % interval {headline['low']:.4f} to "
             f"{headline['high']:.4f})"],
            ["    finetune generate DIRECTORY \"A beginning\"", "    finetune classify my.csv --weights DIRECTORY"])

    def next_command(self, directory: Path) -> str:
        """What the weights are for."""
        return f"classify my.csv --weights {directory}"

    def probe(self, recipe: Recipe, run: Run, built: Built, device: torch.device) -> Probe:
        """With a validation of one forward pass."""
        whole = self.build_job(recipe, run, built, device)
        together = max(built.settings.micro_batch_tokens // max(whole.lengths), 1)
        shorter = recipe.pretrain.model_copy(update={"val_blocks": together})
        job = self.build_job(recipe.model_copy(update={"pretrain": shorter}), run, built, device)
        return Probe(job, choose(whole.lengths, built.settings), whole)

    def evaluation_seconds(self, recipe: Recipe, run: Run, built: Built, device: torch.device) -> float:
        """Over the held-out blocks, one at a time and by both states of the model."""
        tokens = packed_tokens(recipe, run, built.model.gpt, built.tokenizer, "val")
        model = built.model.to(device).eval()
        took = second_time(lambda: pretrain.block_nats(model, tokens, [0], 1, device))
        return 2 * took * len(tokens.ids) / tokens.length(0)


def packed_tokens(recipe: Recipe, run: Run, gpt: GPT, tokenizer: Tokenizer, split: str, start: int = 0,
                  stop: int | None = None) -> PackedTokens:
    """A token file, or a part of it, in blocks of the model's context, or of the recipe's max_length."""
    context = min(recipe.max_length or gpt.config.context, gpt.config.context)
    return PackedTokens(run.path("data", f"{split}.bin"), context, tokenizer.vocab_size, tokenizer.end_of_text,
                        recipe.pretrain.across_documents, start, stop)
