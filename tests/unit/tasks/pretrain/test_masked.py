"""Masked words in packed text: what is hidden, that documents stay apart, and that the figures are those of the formula."""

import math

import numpy as np
import pytest
import torch

from finetune.evaluation.language import masked_metrics
from finetune.models.encoder import Encoder
from finetune.models.gpt import IGNORE
from finetune.models.heads import LossModule
from finetune.models.transformer import TransformerConfig
from finetune.tasks.pretrain import masked
from finetune.tasks.pretrain.masking import choose_masking
from finetune.tasks.pretrain.packing import PackedTokens, TokenWriter, document_layout
from finetune.tokenizer import MASK, Tokenizer

TOKENIZER = Tokenizer.of_bytes().with_tokens(MASK)
CPU = torch.device("cpu")


@pytest.fixture
def tokens(tmp_path):
    with TokenWriter(tmp_path, TOKENIZER) as writer:
        for split in ("train", "val"):
            for number in range(9):
                writer.add(split, f"the tide turns at {number} past noon", begins=True)
    return PackedTokens(tmp_path / "train.bin", 32, TOKENIZER.vocab_size, TOKENIZER.end_of_text)


def test_a_vocabulary_gets_the_mask_behind_all_others():
    assert TOKENIZER.vocab_size == 258 and TOKENIZER.special_tokens[MASK] == 257
    assert TOKENIZER.with_tokens(MASK) is TOKENIZER and TOKENIZER.with_tokens("<|x|>", MASK).vocab_size == 259
    text = "noon <|mask|>"
    assert TOKENIZER.encode(text) == Tokenizer.of_bytes().encode(text)  # typed in a text, it is text


def test_documents_are_read_both_ways_and_apart():
    ids = torch.tensor([[256, 1, 2, 256, 3]])
    mask, positions = document_layout(ids, 256, causal=False)
    assert mask[0, 0].int().tolist() == [[1, 1, 1, 0, 0]] * 3 + [[0, 0, 0, 1, 1]] * 2
    assert positions.tolist() == [[0, 1, 2, 0, 1]]


def test_hidden_tokens_are_the_targets_and_others_are_in_each_epoch(tokens):
    masking, new, _ = choose_masking(TOKENIZER, seed=1)
    assert new == 0 and masking.mask == 257
    first, again, later = (masked.masked_blocks(tokens, [0, len(tokens) - 1], epoch, masking) for epoch in (0, 0, 1))
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))
    assert not torch.equal(first[1], later[1])
    inputs, targets = first
    true = torch.tensor(tokens.inputs(0))
    hidden = targets[0] != IGNORE
    assert torch.equal(targets[0][hidden], true[hidden]) and torch.equal(inputs[0][~hidden], true[~hidden])
    assert int(hidden.sum()) == masking.count(true.tolist())
    short = tokens.length(len(tokens) - 1)
    assert (inputs[1, short:] == TOKENIZER.end_of_text).all() and (targets[1, short:] == IGNORE).all()


@torch.no_grad()
def test_the_loss_of_packed_documents_is_that_of_each_alone(tokens):
    masking, _, _ = choose_masking(TOKENIZER, seed=1)
    encoder = Encoder(TransformerConfig(258, 32, 16, 2, 2)).initialise(1, std=0.2).eval()
    inputs, targets = masked.masked_blocks(tokens, [1], 0, masking)
    starts = [0, *(i for i in range(1, 32) if inputs[0, i] == TOKENIZER.end_of_text), 32]
    assert len(starts) > 2
    alone = sum(encoder.loss_sum(inputs[:, a:b], targets[:, a:b]) for a, b in zip(starts, starts[1:], strict=False))
    found, counts = masked.block_nll(LossModule(encoder), tokens, masking, [1], 1, CPU)
    assert found[0] == pytest.approx(float(alone), rel=1e-5) and counts[0] == int((targets != IGNORE).sum())


def test_the_figures_are_sums_over_hidden_tokens():
    found = masked_metrics([2.0, 9.0, 4.0], [1, 4, 3], [1, 2, 0], 1000)
    assert found["log_loss"].value == pytest.approx(15 / 8) and found["perplexity"].value == pytest.approx(
        math.exp(15 / 8)
    )
    assert found["token_accuracy"].value == pytest.approx(3 / 8) and found["token_accuracy"].n == 3
    for metric in found.values():
        assert metric.low <= metric.value <= metric.high and np.isfinite(metric.low)
