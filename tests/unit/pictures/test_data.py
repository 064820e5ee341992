"""What is drawn is what the models, the loop and the sampler do."""

import json
import math
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgba

from finetune.errors import RecipeError
from finetune.models.encoder import Encoder
from finetune.models.encoder_decoder import EncoderDecoder, EncoderDecoderConfig
from finetune.models.generate import generate
from finetune.models.plain_attention import attention_maps
from finetune.models.sampling import Decoding
from finetune.models.transformer import Transformer, TransformerConfig
from finetune.pictures import architectures, attention, beams, masks, positions, sampling, schedule
from finetune.pictures.drawing import ORANGE

SHAPE = {"vocab_size": 61, "context": 24, "width": 16, "layers": 2, "heads": 2}
PROMPT = "The bank was"


def images(drawing):
    """The arrays of a drawing's images, colour bars aside."""
    return [np.asarray(image.get_array()) for axes in drawing.figure.axes for image in axes.get_images()]


def labels(axis):
    return [tick.get_text() for tick in axis.get_ticklabels()]


def test_sinusoids_are_those_of_the_paper():
    values = positions.sinusoidal(16)
    for position, channel in ((0, 0), (5, 2), (77, 7), (127, 15)):
        angle = position / 10_000 ** (channel // 2 * 2 / 16)  # Vaswani et al. 2017, section 3.5
        expected = math.cos(angle) if channel % 2 else math.sin(angle)
        assert float(values[position, channel]) == pytest.approx(expected, abs=1e-5)


def test_drawn_positions_are_the_checkpoints_tensor(gpt):
    drawn = {drawing.name: images(drawing) for drawing in positions.draw(gpt, "tiny")}
    weight = gpt.position_embedding.weight.detach().numpy()
    np.testing.assert_array_equal(drawn["positions-learned"][0], weight)
    norms = np.linalg.norm(weight, axis=1)
    cosine = weight @ weight.T / norms[:, None] / norms
    np.testing.assert_allclose(drawn["positions-similarity"][0], cosine, atol=1e-5)
    np.testing.assert_array_equal(drawn["positions-sinusoidal"][0], positions.sinusoidal(16).numpy())


def test_rotary_sees_distances_alone():
    frequencies = 10_000.0 ** -(np.arange(4) / 4)
    expected = np.cos(np.arange(128)[:, None] * frequencies).mean(axis=1)
    for query in (0, 500):
        np.testing.assert_allclose(positions.rotated_product(8, query).numpy(), expected, atol=1e-3)


def test_masks_are_what_the_models_look_through():
    drawn = masks.masks(tokens=5, pads=2)
    ids, attention_mask = torch.arange(7)[None], torch.arange(7)[None] < 5
    encoder = Encoder(TransformerConfig(**SHAPE)).initialise(1, std=0.2).eval()
    both = EncoderDecoder(EncoderDecoderConfig(**SHAPE)).initialise(1, std=0.2).eval()
    seen = {
        "padding": attention_maps(encoder, ids, attention_mask)["encoder"],
        "causal": attention_maps(both, ids, ids[:, :5])["decoder"],
        "both": attention_maps(both, ids, ids, target_mask=attention_mask)["decoder"],
    }
    assert seen.keys() == drawn.keys()
    for name, weights in seen.items():
        assert torch.equal(weights[0, 0, 0] > 0, drawn[name]), name
    shown = {drawing.name: drawing for drawing in masks.draw("one two three four five")}
    for name, mask in drawn.items():
        np.testing.assert_array_equal(images(shown[f"masks-{name}"])[0], mask.numpy())
    axes = shown["masks-both"].figure.axes[0]
    assert labels(axes.yaxis) == ["one", "two", "three", "four", "five", "<pad>", "<pad>"]


def test_attention_drawn_is_that_of_the_pass(gpt, tokenizer):
    drawings = {drawing.name: drawing for drawing in attention.draw(gpt, tokenizer, PROMPT, 1, "tiny")}
    maps = attention_maps(gpt, torch.tensor([[tokenizer.end_of_text, *tokenizer.encode(PROMPT)]]))["decoder"][:, 0]
    assert set(drawings) == {"attention-overview", "attention-layer-1-head-0", "attention-layer-1-head-1"}
    overview = images(drawings["attention-overview"])
    for number, grid in enumerate(overview):
        np.testing.assert_allclose(np.ma.filled(grid, 0), maps.flatten(0, 1)[number].numpy())
    assert len(overview) == 4
    head = drawings["attention-layer-1-head-1"]
    np.testing.assert_allclose(images(head)[0], maps[1, 1].numpy())
    assert labels(head.figure.axes[0].xaxis)[:5] == ["<|endoftext|>", "T", "h", "e", "␣"]


def test_attention_of_an_encoder_goes_both_ways(tokenizer):
    """In this text the first `bank` can read the river behind it; in a decoder it cannot."""
    text = "The bank was closed by the river flood"
    config = TransformerConfig(**SHAPE | {"vocab_size": tokenizer.vocab_size, "context": 48})
    encoder = Encoder(config).initialise(1, std=0.2).eval()
    maps, tokens = attention.maps_of(encoder, tokenizer, text)
    bank, river = text.index("bank") + 1, text.index("river") + 1
    assert tokens[bank] == "b" and (maps[:, :, bank, river] > 0).all()
    decoder = Transformer(config).initialise(1, std=0.2).eval()
    assert (attention.maps_of(decoder, tokenizer, text)[0][:, :, bank, river] == 0).all()
    bare, own = attention.maps_of(encoder, tokenizer, text, bare=True)  # as a classifier reads it
    assert own == tokens[1:] and bare.shape[-1] == len(own)


def test_shares_of_attention():
    weights = torch.tensor([[1.0, 0, 0, 0], [0.5, 0.5, 0, 0], [0.5, 0.3, 0.2, 0], [0.1, 0.2, 0.3, 0.4]])
    assert attention.shares(weights) == pytest.approx((0.3, 0.3, 0.3))
    before = torch.tensor([[1.0, 0, 0], [1.0, 0, 0], [0, 1.0, 0]])
    assert attention.shares(before) == pytest.approx((0.0, 1.0, 0.0))


def test_shapes_at_the_arrows_are_those_of_a_real_pass():
    config = EncoderDecoderConfig(**SHAPE)
    model = EncoderDecoder(config).initialise(1).eval()
    seen = {}

    def watch(name, module):
        module.register_forward_hook(lambda module, inputs, output: seen.update({name: tuple(output.shape)}))

    watch("embedded", model.decoder.drop)
    watch("inner", model.decoder.blocks[0].mlp.up)
    watch("encoded", model.encoder.norm)
    B, S, T = 2, 5, 3
    source, target = torch.ones(B, S, dtype=torch.long), torch.ones(B, T, dtype=torch.long)
    maps = attention_maps(model, source, target)
    sources = model.read(source)
    seen |= {
        "ids": tuple(target.shape),
        "source_ids": tuple(source.shape),
        "weights": tuple(maps["decoder"][0].shape),
        "cross_weights": tuple(maps["cross"][0].shape),
        "cross_keys": tuple(sources[0].keys.shape),
        "source_mask": tuple(sources[0].mask.shape),
        "logits": tuple(model(source, target).shape),
    }
    sizes = {"B": B, "S": S, "T": T}
    shapes = architectures.shapes(config)
    assert {name: tuple(sizes.get(part, part) for part in shapes[name]) for name in seen} == seen
    drawn = {
        drawing.name: " ".join(text.get_text() for text in drawing.figure.axes[0].texts)
        for drawing in architectures.draw(config, "tiny")
    }
    assert "(B, T, 61)" in drawn["architectures-decoder-only"] and "2 ×" in drawn["architectures-decoder-only"]
    assert "causal" not in drawn["architectures-encoder-only"] and "(B, 1, 1, T)" in drawn["architectures-encoder-only"]
    assert "cross-attention" in drawn["architectures-encoder-decoder"]
    assert drawn["architectures-norms"].count("norm") >= 4 and "post-norm" in drawn["architectures-norms"]
    assert "(B, 2, S, 8)" in drawn["architectures-encoder-decoder"]


def test_rates_are_those_of_the_loop(tmp_path):
    from finetune.training.loop import train

    toy = runpy.run_path(str(Path(__file__).parents[2] / "toy.py"))
    job, settings = toy["toy_job"]()
    train(job, settings, tmp_path, {})
    lines = [json.loads(line) for line in (tmp_path / "train.jsonl").read_text().splitlines()]
    logged = [line["lr"] for line in lines if "lr" in line]
    assert len(logged) == 12 and schedule.rates(settings, len(logged)) == pytest.approx(logged, rel=1e-6)
    line = schedule.draw(settings.model_copy(update={"max_steps": 12}), "toy")[0].figure.axes[0].lines[1]
    assert list(line.get_ydata()) == pytest.approx(logged, rel=1e-6)


@pytest.mark.parametrize("rule", [{"top_k": 3}, {"top_p": 0.4}, {"min_p": 0.3}])
def test_tokens_cut_off_are_those_that_the_sampler_never_draws(gpt, tokenizer, rule):
    logits = sampling.next_logits(gpt, sampling.prompt_ids(gpt, tokenizer, PROMPT, room=1))
    may, probability = sampling.kept(logits, **rule)
    drawn = Decoding(**rule).choose(
        logits.expand(20_000, -1), torch.zeros(20_000, 1, dtype=torch.long), torch.Generator().manual_seed(1)
    )
    counts = drawn.bincount(minlength=257) / 20_000
    assert 1 < may.sum() < 257 and not counts[~may].any()
    torch.testing.assert_close(counts, probability, atol=0.02, rtol=0)
    drawing = sampling._rule(
        logits, logits[0].argsort(descending=True)[:20], ["x"] * 20, "x", *rule, *rule.values(), "{}"
    )
    kept_bars = len(drawing.figure.axes[0].containers[0])
    assert kept_bars == min(int(may.sum()), 20)


def test_temperature_is_that_of_the_softmax(gpt, tokenizer):
    logits = sampling.next_logits(gpt, sampling.prompt_ids(gpt, tokenizer, PROMPT, room=1))
    drawing = sampling.draw(gpt, tokenizer, PROMPT, "tiny")[0]
    for line, temperature in zip(drawing.figure.axes[0].lines, sampling.TEMPERATURES, strict=True):
        expected = 100 * (logits[0] / temperature).softmax(dim=-1).sort(descending=True).values[: sampling.SHOWN]
        np.testing.assert_allclose(line.get_xdata(), expected.numpy(), rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("width", [2, 3, 5])
def test_the_tree_ends_in_the_beams_of_generate(gpt, tokenizer, width):
    ids = sampling.prompt_ids(gpt, tokenizer, PROMPT, room=beams.STEPS)
    tree = beams.search(gpt, ids, width, beams.STEPS)
    found = generate(gpt, ids, beams.STEPS, beams=width, samples=width)[:, ids.shape[1] :]
    last = [branch for branch in tree[-1] if branch.kept]
    assert [list(branch.tokens) for branch in last] == found.tolist()
    for branch in (*tree[1], *last):  # each score is the log probability of its text
        whole = torch.tensor([[*ids[0].tolist(), *branch.tokens]])
        steps = gpt(whole).log_softmax(dim=-1)[0, ids.shape[1] - 1 : -1]
        expected = steps.gather(1, torch.tensor(branch.tokens)[:, None]).sum()
        assert branch.score == pytest.approx(float(expected), abs=1e-4)
    assert all(sum(branch.kept for branch in step) == width == len(step) / 2 for step in tree)


def test_every_branch_is_on_the_picture(gpt, tokenizer):
    ids = sampling.prompt_ids(gpt, tokenizer, PROMPT, room=beams.STEPS)
    tree = beams.search(gpt, ids, 3, beams.STEPS)
    axes = beams.draw(gpt, tokenizer, PROMPT, "tiny")[0].figure.axes[0]
    scores = sorted(text.get_text().split("\n")[-1] for text in axes.texts if "\n" in text.get_text())
    assert scores == sorted(f"{branch.score:.2f}" for step in tree for branch in step)
    dashed = [line for line in axes.lines if line.get_linestyle() == "--"]
    assert len(axes.lines) == 30 and len(dashed) == 15


@pytest.mark.parametrize(
    "draw, part",
    [
        (lambda gpt, tokenizer: attention.draw(gpt, tokenizer, " \n", None, "tiny"), "empty"),
        (lambda gpt, tokenizer: attention.draw(gpt, tokenizer, "x" * 48, None, "tiny"), "49 tokens; known: 48 at most"),
        (lambda gpt, tokenizer: attention.draw(gpt, tokenizer, "x", 2, "tiny"), "got 2; known: 0 to 1"),
        (lambda gpt, tokenizer: attention.draw(gpt, tokenizer, "x", -1, "tiny"), "got -1; known: 0 to 1"),
        (lambda gpt, tokenizer: masks.draw(""), "empty"),
        (lambda gpt, tokenizer: sampling.draw(gpt, tokenizer, "", "tiny"), "empty"),
        (lambda gpt, tokenizer: sampling.draw(gpt, tokenizer, "x", "tiny", top_p=2.0), "top_p is out of range"),
        (lambda gpt, tokenizer: beams.draw(gpt, tokenizer, "x" * 43, "tiny"), "44 tokens; known: 43 at most"),
        (lambda gpt, tokenizer: beams.draw(gpt, tokenizer, "x", "tiny", 1), "got 1; known: 2 to 5"),
    ],
)
def test_what_cannot_be_drawn_is_reported(gpt, tokenizer, draw, part):
    with pytest.raises(RecipeError) as error:
        draw(gpt, tokenizer)
    assert part in str(error.value)


def test_captions_say_where_other_models_differ():
    from finetune.models.gpt import GPTConfig

    captions = {drawing.name: drawing.caption for drawing in architectures.draw(GPTConfig(**SHAPE), "tiny")}
    assert "segment embedding" in captions["architectures-encoder-only"]
    assert all(word in captions["architectures-encoder-decoder"] for word in ("BART", "after each sum", "T5"))


def test_words_that_do_not_fit_a_mask_are_counted():
    drawn = masks.draw(" ".join(map(str, range(31))))[0]
    assert "Of the 31 words, the first 20 are drawn." in drawn.caption and images(drawn)[0].shape == (22, 22)
    assert "first" not in masks.draw("one two three four five six seven eight nine")[0].caption


def test_the_tree_names_the_prompts_last_word_and_marks_the_best_end(gpt, tokenizer):
    ids = sampling.prompt_ids(gpt, tokenizer, PROMPT, room=beams.STEPS)
    best = beams.search(gpt, ids, 3, beams.STEPS)[-1][0]
    axes = beams.draw(gpt, tokenizer, PROMPT, "tiny")[0].figure.axes[0]
    assert any(text.get_text().endswith(" was") for text in axes.texts)
    marked = [text for text in axes.texts if text.get_bbox_patch().get_facecolor() == to_rgba(ORANGE)]
    assert [text.get_text().split("\n")[1] for text in marked] == [f"{best.score:.2f}"]


def test_tokens_within_a_character_are_told_apart(gpt, tokenizer):
    head = attention.draw(gpt, tokenizer, "日", 1, "tiny")[1]
    assert labels(head.figure.axes[0].xaxis)[1:4] == ["\\xe6", "\\x97", "\\xa5"]
