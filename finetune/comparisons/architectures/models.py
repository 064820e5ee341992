"""Encoder-only, decoder-only and encoder-decoder models of equal size for the same tasks."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from sklearn.metrics import accuracy_score, f1_score
from torch import Tensor, nn
from torch.nn import functional as F

from finetune.comparisons.architectures.masked import summed_nll
from finetune.models.encoder import Encoder
from finetune.models.encoder_decoder import EncoderDecoder, EncoderDecoderConfig
from finetune.models.gpt import GPT, GPTConfig
from finetune.models.heads import Classifier, EncoderDecoderClassifier
from finetune.models.transformer import Block, TransformerConfig
from finetune.models.warm_start import warm_encoder, warm_encoder_decoder
from finetune.tasks.classify.job import Examples
from finetune.tasks.seq2seq.layout import Pair
from finetune.tasks.seq2seq.model import Family, family_of
from finetune.tokenizer import Tokenizer
from finetune.training.batching import inference_batches
from finetune.training.collate import pad_ids
from finetune.training.job import Job

CLASSIFY, NUMBERS, TEXT = "classify", "numbers", "text"
ENCODER, DECODER, BOTH = "encoder", "decoder", "both"
RANDOM, PRETRAINED, MASKED, WHOLE = "random", "pretrained", "masked", "whole"
NAMES = {ENCODER: "encoder-only", DECODER: "decoder-only", BOTH: "encoder-decoder"}

Core = GPT | Encoder | EncoderDecoder
Labeller = Classifier | EncoderDecoderClassifier  # one of these with a classification head


@dataclass(frozen=True)
class Training:
    """One of the comparison's trainings: its task, architecture and initialisation."""

    task: str
    architecture: str
    start: str

    @property
    def name(self) -> str:
        """Its name in recipes."""
        return f"{self.task}-{self.architecture}-{self.start}"

    def key(self, seed: int) -> str:
        """The key of its result."""
        return f"{self.name}-{seed}"

    @property
    def label(self) -> str:
        """Its name in the report."""
        more = {MASKED: ", after masked-word training", WHOLE: ", all blocks on each side"}
        return NAMES[self.architecture] + more.get(self.start, "")


STARTS = {
    (CLASSIFY, ENCODER): (RANDOM, PRETRAINED, MASKED),
    (CLASSIFY, DECODER): (RANDOM, PRETRAINED),
    (CLASSIFY, BOTH): (RANDOM, PRETRAINED, WHOLE),
} | {
    (task, architecture): (RANDOM, PRETRAINED)
    for task, architecture in ((NUMBERS, DECODER), (NUMBERS, BOTH), (TEXT, ENCODER), (TEXT, DECODER), (TEXT, BOTH))
}
TRAININGS = {
    own.name: own
    for own in (
        Training(task, architecture, start) for (task, architecture), starts in STARTS.items() for start in starts
    )
}
READ_FIRST = Training(TEXT, ENCODER, PRETRAINED)  # its weights are where the initialisation `masked` starts


def count(model: nn.Module) -> int:
    """Number of parameters."""
    return sum(parameter.numel() for parameter in model.parameters())


def equal_layers(config: GPTConfig) -> tuple[int, int]:
    """Encoder and decoder blocks of the encoder-decoder whose size is closest to the GPT's; at least one each.

    Among pairs that are equally close (within half a percent of the GPT) the one with the most similar sides.
    """
    shape = TransformerConfig(**asdict(config))
    plain, cross = count(Block(shape)), count(Block(shape, cross=True))
    more = config.context * config.width + 2 * config.width  # a second position embedding, a second final norm
    whole = (config.vocab_size + config.context + 2) * config.width + config.layers * plain
    pairs = [(encoder, decoder) for encoder in range(1, config.layers + 1) for decoder in range(1, config.layers + 1)]

    def apart(pair: tuple[int, int]) -> int:
        return abs(pair[0] * plain + pair[1] * cross + more - config.layers * plain)

    nearest = min(map(apart, pairs))
    level = [pair for pair in pairs if apart(pair) - nearest <= 0.005 * whole]
    return min(level, key=lambda pair: (abs(pair[0] - pair[1]), apart(pair)))


def build_model(gpt: GPT, training: Training, seed: int, new_tokens: int, layers: tuple[int, int]) -> Core:
    """The training's model in the GPT's shape, with its weights or random ones. layers: from ``equal_layers``.

    new_tokens: new rows of an encoder's embedding for the mask.
    """
    fresh = training.start == RANDOM
    if training.architecture == DECODER:
        return GPT(gpt.config).initialise(seed) if fresh else gpt
    if training.architecture == ENCODER:
        shape = asdict(gpt.config) | {"vocab_size": gpt.config.vocab_size + new_tokens}
        return Encoder(TransformerConfig(**shape)).initialise(seed) if fresh else warm_encoder(gpt, seed, new_tokens)[0]
    if fresh:
        shape = asdict(gpt.config) | {"encoder_layers": layers[0], "layers": layers[1]}
        return EncoderDecoder(EncoderDecoderConfig(**shape)).initialise(seed)
    silent = (
        training.task != CLASSIFY
    )  # zero-initialised cross-attention preserves a decoder's generation; a classifier must attend from the start
    return warm_encoder_decoder(gpt, seed, silent, None if training.start == WHOLE else layers)[0]


def with_head(model: Core, classes: int, start: int, seed: int) -> Labeller:
    """A model with a new linear head. start: the decoder input token of an encoder-decoder."""
    if isinstance(model, EncoderDecoder):
        return EncoderDecoderClassifier(model, classes, start).initialise_head(seed)
    return Classifier(model, classes).initialise_head(seed)


def class_job(model: Labeller, train: Examples, val: Examples, budget: int, device: torch.device) -> Job[Labeller]:
    """A classifier's job. budget: tokens per forward pass in validation."""
    classes = list(range(model.head.out_features))

    def batch(rows: list[int]) -> tuple[Tensor, ...]:
        return *pad_ids([train.ids[i] for i in rows]), torch.from_numpy(train.targets[rows])

    def loss_sum(module: nn.Module, tensors: tuple[Tensor, ...]) -> Tensor:
        ids, last, targets = tensors
        return F.cross_entropy(module(ids, last).float(), targets, reduction="sum")

    def validate(module: Labeller) -> dict[str, float]:
        logits = class_logits(module, val.ids, budget, device)
        guessed = logits.argmax(1)
        return {
            "log_loss": F.cross_entropy(torch.from_numpy(logits), torch.from_numpy(val.targets)).item(),
            "accuracy": float(accuracy_score(val.targets, guessed)),
            "f1_macro": float(f1_score(val.targets, guessed, average="macro", labels=classes, zero_division=0)),
        }

    lengths = train.ids.lengths()
    return Job(
        model,
        lengths,
        [1.0] * len(lengths),
        batch,
        loss_sum,
        validate,
        name_row=lambda i: str(train.rows[i]),
        validation_tokens=sum(val.ids.lengths()),
    )


@torch.no_grad()
def class_logits(model: Labeller, ids: Sequence[list[int]], budget: int, device: torch.device) -> np.ndarray:
    """Logits (n, K) in the order of the rows."""
    logits = np.zeros((len(ids), model.head.out_features))
    for rows in inference_batches([len(row) for row in ids], budget):
        batch = (tensor.to(device) for tensor in pad_ids([ids[i] for i in rows]))
        logits[rows] = model(*batch).float().cpu().numpy()
    return logits


def pair_job(
    model: GPT | EncoderDecoder, train: list[Pair], val: list[Pair], end: int, device: torch.device
) -> Job[Family]:
    """The job of a decoder or an encoder-decoder on pairs.

    Rows have the same length for both, so that both get the same batches. On running text a decoder's training loss
    covers all tokens, an encoder-decoder's only the target; both are evaluated on the target.
    """
    running, family = not train[0].ends, family_of(model, end)

    def supervised(pair: Pair) -> float:
        tokens = len(pair.answer(end))
        return float(tokens + len(pair.source) - 1 if running and isinstance(model, GPT) else tokens)

    def validate(module: Family) -> dict[str, float]:
        parts = [val[start : start + 16] for start in range(0, len(val), 16)]
        nats = summed_nll(module, map(family.batch, parts), device)
        return {"log_loss": float(nats.sum()) / sum(len(pair.answer(end)) for pair in val)}

    lengths = [len(pair.source) + 1 + len(pair.answer(end)) for pair in train]
    return Job(
        family,
        lengths,
        [supervised(pair) for pair in train],
        lambda rows: family.batch([train[i] for i in rows], whole=running),
        lambda module, tensors: module(*tensors),
        validate,
        name_row=lambda row: f"pair {row}",
    )


def pair_nll(model: Family, pairs: list[Pair], device: torch.device) -> np.ndarray:
    """The cross-entropy of each pair's target in nats (n,)."""
    return summed_nll(model, (model.batch([pair]) for pair in pairs), device)


def write_targets(
    model: GPT | EncoderDecoder, pairs: list[Pair], tokenizer: Tokenizer, device: torch.device, together: int = 64
) -> list[str]:
    """Greedily decoded outputs for each source; the model does not know the target's length."""
    end, family = tokenizer.end_of_text, family_of(model, tokenizer.end_of_text)
    room, found = 2 + max(len(pair.answer(end)) for pair in pairs), []
    for first in range(0, len(pairs), together):
        sources = [pair.source for pair in pairs[first : first + together]]
        new = family.write(sources, room, device, temperature=0.0)
        found += [tokenizer.decode(row[: row.index(end)] if end in row else row) for row in new.tolist()]
    return found
