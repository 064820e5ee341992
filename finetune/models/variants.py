"""What later decoders changed in GPT-2, one option each; for training from scratch.

Sources: Vaswani et al. 2017, arXiv:1706.03762 (sinusoidal positions, post-norm, ReLU); Su et al. 2021,
arXiv:2104.09864 (rotary); Press et al. 2021, arXiv:2108.12409 (ALiBi); Shazeer 2019, arXiv:1911.02150 (multi-query);
Ainslie et al. 2023, arXiv:2305.13245 (grouped-query); Shazeer 2020, arXiv:2002.05202 (SwiGLU); Zhang and Sennrich
2019, arXiv:1910.07467 (RMS norm); Touvron et al. 2023, arXiv:2302.13971 and arXiv:2307.09288 (LLaMA).

Shape letters as in gpt.py; G key/value heads.
"""

import math
from dataclasses import dataclass, fields
from typing import Literal, get_args, get_origin

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from finetune.errors import WeightsError
from finetune.models.gpt import GPT, GPTConfig, summed_loss

BASE = 10_000.0  # of the wavelengths, for sinusoidal and rotary positions


@dataclass(frozen=True)
class VariantConfig(GPTConfig):
    """A shape and what differs from GPT-2; the defaults are GPT-2 itself."""

    positions: Literal["learned", "sinusoidal", "rotary", "alibi"] = "learned"
    kv_heads: int | None = None  # 1 is multi-query attention; none: as many as heads
    activation: Literal["gelu", "relu", "swiglu"] = "gelu"
    norm: Literal["pre", "post", "rms"] = "pre"  # rms is a pre-norm too
    tied: bool = True  # the output matrix is the token embedding
    biases: bool = True  # in the linear layers

    def __post_init__(self):
        super().__post_init__()
        for field in fields(self):
            known, got = get_args(field.type), getattr(self, field.name)
            if get_origin(field.type) is Literal and got not in known:
                raise WeightsError(f"{field.name} that no variant has", got=repr(got), known=", ".join(known))
        if self.kv_heads is not None and (self.kv_heads < 1 or self.heads % self.kv_heads):
            divisors = [str(n) for n in range(1, self.heads + 1) if self.heads % n == 0]
            raise WeightsError(f"kv_heads that do not divide the {self.heads} heads", got=str(self.kv_heads),
                               known=", ".join(divisors))
        turned = {"rotary": ("a head", self.head_width), "sinusoidal": ("the model", self.width)}
        what, size = turned.get(self.positions, ("", 0))
        if size % 2:
            raise WeightsError(f"{self.positions} positions pair the channels of {what}", got=f"{size} of them",
                               known="even numbers", do="Choose another width, or other heads.")

    @property
    def head_width(self) -> int:
        """Channels of a head."""
        return self.width // self.heads

    @property
    def mlp_width(self) -> int:
        """Channels inside the MLP; SwiGLU has three matrices, so two thirds, rounded up to a multiple of 8."""
        return 4 * self.width if self.activation != "swiglu" else 8 * -(-self.width // 3)


LLAMA_SHAPE = VariantConfig(positions="rotary", kv_heads=4, activation="swiglu", norm="rms", tied=False, biases=False)


def angles(positions: Tensor, channels: int) -> Tensor:
    """Position times frequency, a frequency for each pair of channels: (B, T) -> (B, T, channels / 2)."""
    frequencies = BASE ** -(torch.arange(0, channels, 2, device=positions.device) / channels)
    return positions[..., None] * frequencies


def sinusoids(positions: Tensor, width: int) -> Tensor:
    """Vaswani et al. 2017, section 3.5, sine and cosine by turns: (B, T) -> (B, T, C)."""
    angle = angles(positions, width)
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(-2)


def rotate(x: Tensor, angle: Tensor) -> Tensor:
    """Turn each pair of a head's channels by its angle (Su et al. 2021, eq. 34): x (B, H, T, D), angle (B, T, D / 2).

    Pairs are channel i of the first half with channel i of the second, as LLaMA's public weights have them; the
    paper's are neighbours, which is the same up to the order of the channels.
    """
    cos, sin = angle.cos()[:, None], angle.sin()[:, None]  # (B, 1, T, D / 2)
    a, b = x.float().chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1).to(x.dtype)


def alibi_slopes(heads: int) -> Tensor:
    """The slope of each head (H,): 2^(-8/H), 2^(-16/H), … 2^-8 (Press et al. 2021, section 3).

    Between powers of two the heads left over take every other slope of twice as many heads, as the authors' code does.
    """
    power = 2 ** int(math.log2(heads))
    exponents = [8 * h / power for h in range(1, power + 1)] + [4 * h / power for h in range(1, 2 * power, 2)]
    return 2.0 ** -torch.tensor(exponents[:heads])


def alibi_bias(positions: Tensor, heads: int, mask: Tensor | None) -> Tensor:
    """What is added to the scores: minus slope times distance, minus infinity where the mask forbids (B, H, T, T)."""
    if mask is None:
        T = positions.shape[1]
        mask = torch.ones(T, T, dtype=torch.bool, device=positions.device).tril()
    distance = positions[:, None, :, None] - positions[:, None, None, :]  # (B, 1, T, T)
    slopes = alibi_slopes(heads).to(positions.device).view(-1, 1, 1)
    return (-slopes * distance).masked_fill(~mask, -torch.inf)


class Attention(nn.Module):
    """Self-attention in which a key/value head serves heads / kv_heads query heads."""

    def __init__(self, config: VariantConfig):
        super().__init__()
        self.heads, self.head_width, self.dropout = config.heads, config.head_width, config.dropout
        self.kv_heads = config.kv_heads or config.heads
        kv_width = self.kv_heads * self.head_width
        self.widths = [config.width, kv_width, kv_width]
        self.qkv = nn.Linear(config.width, sum(self.widths), bias=config.biases)
        self.out = nn.Linear(config.width, config.width, bias=config.biases)

    def forward(self, x: Tensor, mask: Tensor | None, angle: Tensor | None) -> Tensor:
        """(B, T, C) -> (B, T, C).

        mask: boolean or added to the scores, broadcast to (B, H, T, T); none means causal. angle: (B, T, D / 2) by
        which queries and keys are turned, or none.
        """
        q, k, v = (z.unflatten(-1, (-1, self.head_width)).transpose(1, 2)
                   for z in self.qkv(x).split(self.widths, dim=-1))  # (B, H, T, D), (B, G, T, D), (B, G, T, D)
        if angle is not None:
            q, k = rotate(q, angle), rotate(k, angle)
        k, v = (z.repeat_interleave(self.heads // self.kv_heads, dim=1) for z in (k, v))  # (B, H, T, D)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None,
                                           dropout_p=self.dropout if self.training else 0.0)
        return self.out(y.transpose(1, 2).flatten(2))


class MLP(nn.Module):
    """down(activation(up(x))); SwiGLU is down(silu(gate(x)) * up(x))."""

    def __init__(self, config: VariantConfig):
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


def build_norm(config: VariantConfig) -> nn.Module:
    """A norm over the width."""
    kind = nn.RMSNorm if config.norm == "rms" else nn.LayerNorm
    return kind(config.width, eps=config.norm_eps)


class Block(nn.Module):
    """One transformer block: x + part(norm(x)), or norm(x + part(x)) if post-norm, for attention and then the MLP."""

    def __init__(self, config: VariantConfig):
        super().__init__()
        self.post = config.norm == "post"
        self.norm_1, self.norm_2 = build_norm(config), build_norm(config)
        self.attention, self.mlp = Attention(config), MLP(config)
        self.drop = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, mask: Tensor | None, angle: Tensor | None) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        if self.post:
            x = self.norm_1(x + self.drop(self.attention(x, mask, angle)))
            return self.norm_2(x + self.drop(self.mlp(x)))
        x = x + self.drop(self.attention(self.norm_1(x), mask, angle))
        return x + self.drop(self.mlp(self.norm_2(x)))


class Variant(nn.Module):
    """A decoder-only language model of any of these shapes; parameters are called as in GPT where both have them."""

    def __init__(self, config: VariantConfig):
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(config.vocab_size, config.width)
        if config.positions == "learned":
            self.position_embedding = nn.Embedding(config.context, config.width)
        self.drop = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = nn.Identity() if config.norm == "post" else build_norm(config)  # a post-norm block ends in one
        if not config.tied:
            self.head = nn.Linear(config.width, config.vocab_size, bias=False)

    initialise = GPT.initialise  # the same rule, by the same names

    @property
    def output(self) -> Tensor:
        """The output matrix (V, C)."""
        return self.token_embedding.weight if self.config.tied else self.head.weight

    def embed(self, input_ids: Tensor, positions: Tensor) -> Tensor:
        """Token embeddings, with positions where they are added here: (B, T) -> (B, T, C)."""
        x = self.token_embedding(input_ids)
        if self.config.positions == "learned":
            x = x + self.position_embedding(positions)
        elif self.config.positions == "sinusoidal":  # tokens scaled as in Vaswani et al. 2017, section 3.4
            x = x * math.sqrt(self.config.width) + sinusoids(positions, self.config.width)
        return self.drop(x)

    def hidden_states(self, input_ids: Tensor, mask: Tensor | None = None,
                      positions: Tensor | None = None) -> Tensor:
        """The normed output of the last block, as ``GPT.hidden_states``: (B, T) -> (B, T, C)."""
        T = input_ids.shape[1]
        if self.config.context < T:
            raise WeightsError(f"{T} tokens are more than the model's context", known=f"{self.config.context}",
                               do="Cut the text, or split it.")
        if positions is None:
            positions = torch.arange(T, device=input_ids.device)[None]  # (1, T)
        x = self.embed(input_ids, positions)
        angle = angles(positions, self.config.head_width) if self.config.positions == "rotary" else None
        if self.config.positions == "alibi":
            mask = alibi_bias(positions, self.config.heads, mask)
        for block in self.blocks:
            x = block(x, mask, angle)
        return self.norm(x)

    def forward(self, input_ids: Tensor) -> Tensor:
        """Logits of the next token: (B, T) -> (B, T, V)."""
        return F.linear(self.hidden_states(input_ids), self.output)

    def loss_sum(self, input_ids: Tensor, targets: Tensor, mask: Tensor | None = None,
                 positions: Tensor | None = None, chunk: int = 256) -> Tensor:
        """Cross entropy summed over the supervised positions, as ``GPT.loss_sum``."""
        return summed_loss(self.hidden_states(input_ids, mask, positions), self.output, targets, chunk)
