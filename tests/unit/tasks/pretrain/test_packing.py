"""Packed documents: every token predicted once, and nothing seen across a document's border."""

import numpy as np
import pytest
import torch

from finetune.models.gpt import GPT, IGNORE, GPTConfig
from finetune.tasks.pretrain.packing import PackedTokens, TokenWriter, document_layout, goes_to_val
from finetune.tokenizer import Tokenizer

DOCUMENTS = ["a short one", "x", "the third document is the longest of them all", "and a last\nline"]


@pytest.fixture
def tokenizer():
    return Tokenizer.of_bytes()


def write(directory, tokenizer, documents=DOCUMENTS):
    with TokenWriter(directory, tokenizer) as writer:
        for text in documents:
            writer.add("train", text, begins=True)
    return writer


def packed(directory, tokenizer, context=16, across=False):
    return PackedTokens(directory / "train.bin", context, tokenizer.vocab_size, tokenizer.end_of_text, across)


def test_every_token_is_a_target_once(tmp_path, tokenizer):
    writer = write(tmp_path, tokenizer)
    tokens = packed(tmp_path, tokenizer)
    inputs, targets = tokens.batch(list(range(len(tokens))), IGNORE)
    stream = [tokenizer.end_of_text]
    for text in DOCUMENTS:
        stream += tokenizer.encode(text) + [tokenizer.end_of_text]
    assert targets[targets != IGNORE].tolist() == stream[1:]
    assert inputs[targets != IGNORE].tolist() == stream[:-1]
    assert writer.documents["train"] == 4 and writer.bytes["train"] == sum(len(text.encode()) for text in DOCUMENTS)


@torch.no_grad()
def test_loss_of_packed_documents_is_that_of_each_alone(tmp_path, tokenizer):
    write(tmp_path, tokenizer)
    model = GPT(GPTConfig(vocab_size=257, context=128, width=32, layers=2, heads=4)).initialise(3, std=0.2).eval()
    tokens = packed(tmp_path, tokenizer, context=128)
    inputs, targets = tokens.batch([0], IGNORE)
    together = float(model.loss_sum(inputs, targets, *tokens.layout(inputs)))
    alone = 0.0
    for text in DOCUMENTS:
        ids = torch.tensor([[tokenizer.end_of_text, *tokenizer.encode(text), tokenizer.end_of_text]])
        alone += float(model.loss_sum(ids[:, :-1], ids[:, 1:]))
    assert together == pytest.approx(alone, rel=1e-5)
    crossing = float(model.loss_sum(inputs, targets, *packed(tmp_path, tokenizer, 128, across=True).layout(inputs)))
    assert abs(crossing - alone) / alone > 1e-3


@torch.no_grad()
@pytest.mark.parametrize("across", [False, True])
def test_the_loss_of_stretches_is_that_of_the_blocks(tmp_path, tokenizer, across):
    write(tmp_path, tokenizer)
    model = GPT(GPTConfig(vocab_size=257, context=16, width=32, layers=2, heads=4)).initialise(3, std=0.2).eval()
    tokens = packed(tmp_path, tokenizer, across=across)
    inputs, targets = tokens.batch(list(range(len(tokens))), IGNORE)
    together = float(model.loss_sum(inputs, targets, *tokens.layout(inputs)))
    stretches = list(tokens.stretches())
    alone = sum(float(model.loss_sum(*(torch.tensor([part]) for part in own))) for own in stretches)
    assert alone == pytest.approx(together, rel=1e-5)
    assert len(stretches) == len(tokens) if across else len(stretches) > len(tokens)


@torch.no_grad()
def test_loss_does_not_depend_on_the_batch(tmp_path, tokenizer):
    write(tmp_path, tokenizer)
    model = GPT(GPTConfig(vocab_size=257, context=16, width=32, layers=2, heads=4)).initialise(3, std=0.2).eval()
    tokens = packed(tmp_path, tokenizer)

    def loss(blocks):
        inputs, targets = tokens.batch(blocks, IGNORE)
        return float(model.loss_sum(inputs, targets, *tokens.layout(inputs)))

    blocks = list(range(len(tokens)))
    assert loss(blocks) == pytest.approx(sum(loss([block]) for block in blocks), rel=1e-5)


def test_layout_keeps_documents_apart():
    end = 9
    mask, positions = document_layout(torch.tensor([[1, 2, end, 3, end, end, 4]]), end)
    assert positions.tolist() == [[0, 1, 0, 1, 0, 0, 1]]
    document = np.array([0, 0, 1, 1, 2, 3, 3])
    expected = (document[:, None] == document[None]) & np.tril(np.ones((7, 7), dtype=bool))
    assert np.array_equal(mask[0, 0].numpy(), expected)


def test_held_out_share_is_the_one_asked_for():
    held_out = sum(goes_to_val(f"document {i}", 0.1, seed=5) for i in range(5000))
    assert 400 < held_out < 600
    assert [goes_to_val(f"{i}", 0.5, 1) for i in range(50)] != [goes_to_val(f"{i}", 0.5, 2) for i in range(50)]


def test_reading_ahead_changes_nothing_and_reaches_to_the_end_of_the_file(tmp_path, tokenizer):
    write(tmp_path, tokenizer, ["a text " * 3000])
    whole = np.fromfile(tmp_path / "train.bin", dtype=np.uint16)
    parts = {}
    for start, stop in ((0, None), (5000, 9000)):
        tokens = PackedTokens(
            tmp_path / "train.bin", 48, tokenizer.vocab_size, tokenizer.end_of_text, False, start, stop
        )
        blocks = list(range(len(tokens)))
        before = tokens.batch(blocks, IGNORE)
        tokens.read_ahead(blocks)
        assert all(torch.equal(a, b) for a, b in zip(before, tokens.batch(blocks, IGNORE), strict=True))
        parts[start] = before[0]
    assert parts[0][0].tolist() == whole[:48].tolist() and parts[5000][0].tolist() == whole[5000:5048].tolist()
