"""Beam search, in one group of beams or in several that differ.

A finished sequence scores log probability / length ** length_penalty, as in transformers (not Wu et al. 2016,
arXiv:1609.08144, eq. 14). A prompt is done once no open beam, at its current length, scores better than the worst of
the finished sequences. Groups: diverse beam search with the Hamming diversity (Vijayakumar et al. 2018,
arXiv:1610.02424, algorithm 1): the groups choose their tokens one after the other, and a token costs
`diversity_penalty` for each beam of an earlier group that has chosen it at the same step. The cost decides what is
kept; scores are log probabilities alone. Shape letters as in gpt.py; K beams of a group.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from finetune.models.sampling import PAD, Decoding

if TYPE_CHECKING:
    from finetune.models.generate import Text

NEVER = -1e9  # the score of an unused beam
Stop = Callable[[list[int]], bool]


def beam_search(text: "Text[Any]", decoding: Decoding, end: int | None, stop: Stop | None) -> Tensor:
    """The best finished sequences of all groups: (B * samples, new)."""
    logits = text.next_logits()
    (B, V), beams, device = logits.shape, decoding.beams, logits.device
    rows = torch.arange(B, device=device).repeat_interleave(beams)
    text.select(rows)
    logits = logits[rows]
    room, K = text.ids.shape[1] - text.prompt_length, beams // decoding.beam_groups
    groups = [Group(B, K, room, decoding, device) for _ in range(decoding.beam_groups)]
    first_row = torch.arange(0, B * beams, beams, device=device)[:, None]  # of each prompt
    for length in range(1, room + 1):
        steps = decoding.process(logits.log_softmax(dim=-1), text.so_far()).view(B, len(groups), K, V)
        new = text.so_far()[:, text.prompt_length :].view(B, len(groups), K, length - 1)
        chosen: list[tuple[Tensor, Tensor]] = []
        taken = torch.zeros(B, V, device=device) if len(groups) > 1 else None
        for number, group in enumerate(groups):
            parents, tokens = group.step(steps[:, number], new[:, number], taken, length, end, stop)
            if taken is not None:
                taken.scatter_add_(1, tokens, torch.ones_like(tokens, dtype=taken.dtype))
            chosen.append((parents + number * K + first_row, tokens))
        if length == room or not any(bool(group.open.any()) for group in groups):
            break
        parents, tokens = (torch.cat(part, dim=1).flatten() for part in zip(*chosen, strict=True))
        text.select(parents)
        text.append(tokens)
        logits = text.next_logits()
    scores, done = (torch.cat([getattr(own, name) for own in groups], dim=1) for name in ("done_scores", "done"))
    best = scores.topk(decoding.samples).indices
    done = done.take_along_dim(best[:, :, None], dim=1).flatten(0, 1)
    longest = int((done != PAD).sum(dim=1).max())
    return done[:, :longest].masked_fill(done[:, :longest] == PAD, filler(end))


class Group:
    """K beams of each prompt, and the best sequences that they have finished."""

    def __init__(self, B: int, K: int, room: int, decoding: Decoding, device: torch.device):
        self.K, self.room, self.decoding = K, room, decoding
        self.scores = torch.full((B, K), NEVER, device=device)  # log probability of the open beams
        self.scores[:, 0] = 0  # all beams start from one
        self.done_scores = torch.full((B, K), NEVER, device=device)
        self.done = torch.full((B, K, room), PAD, dtype=torch.long, device=device)
        self.open = torch.ones(B, 1, dtype=torch.bool, device=device)

    def step(
        self, steps: Tensor, new: Tensor, taken: Tensor | None, length: int, end: int | None, stop: Stop | None
    ) -> tuple[Tensor, Tensor]:
        """Extend the beams by a token: the beam (B, K) and the token (B, K) that continue each new one.

        steps: log probabilities (B, K, V). new: the beams' tokens so far (B, K, length - 1). taken: how many beams of
        earlier groups have chosen each token at this step, (B, V); None for a single group.
        """
        K, V = self.K, steps.shape[-1]
        totals = (self.scores[:, :, None] + steps).flatten(1)  # (B, K V)
        if taken is None:
            best, index = totals.topk(2 * K)  # (B, 2K): enough if K of them end
            ranked = best
        else:
            ranked, index = (totals - self.decoding.penalty * taken.repeat(1, K)).topk(2 * K)
            best = totals.gather(1, index)
        parents, tokens = index // V, index % V
        grown = torch.cat([new.take_along_dim(parents[:, :, None], dim=1), tokens[:, :, None]], dim=2)
        ends = ended(grown.flatten(0, 1), end, stop).view(-1, 2 * K)

        leading = torch.arange(2 * K, device=ends.device) < K  # only the best K may finish
        closing = (ends | (length == self.room)) & self.open & leading
        finished = best / length**self.decoding.length_penalty
        self.done_scores, kept = torch.cat([self.done_scores, finished.where(closing, NEVER)], dim=1).topk(K)
        padded = torch.nn.functional.pad(grown, (0, self.room - length), value=PAD)
        self.done = torch.cat([self.done, padded], dim=1).take_along_dim(kept[:, :, None], dim=1)

        kept = (ranked + NEVER * ends).topk(K).indices
        self.scores = (best + NEVER * ends).take_along_dim(kept, dim=1)
        likeliest = self.scores.amax(dim=1, keepdim=True) / length**self.decoding.length_penalty
        self.open &= likeliest > self.done_scores[:, -1:]
        return parents.take_along_dim(kept, dim=1), tokens.take_along_dim(kept, dim=1)


def ended(new: Tensor, end: int | None, stop: Stop | None) -> Tensor:
    """Which sequences the latest token ends, (B, T) -> (B,)."""
    found = torch.zeros(len(new), dtype=torch.bool, device=new.device)
    if end is not None:
        found |= new[:, -1] == end
    if stop is not None:
        found |= torch.tensor([stop(ids) for ids in new.tolist()], device=new.device)
    return found


def filler(end: int | None) -> int:
    """What stands behind the end of a sequence."""
    return 0 if end is None else end
