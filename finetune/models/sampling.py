"""Choosing the next token from logits: decoding options and logit filters.

Sources: Keskar et al. 2019, arXiv:1909.05858, section 4.1 (repetition penalty); Paulus et al. 2017, arXiv:1705.04304,
section 2.5 (no repeated n-gram); Fan et al. 2018, arXiv:1805.04833 (top-k); Holtzman et al. 2020, arXiv:1904.09751
(top-p); Nguyen et al. 2024, arXiv:2407.01082 (min-p). Shape letters as in gpt.py.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from finetune.errors import RecipeError

PAD = -1  # padding value in token sequences


@dataclass(frozen=True)
class Decoding:
    """How the next tokens are chosen: sampling, greedy (temperature 0), or beam search."""

    temperature: float | None = None  # None: 1; unused under beam search
    top_k: int | None = None  # sample from the k most likely tokens
    top_p: float | None = None  # from the smallest set of tokens whose probability reaches p; 1: all
    min_p: float | None = None  # from tokens with at least this fraction of the top token's probability
    repetition_penalty: float = 1.0  # above 1: tokens already present become less likely
    no_repeat_ngram: int | None = None  # never repeat an n-gram of this length
    beams: int = 1  # number of beams in beam search
    beam_groups: int = 1  # above 1: diverse beam search, the beams in groups that choose different tokens
    diversity_penalty: float | None = None  # cost of a token for each beam of an earlier group; None: 0.5
    length_penalty: float = 1.0  # for beam search: a score is log probability / length ** length_penalty
    samples: int = 1  # continuations of each prompt
    seed: int = 0

    def __post_init__(self) -> None:
        drawn = {name: getattr(self, name) for name in ("temperature", "top_k", "top_p", "min_p")}
        chosen = [f"{name} {value}" for name, value in drawn.items() if value]
        warm = self.temperature in (None, 0) or 1e-4 <= self.temperature <= 1e4
        for name, fine, known in (
            ("temperature", warm, "0, or 0.0001 to 10000"),
            ("top_k", self.top_k is None or self.top_k >= 1, "1 or more"),
            ("top_p", self.top_p is None or 0 < self.top_p <= 1, "above 0, at most 1"),
            ("min_p", self.min_p is None or 0 <= self.min_p <= 1, "from 0 to 1"),
            ("repetition_penalty", 1e-3 <= self.repetition_penalty <= 1e3, "from 0.001 to 1000"),
            ("length_penalty", abs(self.length_penalty) <= 10, "from -10 to 10"),
            ("seed", 0 <= self.seed < 2**63, "from 0 to 2 ** 63 - 1"),
            ("no_repeat_ngram", self.no_repeat_ngram is None or self.no_repeat_ngram >= 1, "1 or more"),
            ("beams", self.beams >= 1, "1 or more"),
            ("beam_groups", 1 <= self.beam_groups <= self.beams, f"1 to the number of beams, {self.beams}"),
            ("diversity_penalty", 0 < self.penalty <= 100, "above 0, at most 100"),
            ("samples", self.samples >= 1, "1 or more"),
        ):
            if not fine:
                raise RecipeError(f"{name} is out of range", got=str(getattr(self, name)), known=known)
        if self.beams % self.beam_groups:
            raise RecipeError(
                "the beams cannot be divided into groups of equal size",
                got=f"{self.beams} beams in {self.beam_groups} groups",
            )
        if self.diversity_penalty is not None and self.beam_groups == 1:
            raise RecipeError(
                "diversity_penalty needs several groups of beams",
                got=f"{self.diversity_penalty}",
                do="Set beam_groups.",
            )
        if self.beams > 1 and chosen:
            raise RecipeError(
                "beam search does not sample", got=", ".join(chosen), do="Leave these options out, or set beams to 1."
            )
        most = self.beams if self.beams > 1 else 1 if self.temperature == 0 else None
        if most and self.samples > most:
            raise RecipeError(
                "cannot return this many different samples",
                got=str(self.samples),
                known=f"at most {most} with {'beam search' if most > 1 else 'temperature 0'}",
            )

    @property
    def penalty(self) -> float:
        """The diversity penalty, by default in the middle of the range that the paper finds to work (0.2 to 0.8)."""
        return 0.5 if self.diversity_penalty is None else self.diversity_penalty

    def process(self, scores: Tensor, ids: Tensor) -> Tensor:
        """Apply the repetition rules to logits or log probabilities: (B, V), ids (B, T) -> (B, V)."""
        if self.repetition_penalty != 1:
            scores = penalise_repetition(scores, ids, self.repetition_penalty)
        if self.no_repeat_ngram is not None:
            scores = ban_repeated_ngrams(scores, ids, self.no_repeat_ngram)
        return scores

    def choose(self, logits: Tensor, ids: Tensor, generator: torch.Generator) -> Tensor:
        """The next token of each sequence: (B, V), ids (B, T) -> (B,)."""
        logits = self.process(logits, ids)
        if self.temperature == 0:
            return logits.argmax(dim=-1)
        temperature = 1.0 if self.temperature is None else self.temperature
        logits = logits - logits.amax(dim=-1, keepdim=True)  # the most likely token stays finite
        probabilities = filter_logits(logits, temperature, self.top_k, self.top_p, self.min_p).softmax(dim=-1)
        return torch.multinomial(probabilities, 1, generator=generator)[:, 0]


def filter_logits(
    logits: Tensor,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
) -> Tensor:
    """Divide by the temperature, then set the logits of excluded tokens to minus infinity: (B, V) -> (B, V).

    top-k comes first, then top-p over the tokens that top-k kept. min-p compares two probabilities, so its order does
    not matter.
    """
    logits = logits / temperature
    if top_k is not None:
        kth = logits.topk(min(top_k, logits.shape[-1])).values[:, -1:]
        logits = logits.masked_fill(logits < kth, -torch.inf)
    if top_p is not None and top_p < 1:  # a running sum of 1 in fp32 would leave out the least likely
        ranked, order = logits.sort(descending=True)
        probability = ranked.softmax(dim=-1)
        outside = probability.cumsum(dim=-1) - probability >= top_p  # more likely tokens already reach p
        logits = logits.masked_fill(outside.scatter(1, order, outside), -torch.inf)
    if min_p is not None:
        probability = logits.softmax(dim=-1)
        logits = logits.masked_fill(probability < min_p * probability.amax(dim=-1, keepdim=True), -torch.inf)
    return logits


def penalise_repetition(scores: Tensor, ids: Tensor, penalty: float) -> Tensor:
    """Divide positive and multiply negative logits of each token in ids (B, T): (B, V) -> (B, V)."""
    return scores.where(~_mark(scores, ids), torch.where(scores < 0, scores * penalty, scores / penalty))


def ban_repeated_ngrams(scores: Tensor, ids: Tensor, n: int) -> Tensor:
    """Set tokens that would repeat an n-gram already in ids (B, T) to minus infinity: (B, V) -> (B, V).

    If that would ban every token, no token is banned.
    """
    T = ids.shape[1]
    if n > T:
        return scores
    grams = ids.unfold(1, n, 1)  # (B, T - n + 1, n)
    begun = (grams[:, :, :-1] == ids[:, None, T - n + 1 :]).all(dim=-1)  # prefix = end of the sequence
    banned = _mark(scores, grams[:, :, -1].masked_fill(~begun, PAD))
    return scores.masked_fill(banned & ~banned.all(dim=-1, keepdim=True), -torch.inf)


def _mark(scores: Tensor, ids: Tensor) -> Tensor:
    """Which tokens occur in ids, (B, T) -> (B, V); PAD is ignored."""
    V = scores.shape[1]
    marks = torch.zeros(len(scores), V + 1, dtype=torch.bool, device=scores.device)
    return marks.scatter_(1, ids.masked_fill(ids == PAD, V), True)[:, :V]
