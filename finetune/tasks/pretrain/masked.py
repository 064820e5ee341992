"""The objective ``masked``: an encoder predicts masked words (Devlin et al. 2019)."""

import math
from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from finetune.console import progress
from finetune.evaluation.language import masked_metrics
from finetune.evaluation.results import Headline, Metric, Start
from finetune.models.encoder import Encoder
from finetune.models.gpt import IGNORE
from finetune.models.heads import LossModule
from finetune.recipe import Train
from finetune.tasks.pretrain.masking import Masking
from finetune.tasks.pretrain.packing import PackedTokens, TokenBlocks
from finetune.tasks.pretrain.results import LanguageEvaluation, Sample, Sampling
from finetune.tokenizer import Tokenizer
from finetune.training.job import Computed, Job
from finetune.training.sharing import share

EXAMPLES = Sampling(temperature=0.0, top_k=1, seed=0, new_tokens=0, prompt_tokens=24, samples=6)
HIDDEN = "____"  # a masked token in the report


def build_job(
    model: LossModule[Encoder],
    settings: Train,
    masking: Masking,
    train: TokenBlocks,
    val: PackedTokens,
    val_blocks: int,
    device: torch.device,
) -> Job[LossModule[Encoder]]:
    """The job for the training loop; a row is a block of packed tokens, with different masks in each epoch."""

    def batch(blocks: list[int], epoch: int) -> tuple[Tensor, Tensor]:
        return masked_blocks(train, blocks, epoch, masking)

    def loss_sum(module: nn.Module, tensors: tuple[Tensor, ...]) -> Tensor:
        inputs, targets = tensors
        return module(inputs, targets, *train.layout(inputs, causal=False))

    def validate(module: nn.Module) -> dict[str, float]:
        blocks = sorted({len(val) * i // val_blocks for i in range(val_blocks)})
        together = max(settings.tokens_per_pass // val.context, 1)
        nats, counts = block_nll(module, val, masking, blocks, together, device)
        loss = float(nats.sum() / counts.sum())
        return {"log_loss": loss, "perplexity": math.exp(min(loss, 50.0))}

    return Job(
        model,
        Computed(len(train), train.length),
        Computed(len(train), lambda block: float(masking.count(train.inputs(block)))),
        batch,
        loss_sum,
        validate,
        name_row=lambda block: f"block {block}",
        validation_tokens=min(val_blocks, len(val)) * val.context,
        epochs_differ=True,
        read_ahead=train.read_ahead,
        groups=train.groups,
    )


def masked_blocks(tokens: TokenBlocks, blocks: Sequence[int], epoch: int, masking: Masking) -> tuple[Tensor, Tensor]:
    """Inputs and targets (B, T) of blocks; a short one is padded with end-of-text, each a document of its own."""
    longest = max(map(tokens.length, blocks))
    inputs = torch.full((len(blocks), longest), tokens.end_of_text)
    targets = torch.full((len(blocks), longest), IGNORE)
    for row, block in enumerate(blocks):
        drawn = masking.apply(tokens.inputs(block), epoch, block, IGNORE)
        inputs[row, : len(drawn[0])], targets[row, : len(drawn[1])] = map(torch.from_numpy, drawn)
    return inputs, targets


@torch.no_grad()
def block_nll(
    model: nn.Module, tokens: PackedTokens, masking: Masking, blocks: list[int], together: int, device: torch.device
) -> tuple[np.ndarray, np.ndarray]:
    """The cross-entropy in nats and number of masked tokens of each `together` blocks; the masks are always the same."""

    def score(batch: list[int]) -> tuple[float, int]:
        inputs, targets = (tensor.to(device) for tensor in masked_blocks(tokens, batch, 0, masking))
        return float(model(inputs, targets, *tokens.layout(inputs, causal=False))), int((targets != IGNORE).sum())

    scored = share([blocks[start : start + together] for start in range(0, len(blocks), together)], score)
    nats, counts = zip(*scored, strict=True)
    return np.array(nats), np.array(counts)


def block_score(
    model: LossModule[Encoder], tokens: PackedTokens, masking: Masking, device: torch.device, block: list[int]
) -> tuple[float, int, int]:
    """Of a block alone: the cross-entropy in nats, the number of masked tokens, and how many are guessed right."""
    [nats], [count] = block_nll(model, tokens, masking, block, 1, device)
    _, targets, found = guesses(model.body, tokens, masking, block[0], device)
    return float(nats), int(count), int((targets == found).sum())


@torch.no_grad()
def guesses(
    model: Encoder, tokens: PackedTokens, masking: Masking, block: int, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """A block's inputs and targets, and the likeliest token at each position: (T,) each."""
    inputs, targets = (tensor.to(device) for tensor in masked_blocks(tokens, [block], 0, masking))
    hidden = model.hidden_states(inputs, *tokens.layout(inputs, causal=False))
    found = nn.functional.linear(hidden, model.token_embedding.weight).argmax(dim=-1)
    return inputs[0].cpu(), targets[0].cpu(), found[0].cpu()


def evaluate(
    before: LossModule[Encoder],
    after: LossModule[Encoder],
    tokenizer: Tokenizer,
    masking: Masking,
    parts: dict[str, dict[str, PackedTokens]],
    resamples: int,
    device: torch.device,
    start: Start,
) -> LanguageEvaluation:
    """Evaluate an encoder before and after training on the same masked tokens, and let both fill in a few texts.

    parts: for each text ("val", "eval") its sources by name. The evaluation's seconds are filled in later.
    """
    models = {"before": before.eval(), "after": after.eval()}
    measured: dict[str, dict[str, dict[str, Metric]]] = {"before": {}, "after": {}}
    for part, members in parts.items():
        total = sum(map(len, members.values()))
        for state, model in models.items():
            found: list[tuple[float, int, int]] = []
            with progress(f"{part}, {state}", total, unit="blocks") as advance:
                for tokens in members.values():
                    score = partial(block_score, model, tokens, masking, device)
                    found += share([[block] for block in range(len(tokens))], score, lambda block: advance(1))
            nats, counts, right = np.array([own for own in found if own[1]], dtype=float).reshape(-1, 3).T
            measured[state][part] = masked_metrics(nats, counts, right, resamples)
    metrics = measured["after"]["val"]
    return LanguageEvaluation(
        schema_version=1,
        task="pretrain",
        method=start.method,
        weights=start.weights,
        seconds=0.0,
        headline=Headline(**vars(metrics["log_loss"]), metric="log_loss", split="val"),
        metrics=metrics,
        before=measured["before"],
        after=measured["after"],
        compressors=[],
        sources=[],
        samples=[_fill_in(models, tokenizer, masking, tokens, device) for tokens in parts["val"].values()][
            : EXAMPLES.samples
        ],
        sampling=EXAMPLES,
        objective="masked",
    )


def _fill_in(
    models: dict[str, LossModule[Encoder]],
    tokenizer: Tokenizer,
    masking: Masking,
    tokens: PackedTokens,
    device: torch.device,
) -> Sample:
    """The beginning of a source's first block with its masked tokens, and each model's predictions for them."""
    shown = {}
    for state, model in models.items():
        inputs, targets, found = guesses(model.body, tokens, masking, 0, device)
        part = slice(EXAMPLES.prompt_tokens)
        hidden = (targets != IGNORE)[part]
        pieces = [tokenizer.decode_bytes([token]).decode("utf-8", "replace") for token in inputs[part].tolist()]
        filled = [tokenizer.decode_bytes([token]).decode("utf-8", "replace") for token in found[part].tolist()]
        shown["prompt"] = "".join(HIDDEN if hide else piece for hide, piece in zip(hidden, pieces, strict=True))
        shown[state] = "".join(
            f"[{new}]" if hide else piece for hide, piece, new in zip(hidden, pieces, filled, strict=True)
        )
    return Sample(**shown)
