"""Slices, the shortcut and small changes: planted ones are found, and the tests are scipy's and statsmodels'."""

import numpy as np
import pytest
from scipy.stats import binomtest, fisher_exact, t, ttest_ind
from sklearn.metrics import accuracy_score
from sklearn.tree import DecisionTreeClassifier
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from finetune.evaluation import robustness
from finetune.evaluation.results import Metric
from finetune.evaluation.shortcut import Shortcut, find_shortcut
from finetune.evaluation.slices import measure_slices, text_slices, value_slices

WORDS = ["lunch", "home", "train", "work", "late", "call", "later", "meet", "friend", "dinner", "movie", "week"]


def sentences(generator, n):
    return [" ".join(generator.choice(WORDS, generator.integers(4, 15))) for _ in range(n)]


def test_slices_are_tested_as_scipy_and_statsmodels_do():
    generator = np.random.default_rng(0)
    correct = generator.random(400) < 0.9
    members = {f"slice {i}": generator.random(400) < 0.1 + 0.1 * i for i in range(4)}
    members["tiny"] = np.arange(400) < 19
    correct[members["slice 1"]] &= generator.random(members["slice 1"].sum()) < 0.6
    found = measure_slices(members, correct)
    assert found.hidden == 1 and {part.name for part in found.shown} == {f"slice {i}" for i in range(4)}
    assert found.shown[0].name == "slice 1" and found.shown[0].worse
    p_values = []
    for i in range(4):
        inside = members[f"slice {i}"]
        table = [[(correct & part).sum(), (~correct & part).sum()] for part in (inside, ~inside)]
        p_values.append(fisher_exact(table).pvalue)
    corrected = multipletests(p_values, method="holm")[1]
    for part in found.shown:
        at = int(part.name[-1])
        inside = members[part.name]
        assert part.p_value == pytest.approx(corrected[at])
        assert part.rest == pytest.approx(correct[~inside].mean())
        interval = proportion_confint(correct[inside].sum(), inside.sum(), alpha=0.05 / 4, method="wilson")
        assert (part.score.low, part.score.high) == pytest.approx(interval)


def test_scores_that_are_no_shares_are_tested_by_welch():
    generator = np.random.default_rng(3)
    scores = generator.normal(50, 12, 300)
    members = {"low": np.arange(300) < 80, "other": generator.random(300) < 0.5, "tiny": np.arange(300) < 5}
    scores[members["low"]] -= 9
    scores[-10:] = np.nan  # rows that the metric leaves out
    found = measure_slices(members, scores, "chrf", share=False)
    assert [part.name for part in found.shown] == ["low", "other"] and found.hidden == 1 and found.metric == "chrf"
    assert found.shown[0].worse and not found.shown[1].worse
    known = ~np.isnan(scores)
    sides = [[scores[known & inside], scores[known & ~inside]] for inside in (members["low"], members["other"])]
    p_values = [ttest_ind(*pair, equal_var=False).pvalue for pair in sides]
    assert [part.p_value for part in found.shown] == pytest.approx(multipletests(p_values, method="holm")[1])
    for part, (inside, outside) in zip(found.shown, sides, strict=True):
        error = inside.std(ddof=1) / np.sqrt(len(inside))
        low, high = t.interval(1 - 0.05 / 2, len(inside) - 1, inside.mean(), error)
        assert (part.score.low, part.score.high, part.rest) == pytest.approx((low, high, outside.mean()))
    alike = measure_slices({"half": np.arange(60) < 30}, np.ones(60), "rouge_l", share=False)
    assert alike.shown[0].p_value == 1.0 and not alike.shown[0].worse


def test_intervals_of_means_cover_in_simulation():
    generator, covered, trials = np.random.default_rng(4), 0, 400
    for _ in range(trials):
        found = measure_slices({"half": np.arange(80) < 40}, generator.gamma(4, 1, 80), "chrf", share=False)
        covered += found.shown[0].score.low <= 4 <= found.shown[0].score.high
    assert 0.92 <= covered / trials <= 0.98


def test_without_a_bad_slice_one_is_called_bad_in_one_set_of_twenty():
    generator, alarms = np.random.default_rng(1), 0
    for _ in range(300):
        members = {str(i): generator.random(300) < 0.3 for i in range(8)}
        found = measure_slices(members, generator.random(300) < 0.85)
        alarms += any(part.worse for part in found.shown)
    assert alarms / 300 <= 0.05


def test_texts_are_in_the_slices_that_they_look_like():
    texts = ["see http://a.de/x", "at 7", "WINNER today", "unheard zyx", "lunch at home", "call me"]
    found = text_slices(texts, ["see at today lunch at home call me winner http a de x 7"])
    inside = {name.split(":")[0]: np.flatnonzero(rows).tolist() for name, rows in found.items()}
    assert inside["a URL"] == [0] and inside["a digit"] == [1] and inside["a word in capitals"] == [2]
    assert inside["rare words"] == [3] and inside["short"] == [1, 5] and inside["long"] == [0, 2, 4]
    assert {name: rows.tolist() for name, rows in value_slices("label", ["a", "b", "a"]).items()} == {
        "label a": [True, False, True],
        "label b": [False, True, False],
    }
    assert value_slices("label", ["a", "a"]) == {} == value_slices("id", [str(i) for i in range(30)])


@pytest.mark.parametrize("k", [2, 3])
def test_a_planted_word_is_the_shortcut_and_scores_as_a_tree_of_one_split(k):
    generator = np.random.default_rng(k)
    y = {name: generator.integers(k, size=n) for name, n in (("train", 600), ("test", 300))}
    texts = {}
    for name, own in y.items():
        planted = (own == 1) ^ (generator.random(len(own)) < 0.04)
        texts[name] = [
            f"{text} zq" if has else text for text, has in zip(sentences(generator, len(own)), planted, strict=True)
        ]
    predicted = np.where(generator.random(300) < 0.9, y["test"], 0)
    labels = [f"label {i}" for i in range(k)]
    found = find_shortcut(texts["train"], y["train"], texts["test"], y["test"], predicted, labels)
    assert found.rule == "contains 'zq'" and found.holds == "label 1"
    has = {name: np.array(["zq" in text for text in own])[:, None] for name, own in texts.items()}
    tree = DecisionTreeClassifier(max_depth=1).fit(has["train"], y["train"])
    assert found.accuracy.value == pytest.approx(accuracy_score(y["test"], tree.predict(has["test"])))
    wrong = tree.predict(has["test"]) != y["test"]
    assert found.where_wrong.value == pytest.approx((predicted == y["test"])[wrong].mean())
    assert found.suffices == (k == 2)
    only = [int((wrong & (predicted == y["test"])).sum()), int((~wrong & (predicted != y["test"])).sum())]
    assert found.p_value == pytest.approx(binomtest(only[0], sum(only), 0.5).pvalue)


def test_the_length_can_be_the_shortcut_and_noise_is_none():
    generator = np.random.default_rng(5)
    y = generator.integers(2, size=400)
    long = ["x" * (90 if label else 30) + str(i % 7) for i, label in enumerate(y)]
    found = find_shortcut(long[:300], y[:300], long[300:], y[300:], y[300:], ["a", "b"])
    assert found.rule.startswith("has more than ") and found.accuracy.value == 1.0 and found.suffices
    texts = sentences(generator, 400)
    found = find_shortcut(texts[:300], y[:300], texts[300:], y[300:], y[300:], ["a", "b"])
    assert found.accuracy.value < 0.65 and not found.suffices
    assert find_shortcut(texts[:300], np.zeros(300, dtype=int), texts[300:], y[300:], y[300:], ["a", "b"]) is None


def test_changes_keep_what_they_should_and_rows_without_change_are_not_counted():
    text = 'It\'s "free" - call WINNER now, ok'
    changed = {name: change(text) for name, change in robustness.CHANGES.items()}
    assert changed["lower case"] == text.lower() and changed["no punctuation"] == "Its free  call WINNER now ok"
    assert changed["a full stop at the end"] == text + "." and "  -  call  " in changed["double spaces"]
    assert sorted(changed["two letters of a word swapped"]) == sorted(text) != changed["two letters of a word swapped"]
    assert len(changed["a letter of a word missing"]) == len(text) - 1
    assert "\u2019" in changed["typographic quotes and dashes"]
    rows = robustness.changed_texts(["abc", "Hello", "..."], str)
    assert set(rows["lower case"]) == {1} and set(rows["no punctuation"]) == set() == set(rows["double spaces"])
    folded = robustness.changed_texts(["a b"], lambda text: " ".join(text.split()))
    assert folded["double spaces"] == {}
    found = robustness.flips("x", np.array([0, 1, 1, 0]), np.array([0, 1, 0, 0]))
    interval = proportion_confint(1, 4, method="wilson")
    assert (found.share.value, found.share.low, found.share.high) == pytest.approx((0.25, *interval))
    assert robustness.flips("x", np.array([]), np.array([])).share.value is None


def test_each_value_of_a_column_is_a_slice_unless_there_is_one_value_or_too_many():
    found = value_slices("label", ["spam", "ham", "spam"])
    assert {name: inside.tolist() for name, inside in found.items()} == {
        "label ham": [False, True, False],
        "label spam": [True, False, True],
    }
    assert value_slices("label", ["ham", "ham"]) == {} == value_slices("number", list(map(str, range(1000))))


def test_a_rule_suffices_if_it_is_as_good_as_the_model_or_nearly_and_better_than_one_answer():
    def suffices(rule, model, p_value):
        known = (Metric(value, 0.0, 1.0, 100) for value in (rule, model))
        accuracy, of_model = known
        return Shortcut(
            rule="",
            holds="a",
            otherwise="b",
            accuracy=accuracy,
            model=of_model,
            constant=0.5,
            p_value=p_value,
            where_wrong=None,
        ).suffices

    assert suffices(0.6, 0.9, 0.05) and not suffices(0.6, 0.9, 0.04)  # no difference was found
    assert suffices(0.9, 0.9, 0.0) and suffices(0.83, 0.9, 0.0)  # no worse; 80 % of the gain
    assert not suffices(0.8, 0.9, 0.0) and not suffices(0.5, 0.5, 1.0)
