"""Typed records: the same value after JSON, and clear errors for JSON of another shape."""

import json
from dataclasses import dataclass

import pytest

from finetune.errors import RunError
from finetune.evaluation.results import Headline, Metric
from finetune.records import Record, StageRecord


@dataclass(frozen=True)
class Inner(Record):
    metrics: dict[str, Metric]
    pairs: list[tuple[int, str]]
    note: str = ""


INNER = Inner({"f1": Metric(0.5, 0.25, 1.0, 8), "roc_auc": Metric(None, None, None, 8, "one class")}, [(1, "a")])


def test_a_record_comes_back_from_json():
    text = json.dumps(INNER.to_json())
    assert Inner.from_json(json.loads(text), "x.json") == INNER
    head = Headline(0.5, 0.25, 1.0, 8, metric="f1", split="test")
    assert Headline.from_json(head.to_json(), "x.json") == head


def test_defaults_are_left_out_and_nulls_stay():
    written = INNER.to_json()
    assert written["metrics"] == {
        "f1": {"value": 0.5, "low": 0.25, "high": 1.0, "n": 8},
        "roc_auc": {"value": None, "low": None, "high": None, "n": 8, "reason": "one class"},
    }
    assert "note" not in written


@pytest.mark.parametrize("value", [None, [], {}, 3, "text", {"metrics": []}, {"metrics": {"f1": 3}, "pairs": []}])
def test_json_of_another_shape_is_an_error_that_names_the_file(value):
    with pytest.raises(RunError, match=r"runs/r/eval\.json: not in this version's format"):
        Inner.from_json(value, "runs/r/eval.json")


def test_a_stage_record_needs_all_that_a_stage_writes():
    with pytest.raises(RunError, match="03-train.json.*inputs"):
        StageRecord.from_json({"stage": "train"}, "03-train.json")
