"""GPT-2 from scratch.

Sources: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners" (the architecture);
Vaswani et al. 2017, arXiv:1706.03762 (attention); Ba et al. 2016, arXiv:1607.06450 (layer norm);
Hendrycks and Gimpel 2016, arXiv:1606.08415 (GELU, here in its tanh form).

Shape letters: B batch, T time (tokens), C width, H heads, D head width (C / H), V vocabulary,
N supervised positions.
"""

from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from finetune.errors import WeightsError
from finetune.models.cache import KVCache, LayerCache
from finetune.models.side_by_side import Layout, attend

IGNORE = -100  # target value of unsupervised positions
KEPT_LOGITS = 1 << 25  # 128 MiB in fp32; above this, logits are recomputed in the backward pass


@dataclass(frozen=True)
class GPTConfig:
    """The shape of a GPT-2."""

    vocab_size: int = 50257
    context: int = 1024  # longest sequence, in tokens
    width: int = 768
    layers: int = 12
    heads: int = 12
    norm_eps: float = 1e-5
    dropout: float = 0.0

    def __post_init__(self) -> None:
        sizes = (self.vocab_size, self.context, self.width, self.layers, self.heads)
        if min(sizes) < 1 or self.width % self.heads:
            raise WeightsError(
                "not a valid GPT-2 shape",
                got=str(self),
                known="sizes of at least 1, and a width divisible by the heads",
            )


class Attention(nn.Module):
    """Multi-head self-attention: softmax(Q K^T / sqrt(D)) V in each head (Vaswani et al. 2017, section 3.2).

    PyTorch's fused kernel computes it without keeping the weights; plain_attention.py writes the formula out.
    """

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.heads, self.dropout = config.heads, config.dropout
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.out = nn.Linear(config.width, config.width)

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        at: Tensor | None = None,
        cache: LayerCache | None = None,
        layout: Layout | None = None,
    ) -> Tensor:
        """Attend within x and to the cached keys of earlier tokens.

        x: (B, T, C). mask: boolean, broadcast to (B, H, T, S), true where a query may attend; S counts cached tokens
        too; None means causal. at: (B,), query these positions only; the mask is then (B, 1, 1, T).
        layout: of texts side by side, and x is then (N, C); not with the others.
        Returns (B, T or 1, C), or (N, C).
        """
        dropout = self.dropout if self.training else 0.0
        if layout is not None:
            query, key, value = self.qkv(x).unflatten(-1, (3, self.heads, -1)).unbind(1)  # (N, H, D) each
            return self.out(attend(query, key, value, layout, dropout).flatten(1))
        query, key, value = self.qkv(x).chunk(3, dim=-1)  # (B, T, C) each
        if at is not None:
            query = gather_positions(query, at)  # (B, 1, C)
        query, key, value = (self.split_heads(z) for z in (query, key, value))  # (B, H, T, D)
        if cache is not None:
            key, value = cache.extend(key, value)  # (B, H, S, D)
        causal = mask is None and (
            cache is None or x.shape[1] > 1
        )  # without a cache no shape decides: it can be traced
        y = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=causal, dropout_p=dropout)
        return self.out(y.transpose(1, 2).flatten(2))  # (B, H, T, D) -> (B, T, C)

    def split_heads(self, z: Tensor) -> Tensor:
        """(B, T, C) -> (B, H, T, D)."""
        return z.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class MLP(nn.Module):
    """Two linear layers with a GELU in between; the hidden layer is four times as wide."""

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.up = nn.Linear(config.width, 4 * config.width)
        self.down = nn.Linear(4 * config.width, config.width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        return self.down(F.gelu(self.up(x), approximate="tanh"))


class Block(nn.Module):
    """One transformer block, pre-norm: x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.norm_1 = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.attention = Attention(config)
        self.norm_2 = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.mlp = MLP(config)
        self.drop = nn.Dropout(config.dropout)

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        at: Tensor | None = None,
        cache: LayerCache | None = None,
        layout: Layout | None = None,
    ) -> Tensor:
        """(B, T, C) -> (B, T, C); with `at` (B,), only those positions are returned: (B, 1, C). layout: (N, C) -> (N, C)."""
        attended = self.attention(self.norm_1(x), mask, at, cache, layout)
        x = (x if at is None else gather_positions(x, at)) + self.drop(attended)
        return x + self.drop(self.mlp(self.norm_2(x)))


class GPT(nn.Module):
    """The decoder-only language model; its output matrix is the token embedding (tied)."""

    kind = "a GPT"

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(config.vocab_size, config.width)
        self.position_embedding = nn.Embedding(config.context, config.width)
        self.drop = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width, eps=config.norm_eps)

    @property
    def output(self) -> Tensor:
        """The output matrix (V, C)."""
        return self.token_embedding.weight

    def initialise(self, seed: int, std: float = 0.02) -> Self:
        """Draw GPT-2's random weights."""
        draw_weights(self, self.config.layers, seed, std)
        return self

    def embed(self, input_ids: Tensor, positions: Tensor | None = None) -> Tensor:
        """Token plus position embeddings: (B, T) -> (B, T, C). T is at most the context.

        positions: (B, T), for position ids other than 0 to T - 1 (packed documents).
        """
        T = input_ids.shape[1]
        if self.config.context < T:
            raise WeightsError(
                f"{T} tokens are more than the model's context",
                known=f"{self.config.context}",
                do="Shorten the text, or split it.",
            )
        if positions is None:
            positions = torch.arange(T, device=input_ids.device)
        return self.drop(self.token_embedding(input_ids) + self.position_embedding(positions))

    def hidden_states(self, input_ids: Tensor, mask: Tensor | None = None, positions: Tensor | None = None) -> Tensor:
        """The output of the last block after the final norm: (B, T) -> (B, T, C).

        A right-padded batch needs no mask: under causal attention no token attends to later ones.
        """
        x = self.embed(input_ids, positions)
        for block in self.blocks:
            x = block(x, mask)
        return self.norm(x)

    def forward(self, input_ids: Tensor) -> Tensor:
        """Logits of the next token: (B, T) -> (B, T, V)."""
        return F.linear(self.hidden_states(input_ids), self.output)

    def new_cache(self, room: int) -> KVCache:
        """An empty cache for this many positions, limited to the context length."""
        return KVCache(self.config.layers, min(room, self.config.context))

    def extend(self, input_ids: Tensor, cache: KVCache) -> Tensor:
        """Append tokens to the cache: (B, T) -> the last one's hidden state after the final norm, (B, C)."""
        T, device = input_ids.shape[1], input_ids.device
        mask = cache.mask(T, device)
        x = self.embed(input_ids, cache.positions(T, device))
        for block, layer in zip(self.blocks, cache.layers, strict=True):
            x = block(x, mask, cache=layer)
        cache.length += T
        return self.norm(x[:, -1])

    def next_logits(self, input_ids: Tensor, cache: KVCache) -> Tensor:
        """Append tokens to the cache: (B, T) -> logits of the next token, (B, V)."""
        return F.linear(self.extend(input_ids, cache), self.output)

    def generate(self, input_ids: Tensor, max_new_tokens: int, **options: Any) -> Tensor:
        """Continue sequences: (B, T) -> (B * samples, T + new). Temperature 0 is greedy decoding.

        options: as for ``finetune.models.generate.generate`` and ``Decoding``, for example temperature=0.8, top_p=0.9.
        compiled: with a step compiled for this CPU; None: if that saves time and there is a C++ compiler, which is asked
        once per machine. dtype="int8" or "int4": with the matrices rounded, and compiled where there is a compiler.
        Raises RecipeError if that is not possible.
        """
        from finetune.models.packed import generate_fast

        return generate_fast(self, input_ids, max_new_tokens, **options)

    def loss_sum(
        self,
        input_ids: Tensor,
        targets: Tensor,
        mask: Tensor | None = None,
        positions: Tensor | None = None,
        chunk: int = 256,
    ) -> Tensor:
        """Cross entropy summed over the supervised positions; divide by their number for the mean.

        input_ids, targets: (B, T); targets[b, t] is the token that should follow input_ids[b, t], or IGNORE.
        """
        return summed_loss(self.hidden_states(input_ids, mask, positions), self.output, targets, chunk)


@torch.no_grad()
def draw_weights(model: nn.Module, layers: int, seed: int, std: float) -> None:
    """GPT-2's random initialisation: normal, with the residual projections scaled by 1 / sqrt(2 * layers)."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "norm" in name or name.endswith("bias"):
            parameter.fill_(1.0 if name.endswith("weight") else 0.0)
        else:
            residual = name.endswith(("attention.out.weight", "mlp.down.weight"))
            scale = (2 * layers) ** -0.5 if residual else 1.0
            parameter.normal_(0.0, std * scale, generator=generator)


def summed_loss(hidden: Tensor, output: Tensor, targets: Tensor, chunk: int = 256, smoothing: float = 0.0) -> Tensor:
    """Summed cross entropy of hidden (B, T, C) with output matrix (V, C), computed `chunk` positions at a time.

    If all logits together are few (up to `KEPT_LOGITS`), they are kept for the backward pass instead.
    smoothing: label smoothing, the probability mass spread over all tokens (Vaswani et al. 2017, section 5.4).
    """

    def loss(part: Tensor, answers: Tensor) -> Tensor:
        return F.cross_entropy(F.linear(part, output).float(), answers, reduction="sum", label_smoothing=smoothing)

    hidden, targets = hidden.flatten(0, 1), targets.flatten()  # (B * T, C), (B * T,)
    keeps_logits = len(hidden) * len(output) <= KEPT_LOGITS
    if counts_at_once(hidden.device):
        supervised = targets != IGNORE
        hidden, targets = hidden[supervised], targets[supervised]
    else:
        chunk = max(chunk, KEPT_LOGITS // len(output))
    parts = zip(hidden.split(chunk), targets.split(chunk), strict=True)  # (chunk, C), (chunk,)
    if keeps_logits:
        losses = (loss(*part) for part in parts)
    else:
        losses = (checkpoint(loss, *part, use_reentrant=False, preserve_rng_state=False) for part in parts)
    return sum(losses, hidden.new_zeros((), dtype=torch.float32))


def counts_at_once(device: torch.device) -> bool:
    """True where the number of supervised positions is known without waiting: not on a GPU, where all are computed."""
    return device.type == "cpu"


def gather_positions(x: Tensor, at: Tensor) -> Tensor:
    """One position of each sequence: x (B, T, C), at (B,) -> (B, 1, C)."""
    return x[torch.arange(x.shape[0], device=x.device), at].unsqueeze(1)  # len(x) could not be traced


def causal_mask_at(at: Tensor, length: int) -> Tensor:
    """The causal mask for one query per sequence: at (B,) -> (B, 1, 1, T), true up to and including `at`."""
    return (torch.arange(length, device=at.device) <= at[:, None])[:, None, None, :]
