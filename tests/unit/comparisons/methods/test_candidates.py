"""What a candidate reads is what its rows say it reads."""

import torch

from finetune.comparisons.methods.candidates import CANDIDATES, FIRST, LAST, PADDED, read_out
from finetune.comparisons.methods.settings import Methods
from finetune.models.gpt import GPT, GPTConfig
from finetune.models.heads import Classifier
from finetune.recipe import Train
from finetune.training.token_rows import TokenRows

ROWS = [[5, 6, 7], [8], [1, 2, 3, 4, 9]]


def rows():
    return TokenRows.of([ROWS], 256)


def test_rows_of_each_read_out():
    assert list(read_out(rows(), LAST, 4, 0)) == ROWS
    assert list(read_out(rows(), FIRST, 4, 0)) == [[5], [8], [1]]
    assert list(read_out(rows(), PADDED, 4, 0)) == [[5, 6, 7, 0], [8, 0, 0, 0], [1, 2, 3, 4]]


def test_a_text_cut_to_its_first_token_is_the_whole_text_read_there():
    torch.manual_seed(0)
    model = Classifier(GPT(GPTConfig(vocab_size=16, context=8, width=16, layers=2, heads=2)).initialise(0), 3)
    model.initialise_head(1).eval()
    for own in ROWS:
        whole = model(torch.tensor([own]), torch.tensor([0]))
        cut = model(torch.tensor([own[:1]]), torch.tensor([0]))
        torch.testing.assert_close(whole, cut, rtol=1e-5, atol=1e-6)


def test_settings_are_the_recipes_with_the_candidates_own():
    asked = Train(batch_size=4, epochs=2)
    settings = CANDIDATES["last-block"].settings(asked, 7)
    assert (settings.method, settings.last_blocks, settings.seed) == ("last-blocks", 1, 7)
    assert (settings.batch_size, settings.epochs, settings.lr) == (4, 2, None)


def test_a_recipe_compares_all_of_them():
    assert set(Methods().candidates) == set(CANDIDATES)
