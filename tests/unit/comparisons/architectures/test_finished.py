"""trainings.jsonl: what is written is read again, and only where it rests on the same."""

import json
from dataclasses import replace

import pytest

from finetune.comparisons.architectures.finished import FinishedTraining, append_finished, read_finished
from finetune.comparisons.results import Basis
from finetune.errors import RunError

BASIS = {"recipe": "a1", "data": "b2", "weights": "c3", "device": "cpu", "threads": "2"}
COSTS = {
    "parameters": 1000,
    "state_bytes": 16000,
    "lr": 0.001,
    "precision": "fp32",
    "curve": [[1, 5.5], [2, 5.25]],
    "seconds": 1.5,
    "steps": 2,
    "tokens": 640,
    "best_step": 2,
    "peak_bytes": 10**9,
}
LINES = [  # as each kind of training is written, keys in this order
    BASIS | {"key": "classify-decoder-random-1", "scores": [0, 1, 1], "said": "test accuracy 0.6667"} | COSTS,
    BASIS
    | {"key": "numbers-both-random-1", "scores": [1], "examples": [["7", "seven", "six"]], "said": "exact match 1.0000"}
    | COSTS,
    BASIS
    | {"key": "text-both-random-1", "scores": [3.0, 0.5], "parts": [4, 5], "said": "bits per byte 0.5611"}
    | COSTS,
]


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "trainings.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in LINES))
    return path


def test_a_line_is_read_and_written_byte_for_byte(path, tmp_path):
    found = read_finished(path, Basis(**BASIS))
    assert list(found) == [line["key"] for line in LINES]
    for entry in found.values():
        append_finished(tmp_path / "again.jsonl", entry)
    assert (tmp_path / "again.jsonl").read_bytes() == path.read_bytes()
    assert found["numbers-both-random-1"].examples == [("7", "seven", "six")]


@pytest.mark.parametrize("name", BASIS)
def test_what_rests_on_something_else_is_done_again(path, name):
    assert read_finished(path, Basis(**BASIS | {name: "other"})) == {}


def test_a_line_that_a_crash_cut_short_costs_that_training_alone(path):
    path.write_text(path.read_text()[:-100])
    found = read_finished(path, Basis(**BASIS))
    assert list(found) == [line["key"] for line in LINES[:2]]
    append_finished(path, replace(found["classify-decoder-random-1"], key="new"))
    assert list(read_finished(path, Basis(**BASIS))) == [*(line["key"] for line in LINES[:2]), "new"]


@pytest.mark.parametrize(
    "line, said",
    [
        ([1, 2], "dict"),
        ({name: value for name, value in LINES[0].items() if name != "scores"}, "scores"),
        (LINES[0] | {"curve": [[1]]}, "curve"),
        (LINES[0] | {"seconds": None}, "seconds"),
    ],
)
def test_a_line_of_another_shape_is_named(path, line, said):
    path.write_text(path.read_text() + json.dumps(line) + "\n")
    with pytest.raises(
        RunError, match=f"trainings.jsonl, line 4: not in this version's format.*{said}.*Delete this line"
    ):
        read_finished(path, Basis(**BASIS))


def test_the_two_kinds_of_score_keep_their_type(path):
    kinds = [{type(score) for score in entry.scores} for entry in read_finished(path, Basis(**BASIS)).values()]
    assert kinds == [{int}, {int}, {float}]
    assert isinstance(FinishedTraining.from_json(LINES[0], path).curve[0], tuple)
