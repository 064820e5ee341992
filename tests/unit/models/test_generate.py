"""Decoding against transformers and against probabilities worked out by hand."""

import pytest
import torch

from finetune.models.generate import generate
from finetune.models.gpt import GPT, GPTConfig
from finetune.models.sampling import filter_logits


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Our GPT and transformers' with the same random weights."""
    from transformers import GPT2LMHeadModel

    from finetune.checkpoints.store import write_checkpoint
    from finetune.tokenizer import Tokenizer
    ours = GPT(GPTConfig(vocab_size=257, context=24, width=32, layers=2, heads=4)).initialise(7, std=0.2).eval()
    directory = tmp_path_factory.mktemp("checkpoint") / "gpt"
    write_checkpoint(directory, ours, Tokenizer.of_bytes())
    return ours, GPT2LMHeadModel.from_pretrained(directory).eval()


def test_greedy_equals_transformers(pair):
    ours, theirs = pair
    for seed in range(10):
        prompt = torch.randint(0, 256, (1, 5), generator=torch.Generator().manual_seed(seed))
        expected = theirs.generate(prompt, max_new_tokens=19, do_sample=False, eos_token_id=None, pad_token_id=0)
        assert generate(ours, prompt, 19, temperature=0).tolist() == expected.tolist()


def test_longer_than_the_context_goes_on(pair):
    ours, _ = pair
    prompt = torch.zeros(1, 40, dtype=torch.long)
    assert generate(ours, prompt, 5).shape == (1, 45)
    assert generate(ours, prompt, 5, seed=1).tolist() == generate(ours, prompt, 5, seed=1).tolist()


def test_what_follows_the_end_is_the_end(pair):
    ours, _ = pair
    prompt = torch.tensor([[5, 6], [7, 8]])
    free = generate(ours, prompt, 10, temperature=0)
    end = int(free[0, 4])
    stopped = generate(ours, prompt, 10, temperature=0, end=end)
    first = stopped[0].tolist().index(end, 2)
    assert set(stopped[0, first:].tolist()) == {end}


def test_top_p_keeps_the_smallest_set_that_reaches_p():
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()
    for p, kept in ((0.4, 1), (0.5, 1), (0.51, 2), (0.8, 2), (0.81, 3), (1.0, 4)):
        assert int(filter_logits(logits, 1.0, top_p=p).isfinite().sum()) == kept
    assert filter_logits(logits, 1.0, top_k=2).isfinite().tolist() == [[True, True, False, False]]


def test_sampling_follows_the_distribution(pair):
    from scipy.stats import chisquare
    ours, _ = pair
    prompt = torch.tensor([[5, 6, 7]])
    drawn = generate(ours, prompt.expand(4000, -1), 1, temperature=2.0, top_k=8, seed=3)[:, -1]
    with torch.no_grad():
        probabilities = (ours(prompt)[0, -1] / 2.0).topk(8)
    counts = [int((drawn == token).sum()) for token in probabilities.indices]
    assert sum(counts) == 4000
    assert chisquare(counts, 4000 * probabilities.values.double().softmax(0).numpy()).pvalue > 1e-4
