"""Our GPT against transformers' GPT2LMHeadModel, from its files on; and proof that the comparison can fail."""

import pytest
import torch
from torch.nn import functional as F

from finetune.checkpoints import convert
from finetune.checkpoints.gpt2_keys import PREFIX, expand
from finetune.checkpoints.store import load_checkpoint
from finetune.models import gpt

TOLERANCE = 2e-5  # fp32, at standard deviation 0.2


def check_parity(reference, chunk: int = 1024) -> None:
    """Load what transformers wrote; compare logits, loss and every gradient (relative to its largest entry)."""
    model = load_checkpoint(reference.directory).model
    targets = torch.full_like(reference.labels, gpt.IGNORE)
    targets[:, :-1] = reference.labels[:, 1:]
    with torch.no_grad():
        torch.testing.assert_close(model(reference.inputs), reference.logits, atol=TOLERANCE, rtol=0)
    loss = model.loss_sum(reference.inputs, targets, chunk=chunk) / (targets != gpt.IGNORE).sum()
    loss.backward()
    assert loss.item() == pytest.approx(reference.loss, abs=TOLERANCE)
    parameters = dict(model.named_parameters())
    ours = {
        PREFIX + theirs: parameters[name].grad.T if transposed else parameters[name].grad
        for theirs, name, transposed in expand(model.config.layers)
    }
    assert len(ours) == len(parameters) and ours.keys() == reference.gradients.keys()
    for name, gradient in reference.gradients.items():
        apart = (ours[name] - gradient).abs().max() / gradient.abs().max()
        assert apart < TOLERANCE, (name, apart)


@pytest.mark.parametrize("chunk", [1, 7, 64, 1024])
def test_logits_loss_and_gradients_are_those_of_transformers(language_model, chunk):
    check_parity(language_model, chunk)
    assert language_model.loss > 1  # the reference is far from trivial


def exact_gelu(monkeypatch):
    monkeypatch.setattr(gpt.MLP, "forward", lambda self, x: self.down(F.gelu(self.up(x))))


def attention_output_not_transposed(monkeypatch):
    rows = [(theirs, ours, transposed and theirs != "h.1.attn.c_proj.weight") for theirs, ours, transposed in expand(3)]
    monkeypatch.setattr(convert, "expand", lambda layers: rows)


def every_token_sees_all(monkeypatch):
    causal = gpt.GPT.hidden_states
    monkeypatch.setattr(
        gpt.GPT,
        "hidden_states",
        lambda self, ids, *_: causal(self, ids, torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool)),
    )


def positions_from_one(monkeypatch):
    def embed(self, ids, *_):
        positions = (torch.arange(ids.shape[1]) + 1) % self.config.context
        return self.token_embedding(ids) + self.position_embedding(positions)

    monkeypatch.setattr(gpt.GPT, "embed", embed)


def targets_not_shifted(monkeypatch):
    right = gpt.GPT.loss_sum
    monkeypatch.setattr(
        gpt.GPT,
        "loss_sum",
        lambda self, ids, targets, **options: right(
            self, ids, torch.where(targets == gpt.IGNORE, targets, ids), **options
        ),
    )


def gradient_cut_at_the_output_matrix(monkeypatch):
    right = gpt.summed_loss
    monkeypatch.setattr(
        gpt, "summed_loss", lambda hidden, output, targets, chunk: right(hidden, output.detach(), targets, chunk)
    )


@pytest.mark.parametrize(
    "sabotage, what_differs",
    [
        (exact_gelu, "Tensor-likes"),
        (attention_output_not_transposed, "Tensor-likes"),
        (every_token_sees_all, "Tensor-likes"),
        (positions_from_one, "Tensor-likes"),
        (targets_not_shifted, "comparison failed"),
        (gradient_cut_at_the_output_matrix, "transformer.wte.weight"),
    ],
)
def test_a_wrong_model_fails_the_comparison(language_model, monkeypatch, sabotage, what_differs):
    sabotage(monkeypatch)
    with pytest.raises(AssertionError, match=what_differs):
        check_parity(language_model)
    monkeypatch.undo()
    check_parity(language_model)
