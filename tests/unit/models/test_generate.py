"""The loop that grows texts: ends, stops, samples, beams, and what is longer than the context.

tests/parity compares greedy and beam search with transformers.
"""

import re
from itertools import product

import pytest
import torch
from scipy.stats import chisquare

from finetune.errors import RecipeError
from finetune.models.gpt import GPT, GPTConfig
from finetune.models.text_stream import StopStrings
from finetune.tokenizer import Tokenizer

CONTEXT = 24
DRAWS = 20_000


@pytest.fixture(scope="module")
def model():
    """Two blocks of width 32 over bytes."""
    return GPT(GPTConfig(vocab_size=257, context=CONTEXT, width=32, layers=2, heads=4)).initialise(7, std=0.2).eval()


@pytest.fixture(scope="module")
def toy():
    """Four tokens only, so that every continuation can be written down."""
    return GPT(GPTConfig(vocab_size=4, context=8, width=16, layers=1, heads=2)).initialise(3, std=0.5).eval()


def prompts(*lengths: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(sum(lengths))
    return [torch.randint(0, 256, (1, length), generator=generator) for length in lengths]


def together(rows: list[torch.Tensor], left: bool) -> dict:
    """Prompts of unequal length as one batch, with 9 for a pad, which is a token too."""
    longest = max(row.shape[1] for row in rows)
    ids, mask = torch.full((len(rows), longest), 9), torch.zeros(len(rows), longest, dtype=torch.bool)
    for i, row in enumerate(rows):
        part = slice(longest - row.shape[1], longest) if left else slice(row.shape[1])
        ids[i, part], mask[i, part] = row[0], True
    return {"input_ids": ids, "mask": mask}


@torch.no_grad()
def read_anew(model: GPT, ids: torch.Tensor, new: int) -> torch.Tensor:
    """Greedy, every step from scratch, by the rule for texts longer than the context: (1, T) -> (1, T + new)."""
    window = ids
    for left in range(new, 0, -1):
        if window.shape[1] > CONTEXT:
            window = window[:, -(CONTEXT - min(left - 1, CONTEXT // 2)) :]
        token = model(window)[:, -1].argmax(dim=-1, keepdim=True)
        window, ids = torch.cat([window, token], dim=1), torch.cat([ids, token], dim=1)
    return ids


@pytest.mark.parametrize("left", [True, False])
def test_a_text_does_not_depend_on_what_is_beside_it(model, left):
    """Also past the context, where each text slides by its own length."""
    rows = prompts(1, 5, 23, 24, 25, 40, 2)
    for new in (1, 6, 50):
        found = model.generate(**together(rows, left), max_new_tokens=new, temperature=0, note=lambda _: None)
        assert found.shape == (7, 40 + new)
        for row, ids in zip(rows, found, strict=True):
            expected = read_anew(model, row, new)[0]
            assert ids[-len(expected) :].tolist() == expected.tolist()
            assert (ids[: 40 + new - len(expected)] == 9).all()


@pytest.mark.parametrize(
    "length, new, said",
    [
        (24, 1, None),
        (5, 20, None),
        (25, 1, "25 tokens are more than the context of 24: .* the last 24"),
        (40, 5, "40 tokens .* the last 20"),
        (5, 21, "25 tokens .* the last 24"),
        (5, 40, "25 tokens .* the last 12"),
    ],
)
def test_exceeding_the_context_is_reported_once(model, length, new, said):
    notes = []
    model.generate(prompts(length)[0], new, temperature=0, note=notes.append)
    assert len(notes) == (said is not None)
    if said:
        assert re.search(said, notes[0])


def test_beams_go_past_the_context(model):
    found = model.generate(prompts(30)[0], 30, beams=3, samples=2, note=lambda _: None)
    assert found.shape == (2, 60) and found[0].tolist() != found[1].tolist()


def test_the_memory_is_taken_once(model):
    cache = model.new_cache(10)
    model.next_logits(prompts(4)[0], cache)
    taken = cache.keys.data_ptr(), cache.keys.shape
    assert taken[1] == (2, 1, 4, 10, 8) == cache.values.shape
    for length in range(5, 11):
        model.next_logits(prompts(1)[0], cache)
        assert cache.length == length and (cache.keys.data_ptr(), cache.keys.shape) == taken
    assert model.new_cache(1000).room == CONTEXT


@torch.no_grad()
def test_reading_in_parts_gives_the_logits_of_reading_at_once(model):
    ids = torch.cat(prompts(8, 8, 8), dim=1)
    whole = model(ids)
    for parts in ((24,), (1,) * 24, (5, 1, 7, 11), (23, 1)):
        cache, end = model.new_cache(24), 0
        for part in ids.split(parts, dim=1):
            end += part.shape[1]
            torch.testing.assert_close(model.next_logits(part, cache), whole[:, end - 1], atol=1e-5, rtol=0)


def test_only_the_last_position_gets_logits(model, monkeypatch):
    widths, right = [], torch.nn.functional.linear

    def spy(x, weight, bias=None):
        if len(weight) == 257:
            widths.append(x.shape)
        return right(x, weight, bias)

    monkeypatch.setattr(torch.nn.functional, "linear", spy)
    model.generate(torch.cat(prompts(9, 9)), 3, temperature=0)
    assert widths == [(2, 32)] * 3


def test_what_follows_the_end_is_the_end(model):
    prompt = torch.tensor([[5, 6], [7, 8]])
    free = model.generate(prompt, 10, temperature=0)
    end = int(free[0, 4])
    stopped = model.generate(prompt, 10, temperature=0, end=end)
    first = stopped[0].tolist().index(end, 2)
    assert stopped[0, : first + 1].tolist() == free[0, : first + 1].tolist()
    assert set(stopped[0, first:].tolist()) == {end}
    assert model.generate(prompt[:1], 10, temperature=0, end=end).shape == (1, first + 1)


@pytest.mark.parametrize("options", [{"temperature": 0}, {"beams": 3, "length_penalty": -2.0}], ids=str)
def test_a_stop_string_ends_a_text(model, options):
    tokenizer = Tokenizer.of_bytes()
    prompt = prompts(3)[0]
    free = model.generate(prompt, 15, **options)[0, 3:].tolist()
    try_at = next(i for i in range(4, 12) if tokenizer.decode_bytes(free[i : i + 2]).isascii())
    string = tokenizer.decode_bytes(free[try_at : try_at + 2]).decode()
    stop = StopStrings(tokenizer, ["never this", string])
    stopped = model.generate(prompt, 15, stop=stop, **options)[0, 3:].tolist()
    assert string.encode() in tokenizer.decode_bytes(stopped) and not stop(stopped[:-1])
    if "temperature" in options:
        assert stopped == free[: len(stopped)] and len(stopped) <= try_at + 2


def test_samples_of_a_prompt_stand_together_and_differ(model):
    batch = together(prompts(4, 2), left=False)
    found = model.generate(**batch, max_new_tokens=8, samples=3, temperature=3.0, seed=5)
    assert found.shape == (6, 12) and len({tuple(row) for row in found.tolist()}) == 6
    assert (found[:3, :4] == batch["input_ids"][0]).all() and (found[3:, 2:4] == batch["input_ids"][1, :2]).all()
    assert torch.equal(found, model.generate(**batch, max_new_tokens=8, samples=3, temperature=3.0, seed=5))
    assert not torch.equal(found, model.generate(**batch, max_new_tokens=8, samples=3, temperature=3.0, seed=6))


def test_draws_of_two_tokens_follow_the_exact_distribution(toy):
    """The second is drawn from a cache that was taken apart into samples after the first."""
    prompt = torch.tensor([[2, 1, 3]])
    drawn = toy.generate(prompt, 2, samples=DRAWS, temperature=4.0, seed=2)[:, 3:]
    expected = []
    for first, second in product(range(4), repeat=2):
        with torch.no_grad():
            logits = toy(torch.tensor([[2, 1, 3, first]]))[0, 2:].double() / 4.0
        p = logits.softmax(dim=-1)
        expected.append(DRAWS * (p[0, first] * p[1, second]).item())
    counts = [int((drawn == torch.tensor(pair)).all(dim=1).sum()) for pair in product(range(4), repeat=2)]
    assert sum(expected) == pytest.approx(DRAWS)
    assert chisquare(counts, [DRAWS * e / sum(expected) for e in expected]).pvalue > 1e-3


@pytest.mark.parametrize("length", [2, 3])
def test_beams_wide_enough_find_the_best_of_all_texts(toy, length):
    prompt = torch.tensor([[0, 2]])
    texts = torch.tensor(list(product(range(4), repeat=length)))
    with torch.no_grad():
        steps = toy(torch.cat([prompt.expand(len(texts), -1), texts], dim=1)).log_softmax(dim=-1)[:, 1:-1]
    scores = steps.gather(2, texts[:, :, None]).sum(dim=(1, 2))
    order = scores.argsort(descending=True)
    K = 4 ** (length - 1)
    found = toy.generate(prompt, length, beams=K, samples=K)[:, 2:]
    assert found.tolist() == texts[order[:K]].tolist()
    narrow = toy.generate(prompt, length, beams=2)[0, 2:].tolist()
    assert scores[texts.tolist().index(narrow)] <= scores.max()


def test_the_length_penalty_is_that_of_its_formula(toy):
    """All texts that end with token 0 or at 3 tokens, scored by hand; a penalty of 0 and below stops nothing early."""
    prompt = torch.tensor([[1, 3]])
    texts = [
        text
        for n in (1, 2, 3)
        for text in product(range(4), repeat=n)
        if 0 not in text[:-1] and (text[-1] == 0 or n == 3)
    ]
    best = set()
    for penalty in (0.0, -1.0, -4.0):
        scores = []
        for text in texts:
            ids = torch.cat([prompt, torch.tensor([text])], dim=1)
            with torch.no_grad():
                steps = toy(ids).log_softmax(dim=-1)[0, 1:-1]
            log_probability = sum(steps[i, token].item() for i, token in enumerate(text))
            scores.append(log_probability / len(text) ** penalty)
        expected = texts[max(range(len(texts)), key=scores.__getitem__)]
        assert tuple(toy.generate(prompt, 3, beams=16, end=0, length_penalty=penalty)[0, 2:].tolist()) == expected
        best.add(expected)
    assert len(best) > 1  # the penalty decides


def test_each_step_is_reported(model):
    told = []
    found = model.generate(torch.cat(prompts(3, 3)), 6, samples=2, temperature=1.0, on_tokens=told.append)
    assert torch.equal(torch.stack(told, dim=1), found[:, 3:])


def test_what_cannot_be_continued_is_refused(model):
    with pytest.raises(RecipeError, match="max_new_tokens is out of range; got 0"):
        model.generate(prompts(3)[0], 0)
    for empty in (
        {"input_ids": torch.zeros(1, 0, dtype=torch.long)},
        {"input_ids": torch.zeros(0, 3).long()},
        {"input_ids": torch.zeros(2, 3).long(), "mask": torch.tensor([[1, 1, 1], [0, 0, 0]])},
    ):
        with pytest.raises(RecipeError, match="a prompt is empty"):
            model.generate(**empty, max_new_tokens=3)
    with pytest.raises(TypeError, match="temprature"):
        model.generate(prompts(3)[0], 3, temprature=1.0)


def diverse_reference(model, ids, new, beams, groups, penalty):
    """Diverse beam search as Vijayakumar et al. 2018 write it, algorithm 1, without a cache and with plain lists."""
    K = beams // groups
    open_beams = [[((), 0.0)] for _ in range(groups)]
    for _ in range(new):
        taken = torch.zeros(model.config.vocab_size)
        for group in range(groups):
            candidates = []
            for tokens, score in open_beams[group]:
                row = torch.tensor([[*ids[0].tolist(), *tokens]])
                for token, step in enumerate(model(row)[0, -1].log_softmax(-1).tolist()):
                    cost = penalty * float(taken[token])
                    candidates.append((score + step - cost, (*tokens, token), score + step))
            best = sorted(candidates, reverse=True)[:K]
            open_beams[group] = [(tokens, score) for _, tokens, score in best]
            for _, tokens, _ in best:
                taken[tokens[-1]] += 1
    found = [beam for group in open_beams for beam in group]
    return [list(tokens) for tokens, _ in sorted(found, key=lambda beam: -beam[1])]


@torch.no_grad()
@pytest.mark.parametrize("beams, groups, penalty", [(4, 2, 0.7), (3, 3, 2.0), (6, 2, 0.2)])
def test_groups_of_beams_are_those_of_the_paper(toy, beams, groups, penalty):
    ids = torch.tensor([[1, 3]])
    found = toy.generate(
        ids, 3, beams=beams, beam_groups=groups, diversity_penalty=penalty, samples=beams, length_penalty=0.0
    )
    assert found[:, 2:].tolist() == diverse_reference(toy, ids, 3, beams, groups, penalty)


def test_groups_begin_with_different_tokens_and_a_batch_is_its_rows(toy):
    ids = torch.tensor([[1, 3], [2, 2]])
    options = {"beams": 3, "beam_groups": 3, "diversity_penalty": 50.0, "samples": 3, "end": 0}
    together = toy.generate(ids, 4, **options)
    assert len(set(together[:3, 2].tolist())) == 3
    for number in range(2):
        alone = toy.generate(ids[number : number + 1], 4, **options)
        assert together[3 * number : 3 * number + 3, : alone.shape[1]].tolist() == alone.tolist()


@pytest.mark.parametrize(
    "options, part",
    [
        ({"beams": 4, "beam_groups": 3}, "4 beams in 3 groups"),
        ({"beams": 2, "beam_groups": 4}, "beam_groups is out of range; got 4; known: 1 to the number of beams, 2"),
        ({"beams": 4, "diversity_penalty": 1.0}, "needs several groups"),
        ({"beams": 4, "beam_groups": 2, "diversity_penalty": 0.0}, "diversity_penalty is out of range"),
    ],
)
def test_groups_that_cannot_be_are_refused(options, part):
    from finetune.models.sampling import Decoding

    with pytest.raises(RecipeError) as error:
        Decoding(**options)
    assert part in str(error.value)
