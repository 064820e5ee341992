"""Cross-attention, the KV cache, ALiBi and the embedding are drawn as the models have them."""

import numpy as np
import pytest
import torch

from finetune.errors import RecipeError
from finetune.models.encoder_decoder import EncoderDecoder, EncoderDecoderConfig
from finetune.models.plain_attention import attention_maps
from finetune.pictures import attention, cache, embeddings, positions
from finetune.pictures.draw import draw
from finetune.pictures.options import Options
from finetune.recipe import Train

PROMPT = "The bank was"


@pytest.fixture(scope="module")
def both():
    """An encoder-decoder over bytes, drawn large enough that its heads differ."""
    config = EncoderDecoderConfig(257, context=32, width=16, layers=2, heads=2)
    return EncoderDecoder(config).initialise(1, std=0.3).eval()


def test_the_maps_of_both_sides_are_those_of_the_pass(both, tokenizer):
    drawings = {drawing.name: drawing for drawing in attention.draw_both(both, tokenizer, "one two", 1, "tiny")}
    assert list(drawings) == [
        *(f"attention-{kind}" for kind in ("encoder", "decoder", "cross")),
        *(f"attention-cross-layer-1-head-{head}" for head in (0, 1)),
    ]
    source = torch.tensor([tokenizer.encode("one two")])
    target = both.generate(
        source,
        torch.tensor([[tokenizer.end_of_text]]),
        attention.NEW_TOKENS,
        temperature=0.0,
        end=tokenizer.end_of_text,
    )
    maps = attention_maps(both, source, target)
    axes = drawings["attention-cross-layer-1-head-1"].figure.axes[0]
    drawn = np.ma.filled(axes.get_images()[0].get_array(), 0)
    np.testing.assert_allclose(drawn, maps["cross"][1, 0, 1].numpy())
    assert [tick.get_text() for tick in axes.xaxis.get_ticklabels()] == list("one␣two")
    overview = drawings["attention-encoder"].figure.axes
    assert len(overview) == 4
    np.testing.assert_allclose(
        np.ma.filled(overview[3].get_images()[0].get_array(), 0), maps["encoder"][1, 0, 1].numpy()
    )


def test_an_encoder_decoder_is_drawn_from_its_directory(both, tokenizer, tmp_path):
    from finetune.checkpoints.layouts import write_model

    (tmp_path / "both").mkdir()
    write_model(tmp_path / "both", both, tokenizer)
    options = Options(weights=str(tmp_path / "both"), text="one two", layer=0)
    assert "Cross-attention" in draw("attention", tmp_path / "out", options, Train()).read_text()


def test_a_layer_or_a_source_that_is_not_there_is_said(both, tokenizer):
    for text, layer, part in (("x", 2, "known: 0 to 1"), (" ", None, "empty"), ("x" * 33, None, "33 tokens")):
        with pytest.raises(RecipeError, match=part):
            attention.draw_both(both, tokenizer, text, layer, "tiny")


def test_a_cache_computes_each_token_once_and_changes_no_text(gpt, tokenizer):
    ids = torch.tensor([[tokenizer.end_of_text, *tokenizer.encode(PROMPT)]])
    plain, without = cache.write(gpt, ids, 4, cached=False)
    kept, taken = cache.write(gpt, ids, 4, cached=True)
    assert plain == kept and kept == gpt.generate(ids, 4, temperature=0)[0].tolist()
    T = ids.shape[1]
    assert without == [cache.Step(T + step, 0) for step in range(4)]
    assert taken == [cache.Step(T, 0), *(cache.Step(1, T + step) for step in range(3))]
    upper, lower = cache.draw(gpt, tokenizer, PROMPT, "tiny")[0].figure.axes
    for axes, blue in ((upper, sum(range(T, T + 8))), (lower, T + 7)):
        dark = [
            cell for cell in axes.patches if cell.get_facecolor()[:3] == pytest.approx((0.114, 0.373, 0.62), abs=0.01)
        ]
        assert len(dark) == blue and f"{blue} tokens computed" in axes.get_title()


def test_alibi_falls_by_the_slope_of_the_paper():
    found = positions.alibi(8)
    for head in range(8):
        expected = -(2.0 ** -(head + 1)) * torch.arange(positions.SHOWN)  # Press et al. 2021, section 3
        torch.testing.assert_close(found[head], expected)


def test_neighbours_are_those_of_the_cosine(gpt, tokenizer):
    table = gpt.token_embedding.weight.detach().numpy()
    token = tokenizer.encode("a")[0]
    near, cosines = embeddings.nearest(gpt, token, 5)
    expected = table @ table[token] / np.linalg.norm(table, axis=1) / np.linalg.norm(table[token])
    order = [int(at) for at in np.argsort(-expected) if at != token][:5]
    assert near == order
    np.testing.assert_allclose(cosines, expected[order], atol=1e-5)
    figure = embeddings.draw(gpt, tokenizer, "abc", "tiny")[0].figure
    assert [axes.get_title() for axes in figure.axes] == ["nearest to a", "nearest to b", "nearest to c", ""]
    assert "2 more tokens" in embeddings.draw(gpt, tokenizer, "abcdefgh", "tiny")[0].caption
