"""Rows with any number of labels: the loss as in transformers, the split, the scores, the bundle and its page."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from scipy.special import expit
from sklearn import metrics as sk
from sklearn.preprocessing import MultiLabelBinarizer
from transformers import GPT2ForSequenceClassification

from finetune.config import validate
from finetune.errors import DataError, RecipeError
from finetune.evaluation.results import Start, StartWeights
from finetune.models.gpt import GPT, GPTConfig
from finetune.pipeline import classify_request
from finetune.recipe import Recipe, Train
from finetune.tables.readers import LabelledTexts
from finetune.tables.splits import normalise_text
from finetune.tasks.base import task_of
from finetune.tasks.classify import data, export
from finetune.tasks.classify.bundle import Bundle, BundleCard, ManyBundle, predict_table
from finetune.tasks.classify.job import Examples, build_job, build_model
from finetune.tasks.classify.many.job import label_indicators, many_labels
from finetune.tasks.classify.many.score import score_many
from finetune.tasks.classify.score import MOST_FREQUENT, TFIDF, verdict
from finetune.tasks.classify.score_file import score_file
from finetune.tokenizer import Tokenizer
from finetune.training.token_rows import encode
from finetune.training.trainable import freeze

TOKENIZER, LABELS = Tokenizer.of_bytes(), ["a", "b", "c"]
START = Start("full", StartWeights("mini", "bundled", "MIT", {}, fallback=False, note=""))
ROWS = ["a", "a;b", "", "c", "b;c", "a;c"]
TEXTS = ["one", "two words", "three", "4", "five and more", "six"]


@pytest.fixture
def model():
    gpt = GPT(GPTConfig(TOKENIZER.vocab_size, 32, 16, 2, 2)).initialise(0, std=0.2)
    model = build_model(gpt, len(LABELS), seed=0).eval()
    model.head.weight.data *= 30
    return model


@pytest.fixture
def bundle(model, tmp_path):
    """A bundle as an export writes it."""
    from finetune.export import hf

    card = BundleCard(
        schema_version=1,
        task="classify",
        labels=LABELS,
        positive=None,
        max_length=20,
        threshold=None,
        thresholds=[0.2, 0.5, 0.9],
        temperature=1.0,
        weights=START.weights,
        tokenizer_sha256=TOKENIZER.fingerprint(),
        data_sha256="d" * 64,
        recipe_sha256="e" * 64,
    )
    hf.write(export.exportable("run", model, TOKENIZER, card, TEXTS, []), tmp_path / "bundle")
    return tmp_path / "bundle"


def test_the_loss_is_transformers_multi_label_loss(model, bundle):
    theirs = GPT2ForSequenceClassification.from_pretrained(bundle)
    assert theirs.config.problem_type == "multi_label_classification"
    y = label_indicators(ROWS, LABELS)
    part = Examples(list(range(6)), encode(TOKENIZER, TEXTS), y)
    settings = Train(method="full", epochs=1, lr=1e-3, precision="fp32")
    objective = many_labels(part, part, settings)
    trainable = freeze(model, model.body, "full", 1)
    job = build_job(model, trainable, settings, part, part, torch.device("cpu"), objective=objective)
    ours = job.loss_sum(model, job.batch(list(range(6)))) / sum(job.weights)
    ids, last, *_ = job.batch(list(range(6)))
    mask = (torch.arange(ids.shape[1]) <= last[:, None]).long()
    ids = ids.masked_fill(mask == 0, TOKENIZER.end_of_text)
    found = theirs(ids, attention_mask=mask, labels=torch.from_numpy(y))
    assert ours.item() == pytest.approx(found.loss.item(), rel=1e-5)
    logits = Bundle.load(bundle).logits(TEXTS)
    assert np.abs(logits - found.logits.detach().numpy()).max() < 1e-4
    assert objective.validate(logits)["log_loss"] == pytest.approx(found.loss.item(), rel=1e-4)


def test_balanced_weights_are_rows_without_the_label_over_rows_with_it():
    y = label_indicators(["a", "a;b", "a", "a;c"], LABELS)
    logits = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    part = Examples(list(range(4)), encode(TOKENIZER, ["a", "b", "c", "d"]), y)
    objective = many_labels(part, part, Train(class_weights="balanced"))
    weight = torch.tensor([1 / 4, 3.0, 3.0])  # a stands in every row: one counts as without
    expected = torch.nn.BCEWithLogitsLoss(pos_weight=weight, reduction="sum")(logits, torch.from_numpy(y)) / 3
    assert objective.losses(logits, torch.from_numpy(y)).sum().item() == pytest.approx(expected.item())


def source(rows=120, seed=0):
    """Rows with 0 to 3 of 5 labels; the label "tail" stands only beside rarer ones."""
    random = np.random.default_rng(seed)
    labels = [";".join(sorted({f"l{i}" for i in random.integers(0, 4, random.integers(0, 4))})) for _ in range(rows)]
    labels[7], labels[8], labels[9] = "rare1;tail", "rare2;tail", "rare3;tail"
    texts = [f"text {chr(97 + i % 26)}{chr(97 + i // 26)} of {own}" for i, own in enumerate(labels)]
    return LabelledTexts(list(range(rows)), texts, labels, [], "text", "label", name="t.csv", many=True)


@pytest.mark.parametrize("seed", range(4))
def test_the_split_trains_every_label_and_counts_labels_not_sets(seed):
    given = source(seed=seed)
    recipe = Recipe(split={"seed": seed}, classify={"labels": "many"})
    records, _, card = data.prepare(recipe, given, TOKENIZER, context=20)
    trained = {label for record in records["train"] for label in record.label.split(";")}
    assert trained >= set(given.every_label) and "tail" in trained
    assert sorted(i for part in records.values() for i in part.positions) == list(range(120))
    assert card.labels["tail"] == 3 and card.labels["l1"] == sum("l1" in own for own in given.labels)
    held = {name: part.labels.get("l1", 0) / card.labels["l1"] for name, part in card.splits.items()}
    assert held["test"] == pytest.approx(0.2, abs=0.12) and held["train"] == pytest.approx(0.7, abs=0.15)


def scored(aim="max-f1", headline="f1_micro"):
    random = np.random.default_rng(1)
    y = {name: random.random((n, 3)) < [0.5, 0.4, 0.15] for name, n in (("train", 80), ("val", 60), ("test", 70))}
    words = ["apple", "bread", "cheese"]
    texts = {
        name: [
            " ".join(w for w, has in zip(words, row, strict=True) if has) + f" {name} {i}" for i, row in enumerate(own)
        ]
        for name, own in y.items()
    }
    logits = {name: 3 * y[name] - 2 + random.normal(size=y[name].shape) for name in ("val", "test")}
    found = score_many(
        labels=LABELS,
        aim=aim,
        headline=headline,
        resamples=200,
        seed=0,
        texts=texts,
        targets=y,
        logits=logits,
        normalise=normalise_text,
        start=START,
    )
    return found, y, logits


def test_the_evaluation_is_scikit_learns_at_thresholds_from_validation_alone():
    found, y, logits = scored()
    evaluation = found.evaluation
    predicted = expit(logits["test"]) >= np.array(evaluation.thresholds)
    assert evaluation.metrics["f1_micro"].value == pytest.approx(sk.f1_score(y["test"], predicted, average="micro"))
    assert evaluation.metrics["f1_macro"].value == pytest.approx(sk.f1_score(y["test"], predicted, average="macro"))
    assert evaluation.metrics["subset_accuracy"].value == pytest.approx(sk.accuracy_score(y["test"], predicted))
    for at, threshold in enumerate(evaluation.thresholds):
        p = expit(logits["val"][:, at])
        best = max(sk.f1_score(y["val"][:, at], p >= t) for t in p)
        assert sk.f1_score(y["val"][:, at], p >= threshold) == pytest.approx(best)
    assert scored("half")[0].evaluation.thresholds == [0.5] * 3
    names = [set(own.split(";")) - {""} for own in found.predicted]
    assert (MultiLabelBinarizer(classes=LABELS).fit_transform(names) == predicted).all()
    assert evaluation.headline.metric == "f1_micro" and evaluation.rows_by_labels.keys() >= {"0", "1", "2"}
    assert evaluation.predicted_per_row == pytest.approx(predicted.sum() / 70)


def test_the_baselines_stand_beside_it_with_a_paired_difference():
    evaluation = scored()[0].evaluation
    tfidf, usual = evaluation.baselines
    assert (tfidf.name, usual.name) == (TFIDF, MOST_FREQUENT)
    for entry in evaluation.baselines:
        assert entry.difference.value == pytest.approx(
            evaluation.metrics["f1_micro"].value - entry.metrics["f1_micro"].value
        )
    assert tfidf.metrics["f1_micro"].value > 0.95 > usual.metrics["f1_micro"].value
    assert "the baseline is better" in verdict(evaluation) and MOST_FREQUENT not in verdict(evaluation)
    again = type(evaluation).from_json(json.loads(json.dumps(evaluation.to_json())), "eval.json")
    assert again == evaluation


def test_the_bundle_says_any_number_of_labels(bundle, tmp_path):
    ours = Bundle.load(bundle)
    assert isinstance(ours, ManyBundle)
    names, p = ours.predict(TEXTS)
    theirs = expit(ours.logits(TEXTS).astype(float))
    assert np.abs(p - theirs).max() < 1e-12
    decided = theirs >= [0.2, 0.5, 0.9]
    assert names == [";".join(np.array(LABELS)[row]) for row in decided] and len(set(names)) > 2
    (tmp_path / "in.csv").write_text("text\n" + "".join(f"{text}\n" for text in TEXTS))
    predict_table(ours, tmp_path / "in.csv", tmp_path / "out.csv", None)
    lines = [line.split(",") for line in (tmp_path / "out.csv").read_text().splitlines()]
    assert lines[0] == ["text", "predicted", "probability", "p_a", "p_b", "p_c"]
    assert [line[1] for line in lines[1:]] == names
    assert np.array([line[3:] for line in lines[1:]], float) == pytest.approx(p, abs=1e-6)
    sure = np.where(decided, p, 1 - p).prod(axis=1)
    assert np.array([line[2] for line in lines[1:]], float) == pytest.approx(sure, abs=1e-6)


@pytest.mark.parametrize("form", ["cells", "lists", "columns"])
def test_a_file_is_scored_however_its_labels_are_written(bundle, tmp_path, form):
    y = label_indicators(ROWS, LABELS).astype(int)
    rows = [own.split(";") if own else [] for own in ROWS]
    path = tmp_path / ("t.jsonl" if form == "lists" else "t.csv")
    if form == "lists":
        path.write_text(
            "".join(json.dumps({"text": t, "label": own}) + "\n" for t, own in zip(TEXTS, rows, strict=True))
        )
    elif form == "columns":
        path.write_text(
            "text,a,b,c\n" + "".join(f"{t},{','.join(map(str, v))}\n" for t, v in zip(TEXTS, y, strict=True))
        )
    else:
        path.write_text("text,label\n" + "".join(f"{t},{own}\n" for t, own in zip(TEXTS, ROWS, strict=True)))
    keep = [i for i in range(6) if rows[i] or form != "cells"]  # an empty cell is no answer
    lines = score_file(bundle, path, None, "a,b,c" if form == "columns" else None)
    predicted = expit(Bundle.load(bundle).logits([TEXTS[i] for i in keep])) >= [0.2, 0.5, 0.9]
    expected = sk.f1_score(y[keep], predicted, average="micro")
    assert lines[0].startswith(f"{len(keep)} rows") and f"f1_micro           {100 * expected:.1f} %" in lines[1]
    path.write_text(path.read_text().replace("a", "zz") if form == "cells" else path.read_text())
    if form == "cells":
        with pytest.raises(DataError, match="labels that the model never saw; got zz"):
            score_file(bundle, path, "text", "lzzbel")


def test_several_labels_stop_the_run_until_somebody_says_what_they_are(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text(
        "text,label\n" + "".join(f"text number {i},{'abc'[i % 3]}{';a' * (i % 4 == 1)}\n" for i in range(40))
    )
    ask = classify_request(str(path))
    with pytest.raises(DataError, match=r"several labels.*FT036.*--set classify.labels=many.*classify.labels=one"):
        task_of(ask).check_data(ask)
    one = classify_request(str(path), overrides=["classify.labels=one"])
    task_of(one).check_data(one)
    assert "b;a" in data.read_data(one).labels
    many = classify_request(str(path), overrides=["classify.labels=many"])
    assert set(data.read_data(many).every_label) == {"a", "b", "c"}


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("split.protocol=balanced", "split.protocol=balanced needs one label per row"),
        ("evaluate.metric=accuracy", "known|Set it to one of f1_micro, f1_macro, subset_accuracy"),
        ("evaluate.positive=a", "evaluate.positive needs one label per row"),
        ("train.metric=accuracy", "'accuracy' is not a validation metric"),
    ],
)
def test_settings_of_one_label_are_refused(setting, message):
    recipe = classify_request("x.csv", overrides=["classify.labels=many", setting])
    with pytest.raises(RecipeError, match=message):
        task_of(recipe).check_settings(recipe)


def test_the_section_is_refused_where_nobody_reads_it():
    from finetune.pipeline import make_recipe

    with pytest.raises(RecipeError, match=r"classify.labels has no effect in instruct.*the task classify"):
        make_recipe("instruct", ["classify.labels=many"])
    with pytest.raises(RecipeError, match="f1_micro is for rows with many labels"):
        recipe = classify_request("x.csv", overrides=["evaluate.metric=f1_micro"])
        task_of(recipe).check_settings(recipe)
    assert validate(Recipe, {}, "x").classify.labels is None


def test_a_damaged_list_of_thresholds_is_a_damaged_bundle(bundle):
    from finetune.errors import WeightsError

    card = json.loads((bundle / "bundle.json").read_text())
    (bundle / "bundle.json").write_text(json.dumps(card | {"thresholds": [0.5]}))
    with pytest.raises(WeightsError, match="not in the format of an export; got 1 thresholds"):
        Bundle.load(bundle)


def test_the_page_shows_each_label_with_its_threshold(tmp_path):
    from finetune.report.build import render
    from finetune.report.inputs import Errors, TrainingLog
    from finetune.report.page import Files
    from finetune.tasks.classify.many.page import PAGE, many_table

    evaluation = dataclasses.replace(scored()[0].evaluation, seconds=1.0)
    log = TrainingLog([], [], [], [], [])
    files = Files("run", {}, evaluation, None, [], None, log, Errors(70, 0, []), [])
    page = PAGE.make(files)
    tables = {table.caption: table for part in page.sections for table in part.blocks if hasattr(table, "caption")}
    rows = tables["Test rows of each label"].rows
    assert [row[0] for row in rows] == LABELS and [row[4] for row in rows] == [
        f"{t:.3f}" for t in evaluation.thresholds
    ]
    text = render("template.md.jinja", page)
    assert "Micro F1" in text and "Subset accuracy" in text and "Labels per row" in text
    assert many_table(evaluation)[1].split() == ["f1_micro", "f1_macro", "subset_accuracy", "McNemar", "p"]
