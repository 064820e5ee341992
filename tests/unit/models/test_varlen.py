"""Packed documents without a mask give the loss and the gradients of the masked path."""

import pytest
import torch

from finetune.models import side_by_side, varlen
from finetune.models.gpt import GPT, IGNORE, GPTConfig
from finetune.models.transformer import Transformer, TransformerConfig
from finetune.models.varlen import PackedLoss, document_bounds, has_fused_loss, packed_cross_entropy, why_not_varlen
from finetune.tasks.pretrain.packing import document_layout

END, CPU = 49, torch.device("cpu")


@pytest.fixture
def packed():
    """Two rows of 24 tokens with documents of several lengths, one of them running over the start of its row."""
    ids = torch.randint(END, (2, 25), generator=torch.Generator().manual_seed(3))
    for row, at in ((0, 0), (0, 5), (0, 6), (0, 17), (1, 9), (1, 24)):
        ids[row, at] = END
    targets = ids[:, 1:].clone()
    targets[1, 20:] = IGNORE
    return ids[:, :-1].contiguous(), targets


@pytest.mark.parametrize("fused", [False, True])
def test_loss_and_gradients_are_those_of_the_masked_path(packed, fused, monkeypatch):
    if fused and not has_fused_loss():
        pytest.skip("this torch has no linear_cross_entropy")
    monkeypatch.setattr(varlen, "CHUNK", 20)
    inputs, targets = packed
    model = GPT(GPTConfig(50, 24, 32, 2, 2)).initialise(1, std=0.2)
    expected = model.loss_sum(inputs, targets, *document_layout(inputs, END))
    expected.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    loss = PackedLoss(model, fused)(inputs, targets, *document_bounds(inputs, END))
    loss.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.grad, gradients[name], rtol=1e-4, atol=1e-4)


def test_bounds_and_positions_are_those_of_the_documents(packed):
    inputs, _ = packed
    positions, bounds = document_bounds(inputs, END)
    assert torch.equal(positions, document_layout(inputs, END)[1])
    assert bounds[:7].tolist() == [0, 5, 6, 17, 24, 33, 48] and bounds.dtype == torch.int32
    assert len(bounds) % varlen.BOUNDS == 0 and (bounds[6:] == inputs.numel()).all()


@pytest.mark.parametrize("size", [50, 64, 65])
def test_a_padded_vocabulary_has_no_share(size):
    random = torch.Generator().manual_seed(1)
    hidden, output = torch.randn(30, 16, generator=random), torch.randn(size, 16, generator=random)
    targets = torch.randint(size, (30,), generator=random)
    hidden.requires_grad_(), output.requires_grad_()
    expected = torch.nn.functional.cross_entropy(hidden @ output.T, targets, reduction="sum")
    wanted = torch.autograd.grad(expected, (hidden, output))
    for fused in {False, has_fused_loss()}:
        found = packed_cross_entropy(hidden, output, targets, fused)
        assert found.item() == pytest.approx(expected.item(), rel=1e-6)
        for one, two in zip(torch.autograd.grad(found, (hidden, output)), wanted, strict=True):
            torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-5)


def test_what_it_cannot_run_is_refused_in_words(monkeypatch):
    gpt, cuda = GPT(GPTConfig(50, 8, 16, 1, 2)), torch.device("cuda")
    assert why_not_varlen(gpt, CPU, "fp32") == ""
    assert "dropout" in why_not_varlen(GPT(GPTConfig(50, 8, 16, 1, 2, dropout=0.1)), cuda, "bf16")
    assert "GPT-2" in why_not_varlen(Transformer(TransformerConfig(50, 8, 16, 1, 2)), cuda, "bf16")
    assert "bf16" in why_not_varlen(gpt, cuda, "fp32")
    monkeypatch.setattr(side_by_side, "load_kernel", lambda: False)
    assert "has no variable-length attention" in why_not_varlen(gpt, cuda, "bf16")
