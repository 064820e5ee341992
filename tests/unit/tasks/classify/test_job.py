"""The classification task: rows into records, weights of classes, batches into loss and figures."""

import runpy
from pathlib import Path

import numpy as np
import pytest
import sklearn.metrics
import torch
from sklearn.utils.class_weight import compute_class_weight

from finetune.errors import DataError
from finetune.models.gpt import GPT, GPTConfig
from finetune.recipe import Recipe
from finetune.tables.readers import LabelledTexts, LeftOut
from finetune.tables.splits import normalise_text
from finetune.tasks.classify import data
from finetune.tasks.classify import job as classify_job
from finetune.tasks.classify import task as classify_task
from finetune.tokenizer import Tokenizer
from finetune.training import predict
from finetune.training.token_rows import TokenRows, encode

TOKENIZER = Tokenizer.of_bytes()


def source(rows=90):
    """Texts of three labels, each on its own line, some twice; row numbers with gaps, as after dropped rows."""
    texts = [f"{'long ' * (i % 7)}{chr(97 + i % 26)} {chr(97 + i // 3 % 26)}" for i in range(rows)]
    return LabelledTexts(
        [i + i // 10 for i in range(rows)],
        texts,
        ["ham", "spam", "other"][:rows] * (rows // 3),
        [LeftOut("empty text", 9, [7, 8])],
        "message",
        "class",
    )


@pytest.mark.parametrize("protocol", ["grouped", "balanced"])
def test_prepare_keeps_rows_texts_and_labels_together(protocol):
    given = source()
    records, _, card = data.prepare(Recipe(split={"protocol": protocol}), given, TOKENIZER, context=20)
    flat = [record for name in ("train", "val", "test") for record in records[name]]
    expected = {row: (text, label) for row, text, label in zip(given.rows, given.texts, given.labels, strict=True)}
    assert {record.row: (record.text, record.label) for record in flat} == expected
    assert {name: part.rows for name, part in card.splits.items()} == {n: len(r) for n, r in records.items()}
    lengths = [len(text.encode()) for text in given.texts]
    assert card.tokens.total == sum(lengths) and card.tokens.max == max(lengths)
    assert card.tokens.cut_rows == sum(length > 20 for length in lengths) > 0
    assert card.exact_duplicates == 90 - len(set(zip(given.texts, given.labels, strict=True)))
    assert card.dropped == {"empty text": 9}
    assert "9 rows left out: empty text (row 7, row 8)" in card.notes


def test_prepare_refuses_a_split_without_a_label():
    few = LabelledTexts([0, 1, 2, 3], ["a", "b", "c", "d"], ["x", "x", "x", "y"], [], "text", "label")
    with pytest.raises(DataError, match="too few rows: the train split has none of.*x 3, y 1"):
        data.prepare(Recipe(split={"protocol": "balanced"}), few, TOKENIZER, context=20)
    one = LabelledTexts([0, 1], ["a", "b"], ["x", "y"], [], "text", "label")
    with pytest.raises(DataError, match="too few rows: the val split has none of x, y"):
        data.prepare(Recipe(), one, TOKENIZER, context=20)


def test_prepare_says_that_groups_are_too_few():
    given = source(300)
    given.groups = [f"person {i % 3}" for i in range(300)]
    with pytest.raises(DataError, match=r"too few rows.*; 3 groups in column 'who' in 300 rows\. .*leave out --group"):
        data.prepare(Recipe(columns={"group": "who"}), given, TOKENIZER, 20)


def labelled(texts, labels):
    return LabelledTexts(list(range(len(texts))), texts, labels, [], "text", "label")


def test_prepare_says_that_texts_are_too_few_where_rows_are_not():
    with pytest.raises(
        DataError,
        match="split has none of x, y; got x 50, y 50; 2 different texts in 100 rows.*case, digits or white space",
    ):
        data.prepare(
            Recipe(), labelled([f"{'ab'[i % 2]} {i % 10}" for i in range(100)], ["x", "y"] * 50), TOKENIZER, 20
        )
    with pytest.raises(DataError, match="too few rows") as caught:  # this protocol does not look at texts
        data.prepare(Recipe(split={"protocol": "balanced"}), labelled(["a"] * 3, ["x", "x", "y"]), TOKENIZER, 20)
    assert "different texts" not in str(caught.value)


def test_prepare_lists_a_few_of_many_labels():
    many = labelled([f"{'a' * (i + 1)}" for i in range(500)], [f"label {i}" for i in range(500)])
    with pytest.raises(DataError, match="too few rows") as caught:
        data.prepare(Recipe(), many, TOKENIZER, 20)
    assert len(str(caught.value)) < 500 and "and 492 more" in str(caught.value)


def test_prepare_notes_a_split_that_is_off_its_share():
    unique = [f"{'a' * (i % 30)} {'b' * (i // 30)} c" for i in range(200)]
    repeated = labelled(unique + ["the same"] * 800, ["x", "y"] * 500)
    *_, card = data.prepare(Recipe(), repeated, TOKENIZER, 20)
    rows = {name: part.rows for name, part in card.splits.items()}
    notes = [note for note in card.notes if "instead of" in note]
    shares = {"train": 0.7, "val": 0.1, "test": 0.2}
    off = [name for name, share in shares.items() if abs(rows[name] / 1000 / share - 1) > 0.2]
    assert off and [note.split()[1] for note in notes] == off and all("800 rows" in note for note in notes)
    assert f"{rows['val'] / 1000:.0%} of the rows instead of 10%" in notes[off.index("val")]
    for texts, labels in ((unique, ["x", "y"] * 100), (unique[:14], ["x", "y"] * 7)):
        *_, card = data.prepare(Recipe(), labelled(texts, labels), TOKENIZER, 20)
        assert not any("instead of" in note for note in card.notes)


def test_prepare_keeps_given_splits_and_counts_their_overlap():
    given = source()
    given.sides = ["train"] * 60 + ["test"] * 30
    given.groups = [f"person {i % 50}" if i % 2 else "" for i in range(90)]
    given.texts[80:84] = [given.texts[i].upper() for i in (0, 1, 2, 80)]
    records, _, card = data.prepare(Recipe(columns={"group": "who"}), given, TOKENIZER, 200)
    assert [record.row for record in records["test"]] == given.rows[60:]
    assert len(records["train"]) + len(records["val"]) == 60 and 3 <= len(records["val"]) <= 9
    train = [normalise_text(record.text) for name in ("train", "val") for record in records[name]]
    both = sum(normalise_text(record.text) in train for record in records["test"])
    assert both >= 3 and any(
        note.startswith(f"{both} of 30 test rows have the same normalised text") for note in card.notes
    )
    own = {
        name: {given.groups[given.rows.index(record.row)] for record in records[name]} - {""}
        for name in ("train", "val", "test")
    }
    assert not own["train"] & own["val"]
    tied = sum(given.groups[i] in own["train"] | own["val"] for i in range(60, 90))
    shared = next(finding for finding in card.checks if finding.check == "shared_groups")
    assert tied > 3 and shared.level == "warning" and shared.count == tied
    assert shared.what.startswith(f"{tied} of 30 test rows have a group")
    with pytest.raises(DataError, match="balanced needs a single table"):
        data.prepare(Recipe(split={"protocol": "balanced"}), given, TOKENIZER, 200)


def test_texts_are_truncated_without_extra_tokens():
    cut, whole = encode(TOKENIZER, ["abcdef", "é"], 4)
    assert TOKENIZER.decode(cut) == "abcd" and TOKENIZER.decode(whole) == "é" and len(cut) == 4
    found = classify_job.examples(
        [data.LabelledRow(5, "hey", "b"), data.LabelledRow(9, "yo", "a")], ["a", "b"], TOKENIZER, 2
    )
    assert (found.rows, found.targets.tolist()) == ([5, 9], [1, 0])
    assert [TOKENIZER.decode(ids) for ids in found.ids] == ["he", "yo"]


def test_balanced_weights_are_scikit_learns():
    targets = np.random.default_rng(0).choice(4, size=300, p=[0.6, 0.25, 0.1, 0.05])
    expected = compute_class_weight("balanced", classes=np.arange(4), y=targets)
    assert classify_job.class_weights(targets, 4, "balanced") == pytest.approx(expected, rel=1e-12)
    assert classify_job.class_weights(targets, 4, "none").tolist() == [1, 1, 1, 1]
    weights = np.random.default_rng(1).uniform(0.01, 2, 300)
    weighted = compute_class_weight("balanced", classes=np.arange(4), y=targets, sample_weight=weights)
    assert classify_job.class_weights(targets, 4, "balanced", weights) == pytest.approx(weighted, rel=1e-12)


@pytest.mark.parametrize("kind", ["none", "balanced"])
def test_a_row_of_weight_2_counts_as_two_rows(kind):
    model = classify_job.build_model(GPT(GPTConfig(50, 8, 16, 1, 2)).initialise(0, std=0.2), 3, seed=0).eval()
    random = np.random.default_rng(0)
    ids = TokenRows.of([[random.integers(0, 50, 5).tolist() for _ in range(8)]], 50)
    targets, weights = random.permutation([0, 0, 0, 1, 1, 1, 2, 2]), random.integers(1, 4, 8)
    twice = np.repeat(np.arange(8), weights)
    settings = Recipe(train={"class_weights": kind}).train
    trainable = classify_task.TASK.configure_trainable(
        model, model.body, settings.model_copy(update={"method": "full"})
    )
    found = []
    for rows, given in ((np.arange(8), weights.astype(float)), (twice, None)):
        part = classify_job.Examples(rows.tolist(), ids.take(rows), targets[rows], given)
        job = classify_job.build_job(model, trainable, settings, part, part, torch.device("cpu"))
        every = list(range(len(rows)))
        loss = job.loss_sum(model, job.batch(every)).item() / sum(job.weights[row] for row in every)
        found.append([loss, *job.validate(model).values()])
    assert found[0] == pytest.approx(found[1], rel=1e-5)


def test_head_is_seeded_and_as_wide_as_gpt2s_matrices():
    heads = [classify_job.build_model(GPT(GPTConfig(10, 4, 512, 1, 1)), 8, seed).head.weight for seed in (1, 1, 2)]
    assert torch.equal(heads[0], heads[1]) and not torch.equal(heads[0], heads[2])
    assert heads[0].std().item() == pytest.approx(0.02, rel=0.05) and heads[0].shape == (8, 512)


def test_logits_come_in_the_order_of_the_rows_whatever_the_batches():
    model = classify_job.build_model(GPT(GPTConfig(50, 40, 16, 2, 2)).initialise(0, std=0.2), 3, seed=0).eval()
    random = np.random.default_rng(0)
    rows = [random.integers(0, 50, length).tolist() for length in (9, 1, 40, 3, 9, 25)]
    with torch.no_grad():
        alone = torch.cat([model.head(model.body.hidden_states(torch.tensor([row]))[:, -1]) for row in rows]).numpy()
        states = [model.lower(torch.tensor([row]), torch.tensor([len(row) - 1]), 1)[0] for row in rows]
    for budget in (1, 80, 10**6):
        np.testing.assert_allclose(predict.predict_logits(model, rows, budget=budget), alone, atol=2e-6)
        np.testing.assert_allclose(predict.predict_logits(model, rows, states, 1, budget), alone, atol=2e-6)


@pytest.mark.parametrize("method", ["full", "last-blocks"])
def test_validation_metrics_equal_scikit_learns(method):
    toy = runpy.run_path(str(Path(__file__).parents[3] / "toy.py"))
    job, _ = toy["toy_job"](method)
    job.model.head.weight.data *= 30  # away from even odds
    texts, targets = toy["toy_texts"]()
    logits = predict.predict_logits(job.model.eval(), encode(TOKENIZER, texts[44:], 128))
    probabilities = torch.softmax(torch.from_numpy(logits).double(), -1).numpy()
    guessed = probabilities.argmax(1)
    assert len(set(guessed.tolist())) == 2
    assert job.validate(job.model) == pytest.approx(
        {
            "log_loss": sklearn.metrics.log_loss(targets[44:], probabilities),
            "accuracy": sklearn.metrics.accuracy_score(targets[44:], guessed),
            "f1_macro": sklearn.metrics.f1_score(targets[44:], guessed, average="macro"),
        },
        rel=1e-6,
    )
    assert job.name_row(3) == "103"


def test_validation_of_broken_weights_gives_nan_without_a_crash():
    job, _ = runpy.run_path(str(Path(__file__).parents[3] / "toy.py"))["toy_job"]("full")
    job.model.head.weight.data.fill_(float("nan"))
    assert np.isnan(job.validate(job.model)["log_loss"])
