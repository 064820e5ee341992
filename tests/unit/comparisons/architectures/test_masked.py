"""Masked-language-model pretraining through the loop: it learns, and stopped it goes on as if it had not been."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from finetune.comparisons.architectures.masked import build_job, measure
from finetune.models.encoder import Encoder
from finetune.models.gpt import IGNORE
from finetune.models.heads import LossModule
from finetune.models.transformer import TransformerConfig
from finetune.recipe import Train
from finetune.tasks.pretrain.masking import Masking, choose_masking, masked_batch
from finetune.tokenizer import END_OF_TEXT, Tokenizer
from finetune.training import loop

MASKING = Masking(30, frozenset({30, 31}), 32, seed=3)
ROWS = [[31, *((start + step) % 30 for step in range(length))] for start in range(8) for length in (7, 12, 9)]
SETTINGS = Train(
    method="full", epochs=4, lr=5e-3, batch_size=8, metric="log_loss", precision="fp32", threads=1, patience=99
)


def fresh_job():
    """A tiny encoder that is to fill in rows that count up."""
    encoder = Encoder(TransformerConfig(vocab_size=32, context=16, width=16, layers=1, heads=2)).initialise(1)
    return build_job(encoder, ROWS, ROWS[:6], MASKING, 64, torch.device("cpu"))


def test_a_batch_is_masked_by_row_and_epoch_and_its_loss_is_the_sum_over_what_is_hidden():
    job = fresh_job()
    inputs, targets, attention_mask = job.batch([4, 0], 2)
    own, hidden = MASKING.apply(ROWS[4], 2, 4, IGNORE)
    assert inputs[0, :13].tolist() == own.tolist() and targets[0, :13].tolist() == hidden.tolist()
    assert attention_mask.sum(dim=1).tolist() == [13, 8] and (targets[~attention_mask] == IGNORE).all()
    assert int((targets != IGNORE).sum()) == job.weights[4] + job.weights[0]
    assert not torch.equal(job.batch([4, 0], 3)[0], inputs)
    logits = job.model.body(inputs, attention_mask)
    expected = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORE, reduction="sum")
    torch.testing.assert_close(job.loss_sum(job.model, (inputs, targets, attention_mask)), expected)


def test_it_learns_and_every_epoch_masks_anew(tmp_path, monkeypatch):
    job, drawn = fresh_job(), set()
    apply = Masking.apply

    def noted(self, ids, epoch, row, ignore):
        drawn.add((epoch, row))
        return apply(self, ids, epoch, row, ignore)

    before = job.validate(job.model.eval())["log_loss"]
    monkeypatch.setattr(Masking, "apply", noted)
    found = loop.train(job, SETTINGS, tmp_path, {})
    assert {(epoch, row) for epoch in range(4) for row in range(len(ROWS))} <= drawn
    assert found.best_value < before - 0.02


def test_stopped_within_an_epoch_it_resumes_bit_for_bit(tmp_path):
    whole = fresh_job()
    loop.train(whole, SETTINGS, tmp_path / "whole", {})
    first, work = fresh_job(), []

    def stopping(module, tensors):
        work.append(None)
        if len(work) == 6:  # in the second epoch
            raise KeyboardInterrupt
        return module(*tensors)

    with pytest.raises(KeyboardInterrupt):
        loop.train(
            loop.Job(**(first.__dict__ | {"loss_sum": stopping})), SETTINGS, tmp_path / "cut", {}, checkpoint_seconds=0
        )
    second = fresh_job()
    loop.train(second, SETTINGS, tmp_path / "cut", {})
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, second.model.state_dict()[name]), name


def test_the_measure_does_not_depend_on_what_runs_together():
    model = LossModule(fresh_job().model.body).eval()
    alone, counts = measure(model, ROWS, MASKING, 1, torch.device("cpu"))
    together, others = measure(model, ROWS, MASKING, 40, torch.device("cpu"))
    assert len(alone) == len(ROWS) > len(together) and counts.sum() == others.sum()
    np.testing.assert_allclose(alone.sum(), together.sum(), rtol=1e-5)


def test_a_vocabulary_without_a_mask_gets_one_token_and_reports_it():
    tokenizer = Tokenizer.of_bytes()
    masking, new, said = choose_masking(tokenizer, seed=1)
    assert (masking.mask, masking.vocab_size, new) == (257, 258, 1) and "gets one row" in said
    assert tokenizer.special_tokens[END_OF_TEXT] in masking.special and masking.mask in masking.special


def test_a_batch_of_bundled_tokens_uses_their_own_mask(root_weights):
    tokenizer = Tokenizer.from_directory(root_weights)
    masking, new, _ = choose_masking(tokenizer, seed=1)
    assert new == 0 and masking.mask == tokenizer.special_tokens["<|mask|>"]
    assert masking.special == set(tokenizer.special_tokens.values()) and len(masking.special) == 4
    inputs, targets, _ = masked_batch([tokenizer.encode("the ferry lay at the hard and waited")], [0], 0, masking)
    assert (targets != IGNORE).any() and inputs.max() < tokenizer.vocab_size


@pytest.fixture
def root_weights():
    """The bundled checkpoint's directory."""
    from finetune.hub.assets import asset

    return asset("weights", "mini")
