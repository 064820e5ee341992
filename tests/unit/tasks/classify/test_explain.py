"""Evidence on errors: occlusion against captum, near rows and near duplicates, changes that flip decisions."""

import numpy as np
import pytest
import torch
from captum.attr import FeatureAblation

from finetune.evaluation.aims import Rule
from finetune.models.gpt import GPT, GPTConfig
from finetune.tasks.classify import explain
from finetune.tasks.classify.data import LabelledRow
from finetune.tasks.classify.job import build_model, examples
from finetune.tokenizer import Tokenizer
from finetune.training.predict import predict_logits, predict_states

TOKENIZER, LABELS = Tokenizer.of_bytes(), ["ham", "spam"]


@pytest.fixture(scope="module")
def trained():
    gpt = GPT(GPTConfig(TOKENIZER.vocab_size, 100, 16, 2, 2)).initialise(0, std=0.2)
    model = build_model(gpt, 2, seed=0).eval()
    model.head.weight.data *= 30
    return explain.Trained(model, TOKENIZER, LABELS, 1, Rule(aim="half", threshold=0.5), 1.7, 90, str)


@pytest.mark.parametrize(
    "text", ["free cash!", "x" * 30 + " and a longer text, so that a piece has more than one token" * 1]
)
def test_occlusion_equals_captums_feature_ablation(trained, text):
    ids = TOKENIZER.encode(text)[:90]
    pieces = np.array_split(np.arange(len(ids)), min(explain.SPANS[1], len(ids)))
    mask = torch.zeros(1, len(ids), dtype=torch.long)
    for at, piece in enumerate(pieces):
        mask[0, piece] = at

    def odds(inputs):
        logits = trained.model(inputs, torch.full((len(inputs),), len(ids) - 1))
        return (logits[:, 1] - logits[:, 0]) / trained.temperature

    with torch.no_grad():
        expected = FeatureAblation(odds).attribute(
            torch.tensor([ids]), baselines=TOKENIZER.encode(" ")[0], feature_mask=mask
        )[0]
    found = explain.occlusion_shifts(trained, ids, pieces, predicted=1, true=0)
    np.testing.assert_allclose(found, [expected[piece[0]] for piece in pieces], atol=1e-5)
    assert np.abs(found).max() > 0.01
    spans = explain.occlude(trained, ids, 1, 0)
    assert len(spans) == 5 and abs(spans[0].shift) == pytest.approx(np.abs(found).max())
    assert spans[0].text == TOKENIZER.decode([ids[i] for i in pieces[int(np.abs(found).argmax())]])


def records_of(texts, labels):
    return [LabelledRow(row, text, label) for row, (text, label) in enumerate(zip(texts, labels, strict=True))]


def test_the_nearest_training_row_of_an_error_is_its_copy_with_the_other_label(trained):
    texts = [f"some text number {i} {'abc' * (i % 5)}" for i in range(40)]
    ids = examples(records_of(texts, ["ham"] * 40), LABELS, TOKENIZER, 90).ids
    logits = predict_logits(trained.model, ids)
    predicted = trained.decide(logits)
    true = 1 - predicted[:6]  # so that each of them is wrong
    records = {
        "train": records_of(texts, [LABELS[i] for i in predicted]),
        "test": records_of(texts[:6], [LABELS[i] for i in true]),
    }
    parts = {name: examples(own, LABELS, TOKENIZER, 90) for name, own in records.items()}
    found, compared = explain.explain_errors(
        trained, records, parts, logits[:6], predicted[:6], explain.Effort(200, 2000, 64)
    )
    assert compared == 40 and {error.row for error in found} == set(range(6))
    for error in found:
        nearest = error.neighbours[0]
        assert (nearest.row, nearest.text) == (error.row, texts[error.row]) and nearest.similarity == pytest.approx(1)
        assert nearest.label == error.predicted != error.label and len(error.neighbours) == 3
    states = predict_states(trained.model, list(ids))
    np.testing.assert_allclose(states @ trained.model.head.weight.detach().numpy().T, logits, atol=1e-4)


def test_near_duplicates_of_other_splits_are_found():
    words = [
        "one",
        "two",
        "three",
        "four",
        "five",
        "six",
        "seven",
        "eight",
        "nine",
        "ten",
        "eleven",
        "twelve",
        "thirteen",
        "fourteen",
    ]
    own = [" ".join(np.random.default_rng(i).choice(words, 12)) for i in range(30)]
    texts = {"train": own[:10], "val": own[10:20], "test": [own[3] + "!", own[12].upper(), own[25], own[26]]}
    assert explain.near_other_splits(texts).tolist() == [True, True, False, False]


def test_flips_are_the_decisions_on_changed_texts(trained):
    texts = [f'Call me at {i}, it\'s about "lunch"-time' for i in range(30)] + ["x"]
    ids = examples(records_of(texts, ["ham"] * 31), LABELS, TOKENIZER, 90).ids
    predicted = trained.decide(predict_logits(trained.model, ids))
    rows, found = explain.changed_decisions(trained, texts, predicted)
    by_name = {entry.change: entry.share for entry in found}
    assert rows == 31 and len(by_name) == 8 and by_name["two letters of a word swapped"].n == 30
    upper = examples(records_of([text.upper() for text in texts], ["ham"] * 31), LABELS, TOKENIZER, 90).ids
    flipped = trained.decide(predict_logits(trained.model, upper)) != predicted
    assert by_name["upper case"].value == pytest.approx(flipped.mean())
    assert any(share.value for share in by_name.values())


def test_the_effort_is_about_a_pass_over_the_training_rows_within_limits():
    for rows, tokens in ((4000, 25), (20_000, 10)):
        effort = explain.Effort.of([tokens] * rows, [tokens] * 500)
        read = tokens * (8 * effort.changed + effort.compared + explain.ERRORS * effort.pieces)
        assert read <= 1.01 * rows * tokens
        assert effort.changed == 200 and effort.pieces == 64
    small = explain.Effort.of([25] * 300, [25] * 100)
    assert (small.changed, small.compared, small.pieces) == (40, 150, 16)
    between = explain.Effort.of([20] * 1600, [20] * 200)
    assert (between.changed, between.compared, between.pieces) == (100, 320, 48)


def test_candidates_are_those_like_the_errors_in_words_and_an_even_sample():
    train = [f"row {number} word{number % 50}" for number in range(1000)]
    train[777] = "something rare indeed"
    kept = explain.candidates(train, ["quite something rare", "word7"], 60)
    assert 777 in kept and len(kept) <= 62 and len(set(kept)) == len(kept)
    assert sum(train[at].endswith(" word7") for at in kept) >= 15
    assert np.diff(np.flatnonzero(np.isin(np.arange(1000), kept))).max() <= 40, "an even sample"
    assert explain.candidates(train[:10], ["x"], 60).tolist() == list(range(10))
    assert len(explain.candidates(["..."] * 100, ["!"], 60)) == 60
