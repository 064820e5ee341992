"""The options of a from-scratch model, and the blocks on which all three architectures stand.

``Transformer`` is decoder-only; encoder.py and encoder_decoder.py hold the other two. The defaults give GPT-2, which
gpt.py writes out alone.

Sources: Vaswani et al. 2017, arXiv:1706.03762 (sinusoidal positions, post-norm, ReLU); Su et al. 2021,
arXiv:2104.09864 (rotary); Press et al. 2021, arXiv:2108.12409 (ALiBi); Shazeer 2019, arXiv:1911.02150 (multi-query);
Ainslie et al. 2023, arXiv:2305.13245 (grouped-query); Shazeer 2020, arXiv:2002.05202 (SwiGLU); Zhang and Sennrich
2019, arXiv:1910.07467 (RMS norm); Touvron et al. 2023, arXiv:2302.13971 and arXiv:2307.09288 (LLaMA); Beltagy et al.
2020, arXiv:2004.05150 (local attention); Lan et al. 2019, arXiv:1909.11942 (ALBERT: one block for all layers).

Shape letters as in gpt.py; G key/value heads, S keys.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, Self, get_args, get_origin

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from finetune.errors import WeightsError
from finetune.models.cache import KVCache, LayerCache, Source
from finetune.models.gpt import GPT, GPTConfig, draw_weights, gather_positions, summed_loss
from finetune.models.packed import generate_fast

BASE = 10_000.0  # base of the wavelengths of sinusoidal and rotary positions


@dataclass(frozen=True)
class TransformerConfig(GPTConfig):
    """A model shape with its differences from GPT-2; the defaults give GPT-2."""

    positions: Literal["learned", "sinusoidal", "rotary", "alibi"] = "learned"
    kv_heads: int | None = None  # 1 is multi-query attention; None: as many as heads
    activation: Literal["gelu", "relu", "swiglu"] = "gelu"
    norm: Literal["pre", "post", "rms"] = "pre"  # rms is pre-norm with RMS norm
    tied: bool = True  # the output matrix is the token embedding
    biases: bool = True  # in the linear layers
    last_norm: bool | None = None  # after the last block; None: only if pre-norm, since a post-norm block ends in one
    attention: Literal["full", "local", "strided"] = "full"  # local: of tokens nearer than the window only
    window: int = 128  # of local and strided attention, in tokens, the token itself included
    shared_blocks: bool = False  # the weights of one block serve all layers

    def __post_init__(self) -> None:
        super().__post_init__()
        for field in fields(self):
            known, got = get_args(field.type), getattr(self, field.name)
            if get_origin(field.type) is Literal and got not in known:
                raise WeightsError(f"unknown {field.name}", got=repr(got), known=", ".join(known))
        if self.kv_heads is not None and (self.kv_heads < 1 or self.heads % self.kv_heads):
            divisors = [str(n) for n in range(1, self.heads + 1) if self.heads % n == 0]
            raise WeightsError(
                f"kv_heads does not divide the {self.heads} heads", got=str(self.kv_heads), known=", ".join(divisors)
            )
        if self.window < 1:
            raise WeightsError("the attention window is empty", got=str(self.window), known="1 or more")
        turned = {"rotary": ("a head", self.head_width), "sinusoidal": ("the model", self.width)}
        what, size = turned.get(self.positions, ("", 0))
        if size % 2:
            raise WeightsError(
                f"{self.positions} positions need an even number of channels in {what}",
                got=str(size),
                do="Choose another width, or other heads.",
            )

    @property
    def head_width(self) -> int:
        """Channels per head."""
        return self.width // self.heads

    @property
    def mlp_width(self) -> int:
        """Channels inside the MLP; SwiGLU has three matrices, so two thirds, rounded up to a multiple of 8."""
        return 4 * self.width if self.activation != "swiglu" else 8 * -(-self.width // 3)

    def is_llama(self) -> bool:
        """Whether this is LLaMA's architecture, whatever its sizes and its number of key/value heads."""
        return asdict(self) | LLAMA | {"tied": self.tied} == asdict(self)

    def said(self) -> str:
        """The differences from GPT-2, for the screen: ``positions rotary, norm rms``."""
        usual = TransformerConfig()
        names = [field.name for field in fields(TransformerConfig) if field.name not in SIZES]
        if self.attention == "full":
            names.remove("window")
        found = [(name, getattr(self, name)) for name in names if getattr(self, name) != getattr(usual, name)]
        return ", ".join(f"{name} {str(value).lower()}" for name, value in found)

    def is_gpt2(self) -> bool:
        """Whether nothing differs from GPT-2 but the sizes."""
        return not self.said()


SIZES = {field.name for field in fields(GPTConfig)}
LLAMA: dict[str, Any] = {
    "positions": "rotary",
    "norm": "rms",
    "activation": "swiglu",
    "tied": False,
    "biases": False,
    "attention": "full",
    "shared_blocks": False,
    "last_norm": None,
}


def angles(positions: Tensor, channels: int) -> Tensor:
    """Position times frequency, one frequency per pair of channels: (B, T) -> (B, T, channels / 2)."""
    frequencies = BASE ** -(torch.arange(0, channels, 2, device=positions.device) / channels)
    return positions[..., None] * frequencies


def sinusoids(positions: Tensor, width: int) -> Tensor:
    """Vaswani et al. 2017, section 3.5, sine and cosine alternating: (B, T) -> (B, T, C)."""
    angle = angles(positions, width)
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(-2)


def rotate(x: Tensor, angle: Tensor) -> Tensor:
    """Rotate each pair of a head's channels by its angle (Su et al. 2021, eq. 34): x (B, H, T, D), angle (B, T, D / 2).

    Channel i of the first half is paired with channel i of the second, as in LLaMA's published weights. The paper pairs
    adjacent channels, which is equivalent up to channel order.
    """
    cos, sin = angle.cos()[:, None], angle.sin()[:, None]  # (B, 1, T, D / 2)
    a, b = x.float().chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1).to(x.dtype)


def alibi_slopes(heads: int) -> Tensor:
    """The slope of each head (H,): 2^(-8/H), 2^(-16/H), … 2^-8 (Press et al. 2021, section 3).

    If H is not a power of two, the remaining heads take every other slope of the next power, as in the authors' code.
    """
    power = 2 ** int(math.log2(heads))
    exponents = [8 * h / power for h in range(1, power + 1)] + [4 * h / power for h in range(1, 2 * power, 2)]
    return 2.0 ** -torch.tensor(exponents[:heads])


def alibi_bias(positions: Tensor, heads: int, mask: Tensor | None, keys: Tensor | None = None) -> Tensor:
    """ALiBi's bias on the scores: minus slope times distance, and minus infinity where masked (B, H, T, S).

    positions: (B, T) of the queries. keys: (B, S), positions of the keys if they differ. No mask means causal.
    """
    keys = positions if keys is None else keys
    distance = positions[:, None, :, None] - keys[:, None, None, :]  # (B, 1, T, S)
    slopes = alibi_slopes(heads).to(positions.device).view(-1, 1, 1)
    return (-slopes * distance.abs()).masked_fill(~(distance >= 0 if mask is None else mask), -torch.inf)


def sparse_mask(
    positions: Tensor, window: int, mask: Tensor | None, keys: Tensor | None = None, strided: bool = False
) -> Tensor:
    """The mask of local attention, true where a key is less than `window` positions away: (B, 1, T, S).

    positions, keys, mask: as for ``alibi_bias``. strided: also true at every multiple of `window` positions away, so that
    two layers reach the whole text (Child et al. 2019, arXiv:1904.10509, section 4.2, both patterns in one head).
    """
    keys = positions if keys is None else keys
    distance = positions[:, None, :, None] - keys[:, None, None, :]  # (B, 1, T, S)
    near = distance.abs() < window
    if strided:
        near |= distance % window == 0
    return near & (distance >= 0 if mask is None else mask)


def split_heads(x: Tensor, head_width: int) -> Tensor:
    """(B, T, H * D) -> (B, H, T, D)."""
    return x.unflatten(-1, (-1, head_width)).transpose(1, 2)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool, dropout: float) -> Tensor:
    """Scaled dot-product attention: q (B, H, T, D), k and v (B, G, S, D) -> (B, T, C)."""
    k, v = (z.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for z in (k, v))  # (B, H, S, D)
    y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, dropout_p=dropout)
    return y.transpose(1, 2).flatten(2)


class Attention(nn.Module):
    """Grouped-query self-attention: each key/value head serves heads / kv_heads query heads."""

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.heads, self.head_width, self.dropout = config.heads, config.head_width, config.dropout
        self.kv_heads = config.kv_heads or config.heads
        kv_width = self.kv_heads * self.head_width
        self.widths = [config.width, kv_width, kv_width]
        self.qkv = nn.Linear(config.width, sum(self.widths), bias=config.biases)
        self.out = nn.Linear(config.width, config.width, bias=config.biases)

    def forward(self, x: Tensor, mask: Tensor | None, angle: Tensor | None, cache: LayerCache | None = None) -> Tensor:
        """Attend within x and to the cached keys of earlier tokens: (B, T, C) -> (B, T, C).

        mask: boolean, or a bias on the scores, broadcast to (B, H, T, S); None means causal. angle: (B, T, D / 2),
        rotation of queries and keys, or None.
        """
        q, k, v = (split_heads(z, self.head_width) for z in self.qkv(x).split(self.widths, dim=-1))  # v (B, G, T, D)
        if angle is not None:
            q, k = rotate(q, angle), rotate(k, angle)
        if cache is not None:
            k, v = cache.extend(k, v)  # (B, G, S, D)
        causal = mask is None and x.shape[1] > 1
        return self.out(attend(q, k, v, mask, causal, self.dropout if self.training else 0.0))


class CrossAttention(nn.Module):
    """Cross-attention of a decoder to the encoder output (Vaswani et al. 2017, section 3.2.3)."""

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.head_width, self.dropout = config.head_width, config.dropout
        self.q = nn.Linear(config.width, config.width, bias=config.biases)
        self.kv = nn.Linear(config.width, 2 * (config.kv_heads or config.heads) * self.head_width, bias=config.biases)
        self.out = nn.Linear(config.width, config.width, bias=config.biases)

    def read(self, encoded: Tensor, attention_mask: Tensor) -> Source:
        """Keys and values, computed once per source: encoded (B, S, C); attention_mask (B, S), false at padding."""
        k, v = (split_heads(z, self.head_width) for z in self.kv(encoded).chunk(2, dim=-1))  # (B, G, S, D)
        return Source(k, v, attention_mask[:, None, None, :])

    def forward(self, x: Tensor, source: Source) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        q = split_heads(self.q(x), self.head_width)  # (B, H, T, D)
        return self.out(attend(q, *source, causal=False, dropout=self.dropout if self.training else 0.0))


class MLP(nn.Module):
    """down(activation(up(x))); SwiGLU is down(silu(gate(x)) * up(x))."""

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.activation = config.activation
        self.up = nn.Linear(config.width, config.mlp_width, bias=config.biases)
        if self.activation == "swiglu":
            self.gate = nn.Linear(config.width, config.mlp_width, bias=config.biases)
        self.down = nn.Linear(config.mlp_width, config.width, bias=config.biases)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        inner = self.up(x)
        if self.activation == "swiglu":
            return self.down(F.silu(self.gate(x)) * inner)
        return self.down(F.relu(inner) if self.activation == "relu" else F.gelu(inner, approximate="tanh"))


def build_norm(config: TransformerConfig) -> nn.Module:
    """A norm layer over the channels."""
    kind = nn.RMSNorm if config.norm == "rms" else nn.LayerNorm
    return kind(config.width, eps=config.norm_eps)


class Block(nn.Module):
    """One transformer block: x + part(norm(x)), or norm(x + part(x)) if post-norm, for each part in turn.

    The parts are self-attention, cross-attention in a decoder that has an encoder, and the MLP.
    """

    def __init__(self, config: TransformerConfig, cross: bool = False):
        super().__init__()
        self.post = config.norm == "post"
        self.norm_1, self.norm_2 = build_norm(config), build_norm(config)
        self.attention, self.mlp = Attention(config), MLP(config)
        if cross:
            self.norm_cross, self.cross_attention = build_norm(config), CrossAttention(config)
        self.drop = nn.Dropout(config.dropout)

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None,
        angle: Tensor | None,
        cache: LayerCache | None = None,
        source: Source | None = None,
    ) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        x = self.add(x, self.norm_1, lambda y: self.attention(y, mask, angle, cache))
        if source is not None:
            x = self.add(x, self.norm_cross, lambda y: self.cross_attention(y, source))
        return self.add(x, self.norm_2, self.mlp)

    def add(self, x: Tensor, norm: nn.Module, part: Callable[[Tensor], Tensor]) -> Tensor:
        """Apply one part with its residual connection and norm, (B, T, C) -> (B, T, C)."""
        return norm(x + self.drop(part(x))) if self.post else x + self.drop(part(norm(x)))


class Stack(nn.Module):
    """Positions, blocks and the final norm; each side of an encoder-decoder is one stack.

    tokens: has a token embedding. cross: has cross-attention. Parameters are named as in GPT.
    """

    def __init__(self, config: TransformerConfig, tokens: bool = True, cross: bool = False):
        super().__init__()
        self.config = config
        if tokens:
            self.token_embedding = nn.Embedding(config.vocab_size, config.width)
        if config.positions == "learned":
            self.position_embedding = nn.Embedding(config.context, config.width)
        self.drop = nn.Dropout(config.dropout)
        if config.shared_blocks:
            self.blocks = nn.ModuleList([Block(config, cross)] * config.layers)
        else:
            self.blocks = nn.ModuleList(Block(config, cross) for _ in range(config.layers))
        last_norm = config.norm != "post" if config.last_norm is None else config.last_norm
        self.norm = build_norm(config) if last_norm else nn.Identity()

    def initialise(self, seed: int, std: float = 0.02) -> Self:
        """Draw random weights by GPT-2's rule, as ``GPT.initialise``."""
        draw_weights(self, self.config.layers, seed, std)
        return self

    def embed(self, input_ids: Tensor, positions: Tensor | None = None) -> Tensor:
        """Token embeddings with what positions add to them: (B, T) -> (B, T, C). positions: (B, T); None: from 0."""
        positions = torch.arange(input_ids.shape[1], device=input_ids.device)[None] if positions is None else positions
        return self.add_positions(self.token_embedding(input_ids), positions)

    def add_positions(self, x: Tensor, positions: Tensor) -> Tensor:
        """Token embeddings, plus position embeddings if they are added to the input: (B, T, C), (B, T) -> (B, T, C)."""
        T = x.shape[1]
        if self.config.context < T:
            raise WeightsError(
                f"{T} tokens are more than the model's context",
                known=f"{self.config.context}",
                do="Shorten the text, or split it.",
            )
        if self.config.positions == "learned":
            x = x + self.position_embedding(positions)
        elif self.config.positions == "sinusoidal":  # scaled as in Vaswani et al. 2017, section 3.4
            x = x * math.sqrt(self.config.width) + sinusoids(positions, self.config.width)
        return self.drop(x)

    def run_blocks(
        self,
        x: Tensor,
        mask: Tensor | None,
        positions: Tensor,
        blocks: slice = slice(None),
        cache: KVCache | None = None,
        sources: Sequence[Source] | None = None,
    ) -> Tensor:
        """Run some of the blocks on embeddings or an earlier block's output: (B, T, C) -> (B, T, C).

        mask: boolean, broadcast to (B, H, T, S); None means causal. positions: (B, T), or (1, T) if all begin at 0.
        sources: keys and values for the cross-attention of each block.
        """
        T, config = x.shape[1], self.config
        angle = angles(positions, config.head_width) if config.positions == "rotary" else None
        keys = positions if cache is None else cache.positions(T, x.device, first=0)
        keys = keys.view(-1, keys.shape[-1])  # (B, S)
        if config.attention != "full":
            mask = sparse_mask(positions, config.window, mask, keys, strided=config.attention == "strided")
        if config.positions == "alibi":
            mask = alibi_bias(positions, config.heads, mask, keys)
        for number in range(config.layers)[blocks]:
            x = self.blocks[number](x, mask, angle, cache and cache.layers[number], sources and sources[number])
        return x

    def run(
        self,
        x: Tensor,
        mask: Tensor | None,
        positions: Tensor,
        cache: KVCache | None = None,
        sources: Sequence[Source] | None = None,
    ) -> Tensor:
        """Add positions, run every block and the final norm, as ``run_blocks``: embeddings (B, T, C) -> (B, T, C)."""
        return self.norm(
            self.run_blocks(self.add_positions(x, positions), mask, positions, cache=cache, sources=sources)
        )

    def run_on(self, x: Tensor, cache: KVCache, sources: Sequence[Source] | None = None) -> Tensor:
        """Append embeddings to the cache: (B, T, C) -> hidden state of the last token, (B, C)."""
        T = x.shape[1]
        x = self.run(x, cache.mask(T, x.device), cache.positions(T, x.device).view(-1, T), cache, sources)
        cache.length += T
        return x[:, -1]


class Transformer(Stack):
    """A decoder-only language model with any of these options; shared parameters are named as in GPT."""

    kind = "a from-scratch decoder"

    def __init__(self, config: TransformerConfig):
        super().__init__(config)
        if not config.tied:
            self.head = nn.Linear(config.width, config.vocab_size, bias=False)

    @property
    def output(self) -> Tensor:
        """The output matrix (V, C)."""
        return self.token_embedding.weight if self.config.tied else self.head.weight

    def hidden_states(self, input_ids: Tensor, mask: Tensor | None = None, positions: Tensor | None = None) -> Tensor:
        """The output of the last block after the final norm, as ``GPT.hidden_states``: (B, T) -> (B, T, C)."""
        if positions is None:
            positions = torch.arange(input_ids.shape[1], device=input_ids.device)[None]  # (1, T)
        return self.run(self.token_embedding(input_ids), mask, positions)

    def forward(self, input_ids: Tensor) -> Tensor:
        """Logits of the next token: (B, T) -> (B, T, V)."""
        return F.linear(self.hidden_states(input_ids), self.output)

    def loss_sum(
        self,
        input_ids: Tensor,
        targets: Tensor,
        mask: Tensor | None = None,
        positions: Tensor | None = None,
        chunk: int = 256,
    ) -> Tensor:
        """Cross entropy summed over the supervised positions, as ``GPT.loss_sum``."""
        return summed_loss(self.hidden_states(input_ids, mask, positions), self.output, targets, chunk)

    def new_cache(self, room: int) -> KVCache:
        """An empty cache for this many positions, limited to the context length."""
        return KVCache(self.config.layers, min(room, self.config.context))

    def extend(self, input_ids: Tensor, cache: KVCache) -> Tensor:
        """Append tokens to the cache, as ``GPT.extend``: (B, T) -> (B, C)."""
        return self.run_on(self.token_embedding(input_ids), cache)

    def next_logits(self, input_ids: Tensor, cache: KVCache) -> Tensor:
        """Append tokens to the cache: (B, T) -> logits of the next token, (B, V)."""
        return F.linear(self.extend(input_ids, cache), self.output)

    def generate(self, input_ids: Tensor, max_new_tokens: int, **options: Any) -> Tensor:
        """Continue sequences, as ``GPT.generate``: (B, T) -> (B * samples, T + new)."""
        return generate_fast(self, input_ids, max_new_tokens, **options)

    def drop_output(self) -> Self:
        """Drop an output matrix of its own, in place, for a model that gets another head."""
        if not self.config.tied:
            del self.head
            self.config = replace(self.config, tied=True)
        return self

    def text_layout(self, last: Tensor, T: int) -> tuple[None, Tensor]:
        """The mask (causal) and the positions (1, T) of right-padded texts whose last tokens are at `last` (B,)."""
        return None, torch.arange(T, device=last.device)[None]

    def text_state(self, states: Tensor, last: Tensor) -> Tensor:
        """What stands for a text: the state of its last token, (B, T, C) -> (B, C)."""
        return gather_positions(states, last)[:, 0]


LanguageModel = GPT | Transformer  # both continue a text
