"""Scores equal seqeval's, intervals and tests are those of whole sentences, and the verdict claims no more."""

import random
import warnings

import numpy as np
import pytest
from seqeval.metrics import accuracy_score, classification_report, f1_score, precision_score, recall_score

from finetune.evaluation.results import Start, StartWeights
from finetune.report.blocks import Table
from finetune.tasks.tag import page
from finetune.tasks.tag.baselines import logistic, most_frequent, word_features
from finetune.tasks.tag.score import (
    System,
    entity_counts,
    measure,
    outcomes_of,
    per_kind,
    recall_by_acquaintance,
    score_tagger,
    scores_of,
    verdict,
)
from finetune.tasks.tag.sentences import Sentence
from finetune.tasks.tag.spans import spans_of

KINDS = ["organisation", "person", "place"]
TAGS = ["O", *(f"{prefix}-{kind}" for kind in KINDS for prefix in "BI")]


def random_sentences(count, seed, noise=0.3):
    """Sentences with random tags, and predictions that differ in a share of the words."""
    draw, noises = random.Random(seed), random.Random(noise)
    sentences, predicted = [], []
    for row in range(count):
        tags = draw.choices(TAGS, [6, 1, 1, 1, 1, 1, 1], k=draw.randint(1, 9))
        sentences.append(Sentence(row, [f"w{draw.randint(0, 50)}" for _ in tags], tags))
        predicted.append([noises.choice(TAGS) if noises.random() < noise else tag for tag in tags])
    return sentences, predicted


@pytest.mark.parametrize("seed", range(5))
def test_scores_are_those_of_seqeval(seed):
    sentences, predicted = random_sentences(40, seed)
    true = [own.tags for own in sentences]
    counts = entity_counts(sentences, predicted, TAGS)
    found = scores_of(counts)
    assert found["precision"] == pytest.approx(precision_score(true, predicted))
    assert found["recall"] == pytest.approx(recall_score(true, predicted))
    assert found["f1"] == pytest.approx(f1_score(true, predicted))
    assert found["f1_macro"] == pytest.approx(f1_score(true, predicted, average="macro"))
    assert found["accuracy"] == pytest.approx(accuracy_score(true, predicted))
    report = classification_report(true, predicted, output_dict=True)
    for own in per_kind(counts, 100, 0):
        theirs = report[own.kind]
        assert own.names == theirs["support"]
        assert [own.precision.value, own.recall.value, own.f1.value] == pytest.approx(
            [theirs["precision"], theirs["recall"], theirs["f1-score"]]
        )


def test_nothing_predicted_scores_as_in_seqeval():
    sentences = [Sentence(0, ["a", "b"], ["B-person", "O"]), Sentence(1, ["c"], ["O"])]
    predicted = [["O", "O"], ["O"]]
    with warnings.catch_warnings(action="ignore"):
        theirs = f1_score([own.tags for own in sentences], predicted)
    assert scores_of(entity_counts(sentences, predicted, TAGS))["f1"] == theirs == 0


def test_a_kind_that_is_neither_there_nor_predicted_does_not_count():
    sentences, predicted = random_sentences(20, 3)
    found = scores_of(entity_counts(sentences, predicted, [*TAGS, "B-event", "I-event"]))
    assert found["f1_macro"] == pytest.approx(f1_score([own.tags for own in sentences], predicted, average="macro"))


def test_an_interval_is_of_resampled_sentences():
    sentences, predicted = random_sentences(60, 1)
    found = measure(entity_counts(sentences, predicted, TAGS), 400, 0)["f1"]
    draw = np.random.default_rng(5)
    values = []
    for _ in range(400):
        rows = draw.integers(60, size=60)
        values.append(f1_score([sentences[row].tags for row in rows], [predicted[row] for row in rows]))
    assert [found.low, found.high] == pytest.approx(np.percentile(values, [2.5, 97.5]), abs=0.015)
    assert found.low < found.value < found.high and found.n == 60


def test_each_true_name_has_one_outcome():
    words = list("abcdefghij")
    tags = ["B-person", "I-person", "O", "B-place", "O", "B-place", "O", "B-person", "I-person", "O"]
    guess = ["B-person", "O", "O", "B-person", "O", "O", "B-place", "B-place", "I-place", "I-place"]
    [person, place] = outcomes_of([Sentence(0, words, tags)], [guess], ["person", "place"])
    assert person.outcomes == {"right": 0, "other kind": 0, "other bounds": 1, "both": 1, "missed": 0}
    assert place.outcomes == {"right": 0, "other kind": 1, "other bounds": 0, "both": 0, "missed": 1}
    assert (person.invented, place.invented) == (0, 1)


def test_names_of_train_are_known_by_their_words():
    train = [Sentence(0, ["Anna", "Berg", "x"], ["B-person", "I-person", "O"])]
    test = [Sentence(1, ["Anna", "Berg", "Anna"], ["B-person", "I-person", "B-person"])]
    known = recall_by_acquaintance("x", train, test, [["B-person", "I-person", "O"]], 100, 0)
    assert (known.seen.value, known.seen.n, known.unseen.value, known.unseen.n) == (1.0, 1, 0.0, 1)


def test_the_most_frequent_tag_is_a_words_own():
    train = [Sentence(0, ["a", "a", "a", "b"], ["B-place", "B-place", "O", "O"])]
    assert most_frequent(train, [Sentence(1, ["a", "b", "c"], ["O"] * 3)]).tags == [["B-place", "O", "O"]]


def test_the_logistic_regression_sees_a_words_neighbours():
    def sentence(row, name):
        return Sentence(row, ["to", name, "by", name], ["O", "B-place", "O", "B-person"])

    train = [sentence(row, f"Q{row}x") for row in range(12)]
    found = logistic(train, [sentence(20, "Zz")], [sentence(21, "Kk")], ["O", "B-person", "B-place"], 0)
    assert found.tags == [["O", "B-place", "O", "B-person"]] and "chosen on validation" in found.note


def test_features_tell_a_words_shape():
    [first, second] = word_features(["Oslo-24", "rains"])
    assert {"shape=Xxxx-00", "short=Xx-0", "first", "+1 rains"} <= set(first) and "-1 oslo-24" in second


def evaluation(noise, other_noise, overlapping=0):
    sentences, predicted = random_sentences(80, 2, noise)
    _, other = random_sentences(80, 2, other_noise)
    clean = np.arange(80) >= overlapping
    nats = (np.full(80, 0.5), np.array([len(own.words) for own in sentences]))
    start = Start("full", StartWeights(name="mini", source="", licence="", sha256={}, fallback=False, note=""))
    return score_tagger(
        train=sentences[:1],
        val=sentences,
        test=sentences,
        tags=TAGS,
        predicted={"val": predicted, "test": predicted},
        nats=nats,
        baselines=[System("logistic regression", other, "words")],
        clean=clean,
        headline="f1",
        resamples=200,
        seed=0,
        cut_words=0,
        start=start,
    )


@pytest.mark.parametrize(
    "noise, other, said",
    [(0.05, 0.6, "the model is better by"), (0.6, 0.05, "the baseline is better by"), (0.3, 0.3, "within noise")],
)
def test_the_verdict_follows_the_paired_test(noise, other, said):
    assert said in verdict(evaluation(noise, other))


def test_test_sentences_that_overlap_are_counted_and_left_out():
    found = evaluation(0.3, 0.3, overlapping=30)
    sentences, predicted = random_sentences(80, 2, 0.3)
    assert found.clean.n == 50
    assert found.clean.value == pytest.approx(f1_score([own.tags for own in sentences[30:]], predicted[30:]))
    assert "30 of the 80 test sentences also occur" in verdict(found)
    assert type(found).from_json(found.to_json(), "eval.json") == found


def test_every_table_of_the_page_is_whole():
    found = evaluation(0.3, 0.5)
    sections = [
        page.comparison(found, 60.0),
        page.kinds(found),
        page.errors(found),
        page.acquaintance(found),
        page.sentences(found),
        page.limits(found),
        page.use("mine"),
    ]
    tables = [block for section in sections for block in section.blocks if isinstance(block, Table)]
    assert len(tables) == 7
    assert all(len(row) == len(table.columns) for table in tables for row in table.rows)
    assert len(found.wrong) <= 12 and found.wrong_sentences == round(80 * (1 - found.metrics["exact_match"].value))
    assert all(name in line for name, line in zip(("mini", "logistic"), page.summary(found)[2:], strict=True))


def test_names_stand_in_brackets():
    spans = spans_of(["B-person", "I-person", "O", "B-place"])
    assert page.marked(["Anna", "Berg", "in", "Oslo"], spans) == "[Anna Berg | person] in [Oslo | place]"
