"""GPT-2's forward pass written out, with parts that can be replaced by a learner's. Shape letters as in models/gpt.py."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

from finetune.models.gpt import GPT, Block
from finetune.tokenizer import Tokenizer

Forward = Callable[[Tensor], Tensor]  # token ids (1, T) -> logits (1, T, V)
Attend = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
NEW_TOKENS = 12


def causal(length: int) -> Tensor:
    """True where a query (row) may attend to a key (column): (T, T)."""
    return torch.ones(length, length, dtype=torch.bool).tril()


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """torch's layer norm, with the arguments of the exercise."""
    return F.layer_norm(x, weight.shape, weight, bias, eps)


@dataclass(frozen=True)
class Parts:
    """The replaceable parts of the pass; by default those of the model."""

    mask: Callable[[int], Tensor] = causal
    attend: Attend = F.scaled_dot_product_attention  # query, key, value, mask
    norm: Callable[[Tensor, Tensor, Tensor, float], Tensor] = layer_norm
    head: Callable[[Tensor, Tensor], Tensor] = F.linear  # hidden states, token embedding


def logits_with(gpt: GPT, parts: Parts) -> Forward:
    """The model's forward pass with these parts."""

    def forward(ids: Tensor) -> Tensor:
        mask = parts.mask(ids.shape[1])
        x = gpt.token_embedding.weight[ids] + gpt.position_embedding.weight[: ids.shape[1]]
        for block in _blocks(gpt):
            q, k, v = _heads(block, _norm(parts, x, block.norm_1))
            attended = parts.attend(q, k, v, mask)
            x = x + block.attention.out(attended.transpose(1, 2).flatten(2))
            x = x + block.mlp(_norm(parts, x, block.norm_2))
        return parts.head(_norm(parts, x, gpt.norm), gpt.token_embedding.weight)

    return forward


def logits_with_cache(gpt: GPT, extend: Callable[[Tensor | None, Tensor], Tensor]) -> Forward:
    """The forward pass one token at a time: each token's keys and values are appended to those of earlier tokens.

    extend: the cached keys, or None, and the new ones, (B, H, 1, D) -> all of them, (B, H, S, D).
    """

    def forward(ids: Tensor) -> Tensor:
        cache: list[tuple[Tensor | None, Tensor | None]] = [(None, None)] * gpt.config.layers
        found = []
        for position in range(ids.shape[1]):
            x = gpt.token_embedding.weight[ids[:, position : position + 1]] + gpt.position_embedding.weight[position]
            for layer, block in enumerate(_blocks(gpt)):
                q, k, v = _heads(block, block.norm_1(x))
                keys, values = extend(cache[layer][0], k), extend(cache[layer][1], v)
                cache[layer] = keys, values
                attended = F.scaled_dot_product_attention(q, keys, values)
                x = x + block.attention.out(attended.transpose(1, 2).flatten(2))
                x = x + block.mlp(block.norm_2(x))
            found.append(gpt.norm(x) @ gpt.token_embedding.weight.T)
        return torch.cat(found, dim=1)

    return forward


def continued(forward: Forward, tokenizer: Tokenizer, prompt: list[int], new: int = NEW_TOKENS) -> str:
    """The greedy continuation of a prompt. prompt: token ids, the end-of-text token first."""
    ids = list(prompt)
    for _ in range(new):
        ids.append(int(forward(torch.tensor([ids]))[0, -1].argmax()))
    return tokenizer.decode(ids[1:])


def _blocks(gpt: GPT) -> list[Block]:
    return cast(list[Block], list(gpt.blocks))


def _norm(parts: Parts, x: Tensor, own: torch.nn.LayerNorm) -> Tensor:
    return parts.norm(x, own.weight, own.bias, own.eps)


def _heads(block: Block, x: Tensor) -> tuple[Tensor, ...]:
    """Queries, keys and values of a block: (B, T, C) -> three of (B, H, T, D)."""
    return tuple(block.attention.split_heads(z) for z in block.attention.qkv(x).chunk(3, dim=-1))
