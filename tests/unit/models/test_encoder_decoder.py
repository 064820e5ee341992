"""What the encoder-decoder promises: pads count for nothing, the cache changes nothing, beams find the best.

tests/parity compares it with torch's transformer and with transformers' Marian.
"""

import math
from itertools import product

import pytest
import torch
from torch.nn import functional as F

from finetune.errors import RecipeError, WeightsError
from finetune.models.cache import SourceCache
from finetune.models.encoder_decoder import DecoderWithSource, EncoderDecoder, EncoderDecoderConfig
from finetune.models.gpt import IGNORE
from finetune.models.sampling import Decoding
from finetune.models.transformer import CrossAttention

SHAPE = {"vocab_size": 61, "context": 24, "width": 32, "layers": 2, "heads": 4}
OPTIONS = {
    "gpt-2": {},
    "vanilla": {"positions": "sinusoidal", "norm": "post", "activation": "relu", "last_norm": True},
    "llama": {"positions": "rotary", "norm": "rms", "kv_heads": 2, "activation": "swiglu", "biases": False},
    "alibi": {"positions": "alibi", "encoder_layers": 1},
}
SOURCES = [torch.tensor(ids) for ids in ([3, 9, 41, 7, 22], [5], [12, 60, 8])]
TARGETS = [torch.tensor(ids) for ids in ([1, 2], [1, 33, 6, 7, 8, 9], [1, 50, 4])]


@pytest.fixture(params=OPTIONS.values(), ids=OPTIONS)
def model(request) -> EncoderDecoder:
    """Each option in turn."""
    return build(**request.param)


def build(**options) -> EncoderDecoder:
    """Two layers of width 32, weights so large that no two tokens are equally likely."""
    return EncoderDecoder(EncoderDecoderConfig(**(SHAPE | options))).initialise(1, std=0.2).eval()


def together(rows: list[torch.Tensor], left: bool, more: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    """Texts of unequal length as one batch, padded with 7, which is a token too; and where the tokens are."""
    longest = max(map(len, rows)) + more
    pads = [(longest - len(row), 0) if left else (0, longest - len(row)) for row in rows]
    ids = [F.pad(row, pad, value=7) for row, pad in zip(rows, pads, strict=True)]
    attention_mask = [F.pad(torch.ones(len(row)).bool(), pad) for row, pad in zip(rows, pads, strict=True)]
    return torch.stack(ids), torch.stack(attention_mask)


@torch.no_grad()
@pytest.mark.parametrize("source_left, target_left", [(False, False), (False, True), (True, False), (True, True)])
def test_pads_on_either_side_of_either_text_change_nothing(model, source_left, target_left):
    sources, source_mask = together(SOURCES, source_left)
    targets, target_mask = together(TARGETS, target_left)
    found = model(sources, targets, source_mask, target_mask)
    answers = targets.roll(-1, 1).masked_fill(~target_mask, IGNORE)
    loss = model.loss_sum(sources, targets, answers, source_mask, target_mask)
    parts = []
    for row, attention_mask, answer, source, target in zip(found, target_mask, answers, SOURCES, TARGETS, strict=True):
        alone = model(source[None], target[None])[0]
        torch.testing.assert_close(row[attention_mask], alone, atol=1e-5, rtol=0)
        parts.append(model.loss_sum(source[None], target[None], answer[attention_mask][None]))
    torch.testing.assert_close(loss, sum(parts))
    assert (model(sources, targets)[:, -1] - found[:, -1]).abs().max() > 0.01  # unless nobody is told which they are


@torch.no_grad()
def test_reading_in_parts_gives_the_logits_of_reading_at_once(model, monkeypatch):
    sources, attention_mask = together(SOURCES, left=True)
    targets = torch.randint(0, 61, (3, 12), generator=torch.Generator().manual_seed(2))
    whole = model(sources, targets, attention_mask)
    encoded, right = [], CrossAttention.read
    monkeypatch.setattr(CrossAttention, "read", lambda *values: encoded.append(1) or right(*values))
    for parts in ((12,), (1,) * 12, (3, 1, 8)):
        reading, end = DecoderWithSource(model, sources, attention_mask), 0
        cache = reading.new_cache(12)
        for part in targets.split(parts, dim=1):
            end += part.shape[1]
            torch.testing.assert_close(reading.next_logits(part, cache), whole[:, end - 1], atol=1e-5, rtol=0)
    assert len(encoded) == 3 * model.config.layers  # once a block and source, not once a token
    assert reading.new_cache(1000).room == 24


@torch.no_grad()
@pytest.mark.parametrize("left", [True, False])
@pytest.mark.parametrize(
    "options", [{"temperature": 0.0}, {"temperature": 1.5, "samples": 3, "top_k": 20, "seed": 4}], ids=str
)
def test_writing_with_the_cache_equals_writing_without(model, left, options):
    sources, attention_mask = together(SOURCES, left)
    found = model.generate(sources, torch.ones(3, 1).long(), 12, source_mask=attention_mask, **options)
    decoding, generator = Decoding(**options), torch.Generator().manual_seed(options.get("seed", 0))
    sources, attention_mask = (z.repeat_interleave(decoding.samples, dim=0) for z in (sources, attention_mask))
    ids = torch.ones(len(sources), 1).long()
    for _ in range(12):
        token = decoding.choose(model(sources, ids, attention_mask)[:, -1], ids, generator)
        ids = torch.cat([ids, token[:, None]], dim=1)
    assert found.tolist() == ids.tolist()
    assert found[:, 1:].unique(dim=0).shape[0] == len(found)  # each its own


@torch.no_grad()
@pytest.mark.parametrize("beams", [1, 4])
def test_a_target_does_not_depend_on_what_is_beside_it(model, beams):
    sources, attention_mask = together(SOURCES, left=False)
    targets, target_mask = together([target[:2] for target in TARGETS], left=False)
    rules = {"beams": beams, "end": 17} | ({} if beams > 1 else {"temperature": 0})
    found = model.generate(sources, targets, 10, source_mask=attention_mask, mask=target_mask, **rules)[
        :, -10:
    ].tolist()
    for row, source, target in zip(found, SOURCES, TARGETS, strict=True):
        alone = model.generate(source[None], target[None, :2], 10, **rules)[0, 2:].tolist()
        assert row[: len(alone)] == alone and set(row[len(alone) :]) <= {17}


@torch.no_grad()
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_beams_wide_enough_find_the_best_of_all_targets(options):
    toy = EncoderDecoder(EncoderDecoderConfig(**(SHAPE | options | {"vocab_size": 4, "context": 8})))
    toy.initialise(3, std=0.3).eval()
    sources, attention_mask = together([torch.tensor([1, 2, 3]), torch.tensor([2])], left=True, more=0)
    sources = sources.masked_fill(~attention_mask, 0)
    texts = torch.tensor(list(product(range(4), repeat=3)))
    K = 16  # 4 ** (3 - 1)
    found = toy.generate(sources, torch.zeros(2, 1).long(), 3, source_mask=attention_mask, beams=K, samples=K)
    for number in range(2):
        source, mask = (z[number].expand(64, -1) for z in (sources, attention_mask))
        steps = toy(source, F.pad(texts, (1, 0)), mask).log_softmax(dim=-1)[:, :-1]
        order = steps.gather(2, texts[:, :, None]).sum(dim=(1, 2)).argsort(descending=True)
        assert found[K * number : K * number + K, 1:].tolist() == texts[order[:K]].tolist()


def test_beams_of_one_source_do_not_copy_it():
    model = build()
    cache = DecoderWithSource(model, torch.stack([SOURCES[0], SOURCES[0] + 1])).new_cache(6)
    cache.keys = cache.values = torch.zeros(2, 2, 4, 6, 8)
    keys = cache.sources[0].keys
    cache.select(torch.tensor([0, 0, 1, 1]))
    wide = cache.sources[0].keys
    assert torch.equal(wide, keys[[0, 0, 1, 1]]) and cache.sources[1].mask.shape == (4, 1, 1, 5)
    cache.select(torch.tensor([1, 0, 3, 3]))
    assert isinstance(cache, SourceCache) and cache.sources[0].keys is wide
    cache.select(torch.tensor([3, 0, 0, 1]))
    assert torch.equal(cache.sources[0].keys, keys[[1, 0, 0, 0]])


def test_the_smoothed_loss_is_its_formula():
    model = build()
    sources, attention_mask = together(SOURCES, left=False)
    targets, target_mask = together(TARGETS, left=False)
    answers = targets.roll(-1, 1).masked_fill(~target_mask, IGNORE)
    logs = model(sources, targets, attention_mask)[target_mask].log_softmax(dim=-1)
    nll = -logs.gather(1, answers[target_mask][:, None]).sum()
    for smoothing in (0.0, 0.1):
        found = model.loss_sum(sources, targets, answers, attention_mask, smoothing=smoothing, chunk=4)
        torch.testing.assert_close(found, (1 - smoothing) * nll - smoothing * logs.mean(dim=1).sum())


def test_it_learns_to_turn_a_source_around():
    """Three letters backwards, which is to look at the right place of the source."""
    letters = torch.tensor(list(product(range(1, 6), repeat=3)))
    targets, answers = F.pad(letters.flip(1), (1, 0))[:, :3], letters.flip(1)
    model = EncoderDecoder(EncoderDecoderConfig(vocab_size=6, context=4, width=32, layers=1, heads=2)).initialise(1)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    first = model.loss_sum(letters, targets, answers).item() / answers.numel()
    for _ in range(80):
        optimizer.zero_grad()
        loss = model.loss_sum(letters, targets, answers, smoothing=0.05) / answers.numel()
        loss.backward()
        optimizer.step()
    assert first == pytest.approx(math.log(6), abs=0.2)
    found = model.eval().generate(letters, torch.zeros(125, 1).long(), 3, temperature=0)
    assert (found[:, 1:] == answers).all(dim=1).float().mean() > 0.95


def test_what_it_cannot_do_is_refused():
    model, start = build(), torch.ones(2, 1).long()
    for empty in (
        {"source_ids": torch.zeros(2, 0).long()},
        {"source_ids": torch.zeros(2, 3).long(), "source_mask": torch.tensor([[1, 1, 1], [0, 0, 0]]).bool()},
    ):
        with pytest.raises(RecipeError, match="a source is empty"):
            model.generate(prompt=start, max_new_tokens=3, **empty)
    with pytest.raises(WeightsError, match="25 tokens are more than the model's context; known: 24"):
        model.generate(torch.zeros(2, 25).long(), start, 3)
    with pytest.raises(WeightsError, match="output matrix is the token embedding; got tied false"):
        EncoderDecoderConfig(**SHAPE, tied=False)
