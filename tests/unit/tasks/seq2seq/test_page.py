"""The page of a model from source to target: what it claims, that texts from data stay texts, and its maps."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.figure import Figure

from finetune.evaluation.leakage import OverlapCounts
from finetune.evaluation.results import StartWeights
from finetune.evaluation.written import References, WrittenTexts, loss_change
from finetune.report.attention import draw_attention, map_size, visible
from finetune.report.build import build_report
from finetune.tables.card import SplitSize, TokenSpread
from finetune.tasks.seq2seq import page
from finetune.tasks.seq2seq import score as scores
from finetune.tasks.seq2seq.page import targets_table
from finetune.tasks.seq2seq.pairs import PairsCard, PairTokens

PAYLOAD = '<script>alert(1)</script> [x](javascript:y) $\\frac$ & "quoted"'
CARD = PairsCard(
    name="x",
    file="x.tsv",
    source="mine",
    licence="",
    citation="",
    sha256="",
    records=40,
    example=PAYLOAD,
    protocol="grouped",
    seed=7,
    splits={"train": SplitSize(9, 9, 90, 70), "test": SplitSize(2, 2, 20, 12)},
    cut_rows=[3, 4],
    left_out_rows=[],
    overlap={"test_in_train": OverlapCounts(1, 2, 30)},
    notes=["one note"],
    given=[],
    dropped={"empty source": 30, "empty target": 0},
    dropped_rows={"empty source": list(range(30))},
    columns=["source", "target"],
    family="decoder",
    different_sources=39,
    tokens=PairTokens(TokenSpread(3, 4, 9), TokenSpread(13, 14, 19), 64, 2, 0),
)


def evaluation(own, before, nearest, wanted, clean_from=2, family="decoder"):
    """An eval.json as the stages write it."""
    n = len(wanted)
    draw, tokens = np.random.default_rng(0), np.full(n, 5)
    nats = {"after": draw.uniform(4, 6, n), "before": draw.uniform(19, 21, n)}
    right = draw.integers(0, 5, n)
    sources = [f"{i} {PAYLOAD}" for i in range(n)]
    found, signatures = scores.score_targets(
        WrittenTexts(own, [True] * n, nats["after"], right),
        sources,
        References(wanted, tokens),
        {
            scores.NEAREST: WrittenTexts(nearest),
            scores.UNTUNED: WrittenTexts(before, [False] * n, nats["before"], right // 2),
        },
        np.arange(n) >= clean_from,
        200,
        seed=0,
    )
    rows = [scores.TargetRow(i, sources[i], wanted[i], own[i], before[i], nearest[i]) for i in range(min(3, n))]
    weights = StartWeights("mini", "bundled", "", {}, fallback=False, note="")
    return scores.TargetsEvaluation(
        schema_version=1,
        task="seq2seq",
        method="full",
        weights=weights,
        **vars(found),
        family=family,
        losses=[loss_change(split, nats, tokens, 200, 0) for split in ("test", "val")],
        samples=rows,
        signatures=signatures,
        seconds=1.0,
        warm_start=scores.WarmStartRecord({}, [], 0) if family == "encoder-decoder" else None,
    )


def numbers(n, right):
    return [f"{i} and {i} more" if i % 100 < right else "?" for i in range(n)]


@pytest.fixture
def run(tmp_path):
    """``run(evaluation, card, attention)``: the two pages of a run directory with these files."""

    def build(found, card=None, attention=None, texts=True):
        (tmp_path / "data").mkdir(exist_ok=True)
        files = {
            "eval.json": found.to_json(),
            "recipe.json": {"task": "seq2seq", "train": {"seed": 5}, "report": {"texts": texts}},
            "data/card.json": card and card.to_json(),
            "attention.json": attention,
        }
        for name, value in files.items():
            if value is not None:
                (tmp_path / name).write_text(json.dumps(value))
        build_report(tmp_path, {"seq2seq": page.PAGE})
        return [(tmp_path / "report" / name).read_text(encoding="utf-8") for name in ("index.html", "report.md")]

    return build


def test_an_evaluation_is_read_back_and_no_key_depends_on_the_run():
    for family in ("decoder", "encoder-decoder"):
        found = evaluation(numbers(30, 20), numbers(30, 3), numbers(30, 9), numbers(30, 30), family=family)
        value = json.loads(json.dumps(found.to_json()))
        assert scores.TargetsEvaluation.from_json(value, "eval.json") == found
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
            "family",
            "signatures",
            "warm_start",
            "seconds",
        }
        assert value["losses"][0].keys() == {"split", "before", "after"}
        assert value["baselines"][0].keys() == {"name", "metrics", "test", "p_value", "differences"}


def test_the_verdict_claims_no_more_than_the_tests_support():
    wanted = numbers(200, 100)
    said = page.verdict(evaluation(numbers(200, 50), numbers(200, 3), numbers(200, 48), wanted))
    assert said.startswith("Exact match 50.0 % (43.1 to 56.9; n = 200) on held-out sources; nearest-neighbour")
    assert "copying the source" not in said  # clearly beaten
    assert "before training 3.0 % (the model is better by 47.0 points, p = 0.005)" in said
    assert "nearest-neighbour baseline 48.0 % (not significantly different" in said
    assert "2 test sources also occur in the training or validation set; without them: 49.5 %" in said
    assert re.search(r"chrF \d\d\.\d \(\d\d\.\d to \d\d\.\d; n = 200\)", said)
    assert re.search(
        r"Loss on the targets: (4\.0|3\.9)\d+ nats per token before training, (1\.0|0\.9)\d+ after\.", said
    )


def test_a_baseline_that_wins_makes_the_model_worse():
    wanted = numbers(200, 100)
    said = page.verdict(evaluation(numbers(200, 50), numbers(200, 3), numbers(200, 90), wanted, clean_from=0))
    assert "90.0 % (the model is worse by 40.0 points" in said and "also occur" not in said
    plain = page.verdict(evaluation(["?"] * 30, ["?"] * 30, ["?"] * 30, numbers(30, 30), clean_from=0))
    assert "Exact match 0.0 %" in plain and "copying the source 0.0 % (not significantly different" in plain
    texts = [[text + " and so on to the eleventh word" for text in numbers(200, right)] for right in (50, 3, 90, 100)]
    by_chrf = page.verdict(evaluation(*texts))
    assert by_chrf.startswith("chrF ") and "Exact match" not in by_chrf
    assert re.search(r"nearest-neighbour baseline \d\d\.\d \(the model is worse by \d\d\.\d points", by_chrf)


def test_texts_from_data_are_escaped_and_counts_are_shown(run):
    wanted = [PAYLOAD, *numbers(29, 100)[1:], "long " * 200]
    maps = [
        {"source_tokens": [PAYLOAD, " two"], "target_tokens": ["$a$", "\n", ""], "weights": [[1, 0], [0, 1], [0, 1]]}
    ]
    html, markdown = run(
        evaluation([PAYLOAD, *wanted[1:]], [""] * 30, wanted[::-1], wanted, family="encoder-decoder"), CARD, maps
    )
    assert html.count("<script") == 1 and "&lt;script&gt;alert" in html
    assert all(line.startswith("    ") for line in markdown.splitlines() if "<script" in line)  # code, which is inert
    for part in (
        "30 (rows 0, 1, 2",
        "and more",
        "empty source",
        "2 (rows 3, 4; counted from 0)",
        "(empty)",
        "Limitations",
        "With only 30 test pairs",
        "one training run (seed 5)",
        "One note.",
        "nrefs:1|case:mixed",
        "Test, targets",
        "the cross-attention is new",
        "test rows also in train",
        "Tokens that count in the loss",
        "median 13, 95th percentile 14, maximum 19",
        "Attention to the source",
        "of the loss before",
        "Rows whose source also occurs in another split",
    ):
        assert part in html, part
    assert "A model of" not in html  # how large it is stands nowhere in this run
    assert html.count("data:image/svg+xml;base64,") == 1


def test_every_metric_has_its_interval(run):
    found = evaluation(numbers(60, 30), numbers(60, 3), numbers(60, 20), numbers(60, 60))
    html, markdown = run(found)
    for name, metric in found.metrics.items():
        assert metric.low <= metric.value <= metric.high and metric.n == 60, name
    table = markdown.split("Outputs and baselines")[-1].split("Paired differences on the same test pairs")[0]
    rows = dict(re.findall(r"^\| ([A-Za-z][^|]*?) \| ([^|]*) \|", table, flags=re.M))
    for name in ("Exact match", "BLEU", "chrF", "ROUGE-1", "ROUGE-2", "ROUGE-L", "Token accuracy"):
        assert re.fullmatch(r"[\d.]+( %)? \([\d.]+ to [\d.]+\)", rows[name]), name
    assert "The run has no data card." in html and "Attention to the source" not in html


def test_degenerate_outputs_make_a_page(run):
    for own, wanted in (([""], ["a"]), (["!"] * 3, ["?"] * 3), (["a"] * 3, ["a"] * 3)):
        html, _ = run(evaluation(own, own, own, wanted, clean_from=0), None, [])
        assert "not significantly different" in html and "Attention to the source" not in html
        assert "not defined\n(no reference has 4 words)" in html


def test_many_and_long_maps_are_truncated_with_a_note(run):
    def example(t, s):
        return {"source_tokens": ["s"] * s, "target_tokens": ["t"] * t, "weights": np.full((t, s), 1 / s).tolist()}

    wanted = numbers(30, 20)
    maps = [example(5, 6), example(60, 50), *[example(2, 2)] * 3]
    html, _ = run(evaluation(wanted, wanted, wanted, wanted), None, maps)
    assert html.count("data:image/svg+xml;base64,") == 3 and html.count("The first 40 tokens of each side") == 1
    assert "Attention of 40 target tokens (rows) to 40 source tokens (columns)" in html


def test_a_map_shows_its_weights_and_its_tokens_as_they_are():
    weights, queries, keys = [[0.9, 0.1], [0.2, 0.8], [0, 1]], [" a$_b$", "\n", "x" * 40], ["<", ""]
    axes = Figure().subplots()
    draw_attention(axes, weights, queries, keys)
    assert axes.images[0].get_array().filled(0.0).tolist() == weights and axes.images[0].get_clim() == (0, 1)
    shown = [[label.get_text() for label in side.get_ticklabels()] for side in (axes.yaxis, axes.xaxis)]
    assert shown == [["\u2423a$_b$", "\u23ce", "x" * 13 + "\u2026"], ["<", "\u2205"]]
    assert not any(label.get_parse_math() for side in (axes.yaxis, axes.xaxis) for label in side.get_ticklabels())
    assert visible("\x00") == "\N{REPLACEMENT CHARACTER}" and visible(" the") == "\u2423the"
    small, large = map_size(["a"] * 5, ["b"] * 5), map_size(["a"] * 40, ["b"] * 40)
    assert small[0] < large[0] < 12 and small[1] < large[1] < 12


def test_the_table_for_the_screen_names_every_baseline():
    lines = targets_table(evaluation(numbers(60, 30), numbers(60, 3), numbers(60, 20), numbers(60, 60)))
    assert lines[0].startswith("test pairs: 60; ") and lines[0].endswith("p is for exact match")
    assert [line.split("  ")[0] for line in lines[2:]] == ["mini, full", scores.COPY, scores.NEAREST, scores.UNTUNED]
    assert "0.5000 [0.3774, 0.6226]" in lines[2] and "0.3333 [" in lines[4]


def test_without_texts_no_pair_is_shown(run):
    words = [f"secret {number}" for number in range(30)]
    maps = [{"source_tokens": ["secret"], "target_tokens": ["secret"], "weights": [[1.0]]}]
    card = replace(CARD, example="a secret pair")
    for texts in (True, False):
        for text in run(evaluation(words, words[::-1], words, words), card, maps, texts):
            assert ("secret" in text) == texts
            assert ("some of them training rows" in text) == texts
            assert "finetune generate" in text and "Loss before and after" in text
