"""Encoders and encoder-decoders initialised from a GPT (Rothe et al. 2020, arXiv:1907.12461).

Both sides copy every tensor of the GPT; cross-attention and its norms, which a GPT lacks, are randomly initialised.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from typing import cast

import torch
from torch import nn

from finetune.models.encoder import Encoder
from finetune.models.encoder_decoder import EncoderDecoder, EncoderDecoderConfig
from finetune.models.gpt import GPT
from finetune.models.transformer import Block, TransformerConfig


@dataclass
class WarmStart:
    """Where every tensor of the GPT was copied, and which tensors are new."""

    copied: dict[str, list[str]] = field(default_factory=dict)  # name in the GPT -> our names that got its values
    fresh: list[str] = field(default_factory=list)  # our tensors without a counterpart in the GPT
    new_tokens: int = 0  # rows added to the token embedding


def warm_encoder(gpt: GPT, seed: int, new_tokens: int = 0) -> tuple[Encoder, WarmStart]:
    """An encoder with the GPT's shape and weights, and this many new rows after its token embeddings."""
    shape = asdict(gpt.config) | {"vocab_size": gpt.config.vocab_size + new_tokens}
    encoder = Encoder(TransformerConfig(**shape)).initialise(seed)
    return encoder, _copy(gpt, encoder, sides=("",))


def warm_encoder_decoder(
    gpt: GPT, seed: int, zero_init_cross: bool = False, layers: tuple[int, int] | None = None
) -> tuple[EncoderDecoder, WarmStart]:
    """An encoder-decoder with the GPT's shape and its weights on both sides.

    layers: number of the GPT's lowest blocks to use in the encoder and in the decoder; None: all blocks in both.
    zero_init_cross: initialise the cross-attention's output to zero, so that the decoder equals the GPT until it learns
    to use the source. Rothe et al. initialise it randomly like the other new weights.
    """
    encoder, decoder = layers or (gpt.config.layers, gpt.config.layers)
    shape = asdict(gpt.config) | {"layers": decoder, "encoder_layers": encoder}
    model = EncoderDecoder(EncoderDecoderConfig(**shape)).initialise(seed)
    report = _copy(lowest_blocks(gpt, max(encoder, decoder)), model, sides=("", "encoder.", "decoder."))
    if zero_init_cross:
        zero_cross_attention(model)
    return model, report


def zero_cross_attention(model: EncoderDecoder) -> None:
    """Set the output of the cross-attention to zero, so that the decoder begins without its source."""
    for block in cast(Iterable[Block], model.decoder.blocks):  # the type of all blocks
        for parameter in block.cross_attention.out.parameters():
            nn.init.zeros_(parameter)


def lowest_blocks(gpt: GPT, layers: int) -> GPT:
    """A copy of the GPT with only its lowest blocks; the GPT itself if it has no more."""
    if layers == gpt.config.layers:
        return gpt
    cut = GPT(replace(gpt.config, layers=layers))
    theirs = gpt.state_dict()
    cut.load_state_dict({name: theirs[name] for name in cut.state_dict()})
    return cut


@torch.no_grad()
def _copy(gpt: GPT, model: nn.Module, sides: tuple[str, ...]) -> WarmStart:
    ours, report = dict(model.named_parameters()), WarmStart()
    for name, tensor in gpt.named_parameters():
        report.copied[name] = [side + name for side in sides if side + name in ours]
        assert report.copied[name], f"{name} has no place: adapters are merged before a model begins from another"
        for place in report.copied[name]:
            ours[place][: len(tensor)].copy_(tensor)
    report.fresh = sorted(ours.keys() - {place for places in report.copied.values() for place in places})
    report.new_tokens = len(ours["token_embedding.weight"]) - gpt.config.vocab_size
    return report
