"""The command ``draw``: the kinds of pictures, their inputs, and the folder that they are written to."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from finetune.checkpoints.sources import load
from finetune.errors import WeightsError
from finetune.models.bodies import Body
from finetune.models.encoder_decoder import EncoderDecoder
from finetune.models.gpt import GPT
from finetune.models.heads import Classifier, Reader
from finetune.models.transformer import LanguageModel
from finetune.pictures import (
    architectures,
    attention,
    beams,
    cache,
    embeddings,
    masks,
    positions,
    sampling,
    schedule,
    tokens,
)
from finetune.pictures.album import Chapter, add_to_album
from finetune.pictures.drawing import Drawing
from finetune.pictures.options import Options, chosen_kinds
from finetune.recipe import Train
from finetune.report.plots import cut, house_style
from finetune.tokenizer import Tokenizer
from finetune.training.trainable import choose_settings


class Request:
    """The options, and the models that they need, loaded once."""

    def __init__(self, options: Options, train: Train):
        self.options, self.train = options, train
        self.name = cut(options.weights or "mini")

    @cached_property
    def loaded(self) -> tuple[Body | Classifier, Tokenizer]:
        """The checkpoint and its tokenizer."""
        return load(self.options.weights or "mini")

    @property
    def body(self) -> Reader:
        """The model, without a classifier's head. Raises WeightsError for an encoder-decoder."""
        model = self.loaded[0]
        if isinstance(model, EncoderDecoder):
            raise WeightsError(
                f"{self.name}: cannot draw an encoder-decoder",
                known="a GPT-2 or a classifier",
                do="finetune draw attention shows its heads.",
            )
        return model.body if isinstance(model, Classifier) else model

    @property
    def gpt(self) -> GPT:
        """The GPT-2. Raises WeightsError for another model."""
        if not isinstance(self.body, GPT):
            raise WeightsError(
                f"{self.name}: {self.body.kind}'s weights",
                known="a GPT-2's, whose parts these pictures show",
                do="Give other weights, such as mini; draw attention shows these.",
            )
        return self.body

    @property
    def language_model(self) -> LanguageModel:
        """The language model. Raises WeightsError for a classifier and an encoder."""
        if isinstance(self.loaded[0], Classifier) or not isinstance(self.body, LanguageModel):
            kind = "a classifier" if isinstance(self.loaded[0], Classifier) else self.body.kind
            raise WeightsError(f"{self.name}: {kind} cannot generate text", known="language models, such as mini")
        return self.body

    def text(self, default: str) -> str:
        """The given text, else the picture's default."""
        return default if self.options.text is None else self.options.text


@dataclass(frozen=True)
class Kind:
    """One kind of picture: a value of WHAT on the command line."""

    chapter: Chapter
    draw: Callable[[Request], list[Drawing]]


KINDS = {
    "tokens": Kind(
        Chapter(
            "Tokens",
            "A model reads neither letters nor words, but pieces of text that were frequent when its vocabulary was learned.",
        ),
        lambda ask: tokens.draw(ask.loaded[1], ask.text(tokens.TEXT), ask.name),
    ),
    "architectures": Kind(
        Chapter(
            "Architectures",
            "The path from the tokens to the output, with the shape of the tensor at each arrow. Read from the bottom "
            "upwards; the framed block is repeated as often as the number in its corner says.",
        ),
        lambda ask: architectures.draw(ask.gpt.config, ask.name),
    ),
    "embeddings": Kind(
        Chapter(
            "Embeddings", "Each token is a row of a table, a vector that was learned; similar tokens have similar rows."
        ),
        lambda ask: embeddings.draw(ask.body, ask.loaded[1], ask.text(embeddings.TEXT), ask.name),
    ),
    "positions": Kind(
        Chapter(
            "Positions", "Attention alone ignores the order of tokens, so a model needs an encoding of each position."
        ),
        lambda ask: positions.draw(ask.gpt, ask.name),
    ),
    "masks": Kind(
        Chapter("Masks", "Which tokens may attend to which; all other attention weights are zero."),
        lambda ask: masks.draw(ask.text(masks.TEXT)),
    ),
    "attention": Kind(
        Chapter(
            "Attention",
            "The weights softmax(QK\N{MODIFIER LETTER CAPITAL T}/\N{SQUARE ROOT}d) of a real forward pass: how much "
            "of every other token's value each token takes.",
        ),
        lambda ask: _attention(ask),
    ),
    "schedule": Kind(
        Chapter("Learning rate", "The size of an optimizer step, over the course of training."),
        lambda ask: schedule.draw(_with_rate(ask), ask.options.recipe or schedule.RECIPE),
    ),
    "cache": Kind(
        Chapter("KV cache", "A text is written token by token; what earlier tokens have computed is kept."),
        lambda ask: cache.draw(ask.language_model, ask.loaded[1], ask.text(sampling.PROMPT), ask.name),
    ),
    "sampling": Kind(
        Chapter(
            "Sampling",
            "A model gives every token of its vocabulary a probability; these rules decide from which tokens "
            "the next one is sampled.",
        ),
        lambda ask: sampling.draw(
            ask.language_model,
            ask.loaded[1],
            ask.text(sampling.PROMPT),
            ask.name,
            ask.options.top_k,
            ask.options.top_p,
            ask.options.min_p,
        ),
    ),
    "beams": Kind(
        Chapter(
            "Beam search", "Several continuations of the prompt are extended in parallel, and the likeliest are kept."
        ),
        lambda ask: beams.draw(
            ask.language_model, ask.loaded[1], ask.text(sampling.PROMPT), ask.name, ask.options.beams
        ),
    ),
}


def draw(what: str, out: Path, options: Options, train: Train) -> Path:
    """Draw one kind of pictures, or all, into a folder; the path of its page.

    train: the settings of the recipe that ``schedule`` shows. Raises FinetuneError for unusable input;
    then nothing is written.
    """
    chosen = chosen_kinds(what, options)
    ask = Request(options, train)
    with house_style():
        return add_to_album(out, {kind: (KINDS[kind].chapter, KINDS[kind].draw(ask)) for kind in chosen})


def _attention(ask: Request) -> list[Drawing]:
    """The maps of a model that reads one text, or those of both sides of an encoder-decoder."""
    model, tokenizer = ask.loaded
    text, layer = ask.text(attention.TEXT), ask.options.layer
    if isinstance(model, EncoderDecoder):
        return attention.draw_both(model, tokenizer, text, layer, ask.name)
    return attention.draw(ask.body, tokenizer, text, layer, ask.name, bare=isinstance(model, Classifier))


def _with_rate(ask: Request) -> Train:
    """The recipe's training settings; a missing learning rate is chosen as for training mini."""
    if ask.train.lr is not None:
        return ask.train
    parameters = sum(parameter.numel() for parameter in ask.gpt.parameters())
    return choose_settings(ask.train, parameters, True, 1, "cpu")[0]
