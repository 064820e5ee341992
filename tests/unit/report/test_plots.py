"""Figures: well-formed, deterministic, indifferent to what labels contain."""

import base64
import re
import xml.etree.ElementTree as ElementTree

import matplotlib
import numpy as np
import pytest

from finetune.evaluation.calibration import ReliabilityBin
from finetune.report import plots
from finetune.report.inputs import TrainingLog, ValidationPoint

HOSTILE = [
    "$x^$",
    "$\\frac{",
    "<script>alert(1)</script>",
    "a\x00\x1b[31mb",
    "\ud800",
    "x" * 5000,
    "漢字",
    "🎉 ]]>",
    "",
    "\n\n",
    "\u202eabc",
    "\uffff",
]


def svg(picture):
    kind, data = picture.source.split(",", 1)
    assert kind == "data:image/svg+xml;base64"
    return base64.b64decode(data).decode()


def texts(picture):
    return [
        "".join(node.itertext()) for node in ElementTree.fromstring(svg(picture)).iter() if node.tag.endswith("}text")
    ]


def test_hostile_labels_are_drawn_as_text():
    k = len(HOSTILE)
    picture = plots.confusion_picture(np.eye(k, dtype=int).tolist(), HOSTILE)
    drawn = texts(picture)
    assert "$x^$" in drawn and "<script>alert(1)</scrip…" in drawn and "漢字" in drawn
    assert max(map(len, drawn)) <= 40
    assert "<script" not in svg(picture)


def test_a_label_as_the_name_of_a_baseline_is_not_a_formula():
    points = [[0, 0], [0.2, 0.99], [1, 1]]
    assert "$x^$" in texts(plots.roc_picture(points, points, "$x^$"))
    assert "$x^$" in texts(plots.pr_picture(points, points, "$x^$", 0.2))


@pytest.mark.parametrize("k", [1, 2, 5, 20])
def test_confusion_shows_every_count_of_the_matrix(k):
    matrix = (np.arange(k * k).reshape(k, k) + 100).tolist()
    drawn = " ".join(texts(plots.confusion_picture(matrix, [f"label {i}" for i in range(k)])))
    assert all(str(count) in drawn for row in matrix for count in row)


def test_the_same_input_gives_the_same_bytes_whatever_the_users_matplotlib_says():
    bins = [ReliabilityBin(0.8, 0.9, 10, 0.85, 0.7)]
    first = plots.reliability_picture(bins)
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "red"}):
        assert plots.reliability_picture(bins) == first
        assert matplotlib.rcParams["font.size"] == 30


def test_a_log_without_validations_or_without_steps_is_drawn():
    point = ValidationPoint(1, 1.0, True, {"log_loss": 0.5, "accuracy": 1.0, "f1_macro": 1.0})
    only_validation = TrainingLog([], [], [], [], [point])
    only_steps = TrainingLog([1, 2], [1.0, 0.5], [1, 2], [1e-4, 1e-4], [])
    assert "validation loss" in texts(plots.loss_picture(only_validation, 1))
    assert "training loss, running mean" in texts(plots.loss_picture(only_steps, None))


@pytest.mark.parametrize(
    "draw",
    [
        lambda: plots.roc_picture([[0, 0], [0.01, 0.99], [1, 1]], [[0, 0], [1, 1]], "baseline"),
        lambda: plots.pr_picture([[0, 1], [1, 0.13]], None, "", 0.13),
        lambda: plots.reliability_picture([ReliabilityBin(0.8, 0.9, 10, 0.85, 0.7)]),
        lambda: plots.loss_picture(TrainingLog([1, 2], [1, 2], [], [], []), 1),
        lambda: plots.validation_picture([1, 2], {"Accuracy": [0.9, 0.95]}, 2),
    ],
)
def test_a_legend_is_above_the_axes_and_covers_nothing(draw):
    figure = next(node for node in ElementTree.fromstring(svg(draw())) if node.get("id") == "figure_1")
    parts = {node.get("id"): node for node in figure}

    def heights(part):  # of what the path of its background says, downwards
        path = next(node for node in part.iter() if node.tag.endswith("}path")).get("d")
        return [float(y) for y in re.findall(r"[ML] \S+ (\S+)", path)]

    assert not [node for node in parts["axes_1"].iter() if node.get("id") == "legend_1"]
    assert max(heights(parts["legend_1"])) <= min(heights(parts["axes_1"]))


def test_running_mean_of_a_constant_is_the_constant():
    assert plots._running_mean([3.0] * 50) == pytest.approx([3.0] * 50)


def test_cut_keeps_short_labels_and_shortens_long_ones():
    assert plots.cut("ham") == "ham" and plots.cut("a  b\n c") == "a b c"
    assert plots.cut("y" * 41) == "y" * 39 + "…"
