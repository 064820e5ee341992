"""The page of a model that answers: what it claims, and that texts from data stay texts."""

import json

import numpy as np
import pytest

from finetune.evaluation.leakage import OverlapCounts
from finetune.evaluation.results import StartWeights
from finetune.evaluation.written import References, WrittenTexts, loss_change
from finetune.report.build import build_report
from finetune.tables.card import SplitSize
from finetune.tasks.instruct import page
from finetune.tasks.instruct.records import ExampleTokens, InstructionsCard
from finetune.tasks.instruct.score import NEAREST, UNTUNED, AnswerRow, AnswersEvaluation, score_answers

PAYLOAD = '<script>alert(1)</script> [x](javascript:y) \'User: & "quoted"'


def evaluation(own, before, nearest, wanted, loss_on="answer"):
    """An eval.json as the stages write it."""
    n = len(wanted)
    draw, tokens = np.random.default_rng(0), np.full(n, 5)
    nats = {"after": draw.uniform(4, 6, n), "before": draw.uniform(19, 21, n)}
    found = score_answers(
        WrittenTexts(own, [True] * n, nats["after"]),
        References(wanted, tokens),
        {UNTUNED: WrittenTexts(before, [False] * n, nats["before"]), NEAREST: WrittenTexts(nearest)},
        np.arange(n) > 1,
        ("User:",),
        300,
        seed=0,
    )
    losses = [
        loss_change(split, nats, tokens, 300, 0, on)
        for on in dict.fromkeys(("answer", "words", loss_on))
        for split in ("test", "val")
    ]
    rows = [AnswerRow(i, f"what is {i}? {PAYLOAD}", wanted[i], own[i], before[i], nearest[i]) for i in range(3)]
    weights = StartWeights("mini", "bundled", "", {}, fallback=False, note="")
    return AnswersEvaluation(
        schema_version=1,
        task="instruct",
        method="full",
        weights=weights,
        **vars(found),
        losses=losses,
        samples=rows,
        seconds=1.0,
    )


def numbers(n, right):
    return [str(i) if i % 100 < right else "?" for i in range(n)]


@pytest.fixture
def run(tmp_path):
    """``run(evaluation, card)``: the two pages of a run directory with these files."""

    def build(found, card):
        (tmp_path / "data").mkdir(exist_ok=True)
        for name, value in (("eval.json", found), ("recipe.json", {"task": "instruct"}), ("data/card.json", card)):
            value = value if isinstance(value, dict) else value.to_json()
            (tmp_path / name).write_text(json.dumps(value))
        build_report(tmp_path, {"instruct": page.PAGE})
        return [(tmp_path / "report" / name).read_text(encoding="utf-8") for name in ("index.html", "report.md")]

    return build


def test_an_evaluation_is_read_back():
    found = evaluation(numbers(30, 20), numbers(30, 3), numbers(30, 9), numbers(30, 30))
    value = json.loads(json.dumps(found.to_json()))
    assert AnswersEvaluation.from_json(value, "eval.json") == found
    assert value.keys() == {
        "schema_version",
        "task",
        "method",
        "weights",
        "headline",
        "metrics",
        "baselines",
        "clean",
        "losses",
        "samples",
        "slices",
        "seconds",
    }
    assert value["losses"][0].keys() == {"split", "on", "before", "after"}


def test_the_verdict_claims_no_more_than_the_tests_support():
    wanted = numbers(200, 100)
    said = page.verdict(evaluation(numbers(200, 50), numbers(200, 3), numbers(200, 48), wanted))
    assert "Exact match 50.0 %" in said and "before training 3.0 % (the model is better by 47.0 points, p = " in said
    assert "nearest-neighbour baseline 48.0 % (not significantly different" in said
    assert "2 test questions also occur in the training or validation set; without them: 49.5 %" in said
    worse = page.verdict(evaluation(numbers(200, 50), numbers(200, 3), numbers(200, 90), wanted))
    assert "90.0 % (the model is worse by 40.0 points" in worse and "4.0" in worse


def test_texts_from_data_are_escaped_and_counts_are_shown(run):
    wanted = [PAYLOAD, *numbers(29, 100)[1:], "long " * 20]
    found = evaluation([PAYLOAD, *wanted[1:]], [""] * 30, wanted[::-1], wanted, loss_on="all")
    card = InstructionsCard(
        name="x",
        file="x.jsonl",
        source="mine",
        licence="",
        citation="",
        sha256="",
        records=40,
        example=PAYLOAD,
        protocol="grouped",
        seed=7,
        splits={"train": SplitSize(9, 8, 70, 30)},
        cut_rows=list(range(30)),
        left_out_rows=[],
        overlap={"test_in_train": OverlapCounts(1, 2, 30)},
        notes=["one note"],
        malformed=25,
        malformed_records=[f"line {i}: {PAYLOAD}" for i in range(25)],
        style="chat",
        template="",
        loss_on="all",
        prompt="User:",
        different_questions=39,
        tokens=ExampleTokens(3, 4, 9, 100, 64, 30, 0),
    )
    html, markdown = run(found, card)
    assert html.count("<script") == 1 and "&lt;script&gt;alert" in html
    assert all(line.startswith("    ") for line in markdown.splitlines() if "<script" in line)  # code, which is inert
    for part in (
        "Malformed records, the first 20",
        "30 (records 0, 1, 2",
        "and more",
        "Test, prompts and answers",
        "(empty)",
        "Limitations",
        "With only 29 test records",
        "all of it and the end token",
        "One note.",
        "Rows whose question also occurs in another split",
        "median 3, 95th percentile 4, maximum 9",
    ):
        assert part in html, part
    assert "A model of" not in html  # how large it is stands nowhere in this run
