"""The task ``pretrain``: predict the next token of plain text, from new weights or from any checkpoint."""

import math
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from finetune.console import Advance, progress, say, unseen
from finetune.evaluation.language import compressors, language_metrics
from finetune.evaluation.results import Headline, Metric, Start
from finetune.models.gpt import GPT, IGNORE
from finetune.models.heads import LossModule
from finetune.models.transformer import LanguageModel
from finetune.models.varlen import PackedLoss, document_bounds, why_not_varlen
from finetune.recipe import Train
from finetune.tasks.pretrain.packing import PackedTokens, TokenBlocks
from finetune.tasks.pretrain.results import LanguageEvaluation, Sample, Sampling, SourceBits
from finetune.tokenizer import Tokenizer
from finetune.training.job import Computed, Job
from finetune.training.sharing import share

SAMPLING = Sampling(temperature=0.8, top_k=50, seed=1, new_tokens=60, prompt_tokens=24, samples=6)


def build_job(
    model: LossModule[LanguageModel],
    settings: Train,
    train: TokenBlocks,
    val: PackedTokens,
    val_bytes_per_token: float,
    val_blocks: int,
    device: torch.device,
    attention: str = "masked",
) -> Job[Any]:
    """The job for the training loop; a row is a block of packed tokens. attention: pretrain.packed_attention."""
    varlen = chooses_varlen(model.body, settings, train, device, attention)

    trained = PackedLoss(cast(GPT, model.body)) if varlen else model

    def batch(blocks: list[int]) -> tuple[Tensor, ...]:
        return batch_for(trained, train, blocks)

    def loss_sum(module: nn.Module, tensors: tuple[Tensor, ...]) -> Tensor:
        inputs, targets, *bounds = tensors
        return module(inputs, targets, *(bounds or train.layout(inputs)))

    def validate(module: nn.Module) -> dict[str, float]:
        return measure(trained, val, val_bytes_per_token, val_blocks, settings.tokens_per_pass, device)

    return Job(
        trained,
        Computed(len(train), train.length),
        Computed(len(train), lambda block: float(train.length(block))),
        batch,
        loss_sum,
        validate,
        name_row=lambda block: f"block {block}",
        validation_tokens=min(val_blocks, len(val)) * val.context,
        read_ahead=train.read_ahead,
        groups=train.groups,
    )


def chooses_varlen(body: LanguageModel, settings: Train, train: TokenBlocks, device: torch.device, asked: str) -> bool:
    """Whether to train with variable-length attention. asked: pretrain.packed_attention. Says why not if it is refused."""
    recompiles = device.type == "cpu" and settings.step == "compiled"  # for the lengths of each step's documents
    if asked == "masked" or (asked == "auto" and (train.across or recompiles or device.type not in ("cpu", "cuda"))):
        return False
    why = "attention crosses documents" if train.across else why_not_varlen(body, device, settings.precision)
    say(f"  packed documents: {'masked attention: ' + why if why else 'variable-length attention, without a mask'}")
    return not why


def batch_for(model: nn.Module, tokens: TokenBlocks, blocks: list[int]) -> tuple[Tensor, ...]:
    """Inputs and targets (B, T) of blocks, and the documents' positions and bounds for a ``PackedLoss``."""
    inputs, targets = tokens.batch(blocks, IGNORE)
    bounds = document_bounds(inputs, tokens.end_of_text) if isinstance(model, PackedLoss) else ()
    return inputs, targets, *bounds


def measure(
    model: nn.Module, tokens: PackedTokens, bytes_per_token: float, most_blocks: int, budget: int, device: torch.device
) -> dict[str, float]:
    """Loss per token in nats, perplexity and bits per byte, over evenly spaced blocks of all sources."""
    blocks = sorted({len(tokens) * i // most_blocks for i in range(most_blocks)})
    nats = block_nll(model, tokens, blocks, max(budget // tokens.context, 1), device)
    loss = float(nats.sum()) / sum(map(tokens.length, blocks))
    return {
        "log_loss": loss,
        "perplexity": math.exp(min(loss, 50.0)),
        "bits_per_byte": loss / math.log(2) / bytes_per_token,
    }


@torch.no_grad()
def block_nll(
    model: nn.Module,
    tokens: PackedTokens,
    blocks: list[int],
    together: int,
    device: torch.device,
    advance: Advance = unseen,
) -> np.ndarray:
    """The cross-entropy in nats of each group of `together` blocks (one forward pass)."""

    def nll(batch: list[int]) -> float:
        inputs, targets, *bounds = (tensor.to(device) for tensor in batch_for(model, tokens, batch))
        return float(model(inputs, targets, *(bounds or tokens.layout(inputs))))

    groups = [blocks[start : start + together] for start in range(0, len(blocks), together)]
    return np.array(share(groups, nll, lambda group: advance(len(group))))


def evaluate(
    before: LossModule[LanguageModel],
    after: LossModule[LanguageModel],
    tokenizer: Tokenizer,
    parts: dict[str, dict[str, PackedTokens]],
    resamples: int,
    device: torch.device,
    start: Start,
) -> LanguageEvaluation:
    """Measure a model before and after training, and compressors, on texts, and let both models continue samples.

    parts: for each text ("val", "eval") its sources by name. The evaluation's seconds are filled in later.
    """
    lengths = np.array(tokenizer.byte_lengths())
    models = {"before": before.eval(), "after": after.eval()}
    measured: dict[str, dict[str, dict[str, Metric]]] = {"before": {}, "after": {}}
    sources = []
    for part, members in parts.items():
        counts = [tokens.length(block) for tokens in members.values() for block in range(len(tokens))]
        sizes = [
            int(lengths[tokens.targets(block)].sum()) for tokens in members.values() for block in range(len(tokens))
        ]
        for state, model in models.items():
            with progress(f"{part}, {state}", len(counts), unit="blocks") as advance:
                nats = [
                    block_nll(model, tokens, list(range(len(tokens))), 1, device, advance)
                    for tokens in members.values()
                ]
            measured[state][part] = language_metrics(np.concatenate(nats), counts, sizes, resamples)
            if part == "val":
                sources.append([float(own.sum()) for own in nats])
    val = parts["val"]
    texts = {name: tokenizer.decode_bytes(tokens.ids.tolist()) for name, tokens in val.items()}
    metrics = measured["after"]["val"]
    return LanguageEvaluation(
        schema_version=1,
        task="pretrain",
        method=start.method,
        weights=start.weights,
        seconds=0.0,
        headline=Headline(**vars(metrics["bits_per_byte"]), metric="bits_per_byte", split="val"),
        metrics=metrics,
        before=measured["before"],
        after=measured["after"],
        compressors=compressors(b"".join(texts.values())),
        sources=[
            SourceBits(name, len(text), _bits(own[0], text), _bits(own[1], text), compressors(text))
            for (name, text), own in zip(texts.items(), zip(*sources, strict=True), strict=True)
            if text
        ],
        samples=[
            _continue(models, tokenizer, tokens, device)
            for tokens in val.values()
            if len(tokens.ids) > 2 * SAMPLING.prompt_tokens
        ][: SAMPLING.samples],
        sampling=SAMPLING,
    )


def _bits(nats: float, text: bytes) -> float:
    """Bits per byte."""
    return nats / math.log(2) / max(len(text), 1)


def _continue(
    models: dict[str, LossModule[LanguageModel]], tokenizer: Tokenizer, tokens: PackedTokens, device: torch.device
) -> Sample:
    """The beginning of a text and its continuation by each model."""
    prompt = torch.from_numpy(tokens.ids[: SAMPLING.prompt_tokens].astype(np.int64))[None].to(device)
    shown = {}
    for state, model in models.items():
        ids = model.body.generate(
            prompt,
            SAMPLING.new_tokens,
            temperature=SAMPLING.temperature,
            top_k=SAMPLING.top_k,
            seed=SAMPLING.seed,
            end=tokenizer.end_of_text,
        )
        shown[state] = tokenizer.decode_bytes(ids[0, prompt.shape[1] :].tolist()).decode("utf-8", "replace")
    return Sample(tokenizer.decode_bytes(prompt[0].tolist()).decode("utf-8", "replace"), **shown)
