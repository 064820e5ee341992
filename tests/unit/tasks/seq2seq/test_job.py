"""The task seq2seq: what an encoder-decoder begins with, and figures that do not depend on the batch."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from finetune.checkpoints.sources import load
from finetune.errors import RecipeError
from finetune.hub.assets import asset
from finetune.models.encoder_decoder import EncoderDecoder
from finetune.models.gpt import GPT, GPTConfig
from finetune.recipe import Recipe, Train
from finetune.tasks.seq2seq import job
from finetune.tasks.seq2seq.examples import make_examples, tokenize, writing_room
from finetune.tasks.seq2seq.layout import Pair
from finetune.tasks.seq2seq.pairs import TextPair
from finetune.tasks.seq2seq.settings import Seq2Seq
from finetune.tokenizer import Tokenizer
from finetune.training.trainable import adapt, freeze

BYTES, MINI = Tokenizer.of_bytes(), Tokenizer.from_directory(asset("weights", "mini"))
CPU = torch.device("cpu")
FAMILIES = ["decoder", "encoder-decoder"]


def test_an_encoder_decoder_starts_as_the_gpt_and_reports_its_tensors():
    gpt, _ = load("mini")
    model, report = job.build_model(gpt, Recipe(task="seq2seq"), MINI.end_of_text)
    assert report.copied.keys() == dict(gpt.named_parameters()).keys() and all(report.copied.values())
    assert all("cross" in name for name in report.fresh)
    filled = [place for places in report.copied.values() for place in places]
    assert sorted(filled + report.fresh) == sorted(dict(model.body.named_parameters()))
    source = torch.tensor([MINI.encode("4,071")])
    target = torch.tensor([[MINI.end_of_text, *MINI.encode("The weather")]])
    with torch.inference_mode():
        torch.testing.assert_close(model.body(source, target), gpt(target), rtol=0, atol=1e-5)


def test_weights_of_the_other_family_are_refused():
    recipe = Recipe(task="seq2seq", seq2seq=Seq2Seq(family="decoder"))
    gpt = GPT(GPTConfig(30, 8, 4, 2, 2)).initialise(0)
    model, _ = job.build_model(gpt, Recipe(task="seq2seq"), 29)
    assert isinstance(job.build_model(model.body, Recipe(task="seq2seq"), 29)[0].body, EncoderDecoder)
    with pytest.raises(
        RecipeError,
        match="the family decoder cannot start from an encoder-decoder's weights; got seq2seq.family=decoder",
    ):
        job.build_model(model.body, recipe, 29)


@pytest.mark.parametrize(
    "method, moves",
    [
        ("full", lambda name: True),
        (
            "last-blocks",
            lambda name: (
                "cross" in name or ".blocks.2." in name or name.startswith(("body.encoder.norm.", "body.decoder.norm."))
            ),
        ),
        ("lora", lambda name: "cross" in name or name.endswith(("attention.qkv.lora_A", "attention.qkv.lora_B"))),
    ],
)
def test_both_sides_train_the_same_layers_and_always_the_cross_attention(method, moves):
    gpt = GPT(GPTConfig(30, 8, 8, 3, 2)).initialise(0)
    model, _ = job.build_model(gpt, Recipe(task="seq2seq"), 29)
    adapt(model.body, Train(method=method, lora_rank=2, lora_targets=("attention.qkv",)))
    trainable = freeze(model, model.body, method, last_blocks=1)
    names = [name for name, _ in model.named_parameters()]
    assert sorted(trainable.names) == sorted(name for name in names if moves(name)) and trainable.names
    assert any("encoder" in name for name in trainable.names) and any("decoder" in name for name in trainable.names)


def test_head_alone_is_refused():
    model, _ = job.build_model(GPT(GPTConfig(30, 8, 4, 2, 2)), Recipe(task="seq2seq"), 29)
    with pytest.raises(RecipeError, match="method head has nothing to train here"):
        freeze(model, model.body, "head", 1)


@pytest.mark.parametrize("family", FAMILIES)
def test_losses_do_not_depend_on_the_batch(family):
    gpt = GPT(GPTConfig(BYTES.vocab_size, 40, 16, 2, 2)).initialise(3, std=0.2)
    model, _ = job.build_model(gpt, Recipe(task="seq2seq", seq2seq=Seq2Seq(family=family)), BYTES.end_of_text)
    records = [TextPair(i, "s" * (1 + i % 7), "t" * (1 + i % 5)) for i in range(20)]
    part = make_examples(records, tokenize(records, BYTES), 40, family)
    alone, together = (job.teacher_forced(model.eval(), part, budget, CPU) for budget in (1, 500))
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_attention_is_that_of_the_target_to_its_source(family):
    gpt = GPT(GPTConfig(BYTES.vocab_size, 40, 16, 2, 2)).initialise(3, std=0.2)
    recipe = Recipe(task="seq2seq", seq2seq=Seq2Seq(family=family, zero_init_cross_attention=False))
    model, _ = job.build_model(gpt, recipe, BYTES.end_of_text)
    looked = job.attention_of(model.eval(), Pair(BYTES.encode("abc"), BYTES.encode("xy")), BYTES, CPU)
    assert (looked.source_tokens, looked.target_tokens) == (["a", "b", "c"], ["x", "y", "(end)"])
    weights = torch.tensor(looked.weights)
    assert weights.shape == (3, 3) and (weights >= 0).all()
    sums = weights.sum(dim=1)
    assert torch.allclose(sums, torch.ones(3), atol=1e-3) if family == "encoder-decoder" else (sums < 1).all()


def test_a_greedy_target_begins_with_the_most_likely_token():
    gpt, tokenizer = load("mini")
    recipe = Recipe(task="seq2seq", seq2seq=Seq2Seq(family="decoder"))
    model, _ = job.build_model(gpt, recipe, tokenizer.end_of_text)
    source = tokenizer.encode("The weather today")[: writing_room("decoder", 256, 256, 8)]
    [answer] = job.write(model.eval(), [source], tokenizer, recipe.seq2seq, 8, CPU)
    ids = torch.tensor([[*tokenizer.encode("The weather today"), tokenizer.end_of_text]])
    with torch.inference_mode():
        first = int(F.softmax(gpt(ids)[0, -1], dim=-1).argmax())
    assert answer.text.startswith(tokenizer.decode([first]).strip())
