"""Text from a GPT: greedy or sampled, token by token.

Sources: Fan et al. 2018, arXiv:1805.04833 (top-k); Holtzman et al. 2020, arXiv:1904.09751 (top-p).
Shape letters as in gpt.py.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from finetune.models.gpt import GPT


def filter_logits(logits: Tensor, temperature: float, top_k: int | None = None, top_p: float | None = None) -> Tensor:
    """Divide by the temperature, then put everything outside of top-k and top-p at minus infinity: (B, V) -> (B, V).

    top_k keeps the k most probable tokens; top_p the smallest set of them whose probability reaches p.
    """
    logits = logits / temperature
    if top_k is not None:
        kth = logits.topk(min(top_k, logits.shape[-1])).values[:, -1:]
        logits = logits.masked_fill(logits < kth, -torch.inf)
    if top_p is not None:
        ranked, order = logits.sort(descending=True)
        probability = ranked.softmax(dim=-1)
        outside = probability.cumsum(dim=-1) - probability >= top_p  # what stands before already reaches p
        logits = logits.masked_fill(outside.scatter(1, order, outside), -torch.inf)
    return logits


@torch.inference_mode()
def generate(model: GPT, input_ids: Tensor, max_new_tokens: int, temperature: float = 1.0, top_k: int | None = None,
             top_p: float | None = None, end: int | None = None, seed: int = 0) -> Tensor:
    """Continue sequences: (B, T) -> (B, T + new). Temperature 0 takes the most probable token.

    A sequence longer than the context goes on from its last `context` tokens. Generation stops early once every
    sequence has produced `end`; what follows an `end` is `end`.
    """
    generator = torch.Generator(device=input_ids.device).manual_seed(seed)
    ended = torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)
    for _ in range(max_new_tokens):
        hidden = model.hidden_states(input_ids[:, -model.config.context:])[:, -1]  # (B, C)
        logits = F.linear(hidden, model.token_embedding.weight)
        if temperature == 0:
            chosen = logits.argmax(dim=-1)
        else:
            probabilities = filter_logits(logits, temperature, top_k, top_p).softmax(dim=-1)
            chosen = torch.multinomial(probabilities, 1, generator=generator)[:, 0]
        if end is not None:
            chosen = chosen.masked_fill(ended, end)
            ended |= chosen == end
        input_ids = torch.cat([input_ids, chosen[:, None]], dim=1)
        if end is not None and ended.all():
            break
    return input_ids
