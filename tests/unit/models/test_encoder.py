"""What the encoder-only model promises: pads count for nothing, hidden words are learnt, a text gets a class."""

import math

import pytest
import torch
from torch.nn import functional as F

from finetune.errors import WeightsError
from finetune.models.encoder import Encoder
from finetune.models.gpt import IGNORE
from finetune.models.heads import Classifier
from finetune.models.transformer import TransformerConfig

SHAPE = {"vocab_size": 61, "context": 24, "width": 32, "layers": 2, "heads": 4}
OPTIONS = {
    "gpt-2": {},
    "bert": {"norm": "post"},
    "rotary": {"positions": "rotary", "norm": "rms", "kv_heads": 2},
    "alibi": {"positions": "alibi"},
    "sinusoidal": {"positions": "sinusoidal"},
}


@pytest.fixture(params=OPTIONS.values(), ids=OPTIONS)
def encoder(request) -> Encoder:
    """Each option in turn."""
    return Encoder(TransformerConfig(**SHAPE, **request.param)).initialise(1, std=0.2).eval()


def padded(ids: torch.Tensor, before: int, after: int) -> tuple[torch.Tensor, torch.Tensor]:
    """One text with pads, which are tokens too, and the mask: (T,) -> (1, before + T + after) each."""
    return F.pad(ids, (before, after), value=7)[None], F.pad(torch.ones_like(ids).bool(), (before, after))[None]


@torch.no_grad()
def test_pads_on_either_side_change_nothing(encoder):
    ids = torch.tensor([3, 9, 41, 7, 22, 5])
    alone = encoder(ids[None])
    for before, after in ((0, 5), (5, 0), (18, 0), (4, 3)):
        found = encoder(*padded(ids, before, after))[:, before : before + 6]
        torch.testing.assert_close(found, alone, atol=1e-5, rtol=0)
    assert (encoder(padded(ids, 4, 0)[0])[:, 4:] - alone).abs().max() > 0.01  # unless nobody is told which they are


@torch.no_grad()
def test_every_token_sees_every_other(encoder):
    ids = torch.randint(0, 61, (1, 12), generator=torch.Generator().manual_seed(1))
    logits = encoder(ids)
    for changed in (0, 6, 11):
        other = ids.clone()
        other[:, changed] += 1 if other[0, changed] < 60 else -1
        assert ((encoder(other) - logits).abs().amax(-1) > 1e-4).all()


def test_the_loss_is_that_of_the_hidden_tokens(encoder):
    ids = torch.randint(0, 61, (3, 12), generator=torch.Generator().manual_seed(2))
    targets = torch.full_like(ids, IGNORE)
    targets[0, 3], targets[1, 8:], targets[2, ::5] = 4, 11, 0
    attention_mask = torch.arange(12) < torch.tensor([12, 12, 6])[:, None]
    expected = sum(
        -encoder(ids, attention_mask)[at].log_softmax(-1)[targets[at]]
        for at in map(tuple, (targets != IGNORE).nonzero().tolist())
    )
    torch.testing.assert_close(encoder.loss_sum(ids, targets, attention_mask, chunk=3), expected)


def test_the_encoder_learns_what_only_both_sides_tell():
    """The hidden middle of three tokens is the sum of its neighbours, modulo 8."""
    encoder = Encoder(TransformerConfig(vocab_size=9, context=3, width=32, layers=2, heads=2)).initialise(1)
    optimizer = torch.optim.AdamW(encoder.parameters(), 5e-3)
    left, right = torch.arange(64) // 8, torch.arange(64) % 8
    ids = torch.stack([left, torch.full_like(left, 8), right], dim=1)
    targets = torch.full_like(ids, IGNORE)
    targets[:, 1] = (left + right) % 8
    first = encoder.loss_sum(ids, targets).item() / 64
    for _ in range(150):
        optimizer.zero_grad()
        loss = encoder.loss_sum(ids, targets) / 64
        loss.backward()
        optimizer.step()
    assert first == pytest.approx(math.log(9), abs=0.2) and loss.item() < 0.5  # log 8 is all that one side tells


@torch.no_grad()
def test_the_classifier_reads_the_mean_of_the_real_tokens(encoder):
    model, last = Classifier(encoder, classes=3).initialise_head(4).eval(), torch.tensor([5])
    ids = torch.tensor([3, 9, 41, 7, 22, 5])
    alone = model(ids[None], last)
    torch.testing.assert_close(alone, encoder.hidden_states(ids[None]).mean(dim=1) @ model.head.weight.T)
    for after in (1, 5, 18):
        batch = padded(ids, 0, after)[0]
        torch.testing.assert_close(model(batch, last), alone, atol=1e-5, rtol=0)
        for first in (1, 2):  # from what frozen blocks left
            states = model.lower(batch, last, first)
            torch.testing.assert_close(model(states, last, first), alone, atol=1e-5, rtol=0)


def test_what_an_encoder_cannot_do_is_refused(encoder):
    with pytest.raises(WeightsError, match="25 tokens are more than the model's context; known: 24"):
        encoder(torch.zeros(1, 25, dtype=torch.long))
    with pytest.raises(WeightsError, match="an encoder's output matrix is the token embedding; got tied false"):
        Encoder(TransformerConfig(**SHAPE, tied=False))
