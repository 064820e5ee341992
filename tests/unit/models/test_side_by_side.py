"""Texts side by side give what the padded batch gives, and padding stays where removing it would not pay."""

import pytest
import torch

from finetune.models import side_by_side
from finetune.models.gpt import GPT, Block, GPTConfig
from finetune.models.heads import Classifier
from finetune.models.side_by_side import Layout, attend, real_tokens_of

LAST = torch.tensor([11, 0, 5, 5, 2])


@pytest.fixture
def shapes(monkeypatch) -> list[int]:
    """The numbers of dimensions of what blocks read."""
    seen, forward = [], Block.forward
    monkeypatch.setattr(
        Block, "forward", lambda self, x, *more, **named: seen.append(x.dim()) or forward(self, x, *more, **named)
    )
    return seen


def gradients(dropout: float = 0.0) -> dict[str, torch.Tensor]:
    """Of a loss on logits of texts of 12, 1, 6, 6 and 3 tokens, and the logits."""
    model = (
        Classifier(GPT(GPTConfig(50, 12, 32, 3, 2, dropout=dropout)).initialise(1, std=0.2), 3)
        .initialise_head(2)
        .train()
    )
    ids = torch.randint(50, (5, 12), generator=torch.Generator().manual_seed(3))
    torch.manual_seed(4)
    logits = model(ids, LAST)
    torch.nn.functional.cross_entropy(logits, torch.tensor([0, 1, 2, 0, 1])).backward()
    return {name: own.grad for name, own in model.named_parameters()} | {"logits": logits.detach()}


def test_logits_and_gradients_are_those_of_the_padded_batch(shapes, monkeypatch):
    found = gradients()
    assert shapes == [2, 2, 3]  # the last block computes one position of each text
    monkeypatch.setattr(side_by_side, "WORTH_IT", 1)
    shapes.clear()
    for name, own in gradients().items():
        torch.testing.assert_close(found[name], own, rtol=1e-5, atol=1e-6, msg=name)
    assert shapes == [3, 3, 3]


def test_dropout_reaches_the_attention_weights(monkeypatch):
    monkeypatch.setattr(torch.nn.Dropout, "forward", lambda self, x: x)  # so that only that of attention is left
    assert (gradients(0.5)["logits"] - gradients()["logits"]).abs().max() > 1e-2


def test_attention_within_each_text_is_softmax_of_its_own_scores():
    query, key, value = torch.randn(3, 9, 2, 4, generator=torch.Generator().manual_seed(1))
    found = attend(query, key, value, Layout(torch.tensor([0, 4, 5, 9, 9], dtype=torch.int32), 4))
    for start, stop in ((0, 4), (4, 5), (5, 9)):
        for head in range(2):
            scores = query[start:stop, head] @ key[start:stop, head].T / 2
            scores[torch.ones_like(scores).triu(1).bool()] = -torch.inf
            torch.testing.assert_close(found[start:stop, head], scores.softmax(1) @ value[start:stop, head])


def test_places_are_those_of_tokens_and_little_padding_stays():
    places, layout = real_tokens_of(LAST, 12)
    assert places.tolist() == [*range(12), 12, *range(24, 30), *range(36, 42), *range(48, 51)]
    assert layout.bounds.tolist() == [0, 12, 13, 19, 25, 28] and layout.longest == 12
    assert real_tokens_of(torch.tensor([19, 18, 18, 18]), 20) is None  # 3 of 80
    assert real_tokens_of(torch.tensor([19, 18, 18, 16]), 20) is not None  # 5 of 80
