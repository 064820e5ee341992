"""Long texts: what is trained on, what decides, what transformers makes of it, and what the card and the report say."""

import json

import numpy as np
import pytest
import torch
from scipy.special import log_softmax
from torch.nn import functional as F

import finetune
from finetune.errors import InputError
from finetune.evaluation.results import StartWeights
from finetune.export import hf, onnx
from finetune.export.standalone import OnnxClassifier
from finetune.models.gpt import GPT, GPTConfig
from finetune.recipe import Recipe
from finetune.tables.readers import LabelledTexts
from finetune.tasks.classify import data, export, long_texts
from finetune.tasks.classify.bundle import Bundle, BundleCard, open_bundle
from finetune.tasks.classify.job import build_job, build_model, examples
from finetune.tasks.classify.task import TASK
from finetune.tokenizer import Tokenizer
from finetune.training.pieces import pieces_of
from finetune.training.token_rows import TokenRows, encode

TOKENIZER, LABELS, MOST = Tokenizer.of_bytes(), ["ham", "other", "spam"], 16
TEXTS = ["hello", "a prize for you, " * 4, "x" * 16, "lunch at home, and then by train to the sea, " * 3]


def classifier(labels=LABELS):
    gpt = GPT(GPTConfig(TOKENIZER.vocab_size, 32, 16, 2, 2)).initialise(0, std=0.2)
    model = build_model(gpt, len(labels), seed=0).eval()
    model.head.weight.data *= 30
    return model


def thing(way, thresholds=None):
    card = BundleCard(
        schema_version=1,
        task="classify",
        labels=LABELS,
        positive=None,
        max_length=MOST,
        long_texts=way,
        threshold=None,
        thresholds=thresholds,
        temperature=1.5,
        weights=StartWeights("tiny", "here", "", {}, fallback=False, note=""),
        tokenizer_sha256=TOKENIZER.fingerprint(),
        data_sha256="d" * 64,
        recipe_sha256="e" * 64,
    )
    return export.exportable("run", classifier(), TOKENIZER, card, TEXTS, [])


def read_by_transformers(directory, text, way):
    """The logits (pieces, K) of the pieces that transformers' own tokenizer makes of a text."""
    from transformers import AutoTokenizer, GPT2ForSequenceClassification

    model, tokenizer = (
        GPT2ForSequenceClassification.from_pretrained(directory).eval(),
        AutoTokenizer.from_pretrained(directory),
    )
    if way == "windows":
        found = tokenizer(text, truncation=True, max_length=MOST, stride=MOST // 4, return_overflowing_tokens=True)
        pieces = found["input_ids"] if isinstance(found["input_ids"][0], list) else [found["input_ids"]]
    else:
        ids = tokenizer(text)["input_ids"]
        pieces = [np.r_[ids[:4], ids[-12:]].tolist() if len(ids) > MOST else ids]
    with torch.no_grad():
        return np.concatenate([model(torch.tensor([piece])).logits.numpy() for piece in pieces])


@pytest.mark.parametrize("thresholds", [None, [0.3, 0.5, 0.6]], ids=["one label", "many"])
@pytest.mark.parametrize("way", ["head-tail", "windows"])
def test_every_bundle_averages_what_transformers_gives_for_each_piece(way, thresholds, tmp_path):
    hf.write(thing(way, thresholds), tmp_path / "hf")
    ready = Bundle.load(tmp_path / "hf")
    pieces = [read_by_transformers(tmp_path / "hf", text, way) for text in TEXTS]
    assert [len(own) for own in pieces] == ([1, 6, 1, 11] if way == "windows" else [1] * 4)
    expected = np.array([own.mean(axis=0) for own in pieces])
    np.testing.assert_allclose(ready.logits(TEXTS), expected, atol=1e-5)
    if thresholds is None:
        p = np.exp([log_softmax(own / 1.5, axis=1).mean(axis=0) for own in pieces])
        np.testing.assert_allclose(ready.predict(TEXTS)[1], p / p.sum(axis=1, keepdims=True), atol=1e-6)
    onnx.write(thing(way, thresholds), tmp_path / "onnx")
    for other in (open_bundle(tmp_path / "onnx"), OnnxClassifier(tmp_path / "onnx")):
        np.testing.assert_allclose(other.logits(TEXTS), expected, atol=1e-5)
        np.testing.assert_allclose(other.logits(TEXTS[:1]), expected[:1], atol=1e-5)
        assert other.predict(TEXTS)[0] == ready.predict(TEXTS)[0]


@pytest.mark.parametrize("thresholds", [None, [0.3, 0.5, 0.6]], ids=["one label", "many"])
@pytest.mark.parametrize("way", ["cut", "head-tail", "windows"])
def test_the_lines_of_the_readme_read_texts_as_in_training(way, thresholds, tmp_path):
    hf.write(thing(way, thresholds), tmp_path / "hf")
    readme = (tmp_path / "hf" / "README.md").read_text()
    lines = export.transformers_lines(data_card(tmp_path / "hf"))
    assert all(f"    {line}\n" in readme for line in lines) and ("truncation=True" in readme) is (way == "cut")
    code = "\n".join(lines).replace("DIRECTORY", str(tmp_path / "hf"))
    names, probabilities = Bundle.load(tmp_path / "hf").predict(TEXTS)
    for text, name, p in zip(TEXTS, names, probabilities, strict=True):
        found = {}
        exec(code.replace('"a text"', repr(text)), found)  # noqa: S102
        assert (found["label"] if thresholds is None else ";".join(found["labels"])) == name
        assert [found["probabilities"][label] for label in LABELS] == pytest.approx(p.tolist(), abs=1e-6)


def data_card(directory):
    return BundleCard.from_json(json.loads((directory / "bundle.json").read_text()), "bundle.json")


@pytest.mark.parametrize("kind", ["none", "balanced"])
def test_the_windows_of_a_row_share_its_weight_and_decide_together(kind):
    records = [data.LabelledRow(i + 3, text, LABELS[i % 2]) for i, text in enumerate(TEXTS[:3])]
    part = examples(records, LABELS[:2], TOKENIZER, MOST, long_texts="windows")
    assert part.pieces.tolist() == [1, 6, 1] and len(part.ids) == 8
    model, settings = classifier(LABELS[:2]), Recipe(train={"class_weights": kind, "method": "full"}).train
    job = build_job(
        model, TASK.configure_trainable(model, model.body, settings), settings, part, part, torch.device("cpu")
    )
    assert [job.name_row(piece) for piece in range(8)] == ["3"] + ["4"] * 6 + ["5"]
    with torch.no_grad():
        own = [
            [model.head(model.body.hidden_states(torch.tensor([ids]))[:, -1])[0] for ids in pieces]
            for pieces in (pieces_of(TOKENIZER.encode(text), "windows", MOST) for text in TEXTS[:3])
        ]
        weight = torch.tensor([1.0, 1.0, 1.0] if kind == "none" else [0.75, 1.5, 0.75])
        losses = [
            F.cross_entropy(torch.stack(logits), torch.tensor([i % 2] * len(logits))) for i, logits in enumerate(own)
        ]
        expected = (torch.stack(losses) * weight).sum() / weight.sum()
        whole = torch.stack([torch.stack(logits).mean(0) for logits in own])
    every = list(range(8))
    assert job.loss_sum(model, job.batch(every)).item() / sum(job.weights) == pytest.approx(expected.item(), rel=1e-5)
    found = job.validate(model)
    assert found["log_loss"] == pytest.approx(F.cross_entropy(whole, torch.tensor([0, 1, 0])).item(), rel=1e-5)
    assert found["accuracy"] == pytest.approx((whole.argmax(1).numpy() == [0, 1, 0]).mean())
    taken = part.take([2, 1])
    assert (taken.rows, taken.pieces.tolist()) == ([5, 4], [1, 6]) and list(taken.ids) == [part.ids[7], *part.ids[1:7]]


def source():
    texts = [f"{'word ' * (i % 9)}{chr(97 + i % 26)} {i}" for i in range(60)]
    return LabelledTexts(list(range(60)), texts, ["ham", "spam"] * 30, [], "text", "label")


@pytest.mark.parametrize("way", ["cut", "head-tail", "windows"])
def test_the_card_counts_what_is_read_and_what_is_not(way):
    recipe = Recipe(max_length=MOST, classify={"long_texts": way})
    _, pieces, card = data.prepare(recipe, source(), TOKENIZER, context=32)
    ids = [TOKENIZER.encode(text) for text in source().texts]
    long = sum(len(own) > MOST for own in ids)
    assert card.tokens.cut_rows == long > 0 and card.tokens.long_texts == way
    for name, found in card.tokens.ways.items():
        read = [pieces_of(own, name, MOST) for own in ids]
        assert found.pieces == sum(map(len, read))
        assert found.tokens == sum(len(piece) for own in read for piece in own)
        assert found.unread == (0 if name == "windows" else sum(max(len(own) - MOST, 0) for own in ids))
    assert sum(len(part.ids) for part in pieces.values()) == card.tokens.ways[way].pieces
    assert any(finding.check == "cut_texts" for finding in card.checks) == (way != "windows")
    said = long_texts.told_of(card.tokens)
    windows = sum(len(pieces_of(own, "windows", MOST)) for own in ids if len(own) > MOST)
    assert (
        said
        == {
            "cut": f"{long} truncated to 16",
            "head-tail": f"{long} longer than 16: the first 4 and the last 12 tokens of each are read",
            "windows": f"{long} longer than 16, read in {windows} windows that share 4 tokens with the next",
        }[way]
    )
    lines = long_texts.what_ways_cost(card.tokens)
    ratio = card.tokens.ways["windows"].tokens / card.tokens.ways[way].tokens
    assert (
        len(lines) == 4
        and f"time x {ratio:.2f}" in lines[3]
        and "(chosen)" in lines[1 + list(card.tokens.ways).index(way)]
    )


def test_the_sample_is_drawn_from_long_rows_within_its_budget():
    texts = source().texts
    ids = encode(TOKENIZER, texts)
    long = [i for i, length in enumerate(ids.lengths()) if length > MOST]
    read = np.minimum(ids.lengths(), MOST)
    whole = long_texts.draw_sample(TOKENIZER, texts, read, "cut", MOST, 10**6, seed=1)
    assert sorted(whole.at) == long and whole.rows == len(long)
    lengths = np.array(ids.lengths())[long]
    assert whole.unread == pytest.approx((lengths - MOST).sum() / lengths.sum())
    some = long_texts.draw_sample(TOKENIZER, texts, read, "cut", MOST, 300, seed=1)
    assert some.at == whole.at[: len(some.at)] and 0 < len(some.at) < len(long)
    tokens = [sum(map(len, pieces_of(ids[i], "windows", MOST))) for i in whole.at]
    assert sum(tokens[: len(some.at)]) <= 300 < sum(tokens[: len(some.at) + 1])
    assert len(some.windows.ids) == sum(len(pieces_of(ids[i], "windows", MOST)) for i in some.at)
    in_windows = long_texts.draw_sample(TOKENIZER, texts, np.array(ids.lengths()), "windows", MOST, 10**6, 1)
    assert in_windows.at == [] and in_windows.rows == len(long)
    assert long_texts.draw_sample(TOKENIZER, texts, np.array(ids.lengths()), "cut", 1000, 10**6, 1).rows == 0


def test_the_report_says_what_cutting_costs():
    random = np.random.default_rng(0)
    targets, as_read, in_windows = (random.integers(0, 2, 40) for _ in range(3))
    known = long_texts.LongTexts("cut", 16, 50, 0.25)
    found = long_texts.compare_windows(known, as_read, in_windows, targets, 500, 0)
    before, after = (as_read == targets).mean(), (in_windows == targets).mean()
    assert (found.as_read.value, found.in_windows.value) == (before, after)
    assert found.difference.value == pytest.approx(after - before)
    [section] = long_texts.long_texts_section(found, 90)
    words = " ".join(block.text for block in section.blocks)
    assert "50 of 90 test texts have more than 16 tokens" in words and "25.0\u00a0%" in words
    assert f"a difference of {100 * (after - before):+.1f} points (95 % interval" in words
    assert long_texts.long_texts_section(None, 90) == []
    [none] = long_texts.long_texts_section(long_texts.LongTexts("cut", 16, 0), 90)
    assert none.blocks[0].text == "No test text has more than 16 tokens."
    [unread] = long_texts.long_texts_section(known, 90)
    assert "None of them was read in windows" in unread.blocks[1].text
    many = long_texts.compare_windows(known, np.eye(3) > 0, np.ones((3, 3)) > 0, np.eye(3), 100, 0)
    assert (many.as_read.value, many.in_windows.value) == (1.0, 0.0)
    again = long_texts.LongTexts.from_json(found.to_json(), "eval.json")
    assert again == found


def test_an_empty_row_has_one_piece():
    assert TokenRows.of([], 1).lengths() == [] and pieces_of([], "windows", 4) == [[]]


def test_the_estimator_reads_windows_and_keeps_to_them(tiny, tmp_path):
    texts, labels = [f"{text} {i}" for i in range(8) for text in TEXTS], ["ham", "spam"] * 16
    given = {"method": "head", "epochs": 1, "max_length": MOST, "validation_fraction": 0.2}
    model = finetune.TextClassifier(tiny, long_texts="windows", **given).fit(texts, labels)
    windows = [text[at : at + MOST] for text in texts[-1:] for at in range(0, len(text) - MOST // 4, MOST - MOST // 4)]
    expected = model.bundle_.logits(windows).mean(axis=0)
    assert len(windows) > 3
    np.testing.assert_allclose(model.bundle_.logits(texts[-1:])[0], expected, atol=1e-5)
    again = finetune.TextClassifier.load(model.save(tmp_path / "bundle"))
    assert again.long_texts == again.bundle_.long_texts == "windows"
    np.testing.assert_array_equal(again.predict_proba(texts), model.predict_proba(texts))
    with pytest.raises(InputError, match="long_texts"):
        finetune.TextClassifier(tiny, long_texts="window", **given).fit(texts, labels)
