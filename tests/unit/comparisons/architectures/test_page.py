"""The page of a comparison of architectures: every interval stands in it, and names from data stay text."""

import re

import pytest
import torch

from finetune.comparisons.architectures import page as architectures
from finetune.comparisons.architectures.results import ArchitecturesComparison
from finetune.report.blocks import PageContent
from finetune.report.inputs import TrainingLog
from finetune.report.page import Files

EVIL = '<script>alert("x")</script>'


def entry(name: str, label: str, metric: str, value: float, p: float | None = None) -> dict:
    """One row of a table."""
    found = {
        "name": name,
        "label": label,
        "architecture": name.split("-")[1],
        "seconds": 61.0,
        "peak_bytes": 9e8,
        "state_bytes": 1.1e8,
        "parameters": 6_901_760,
        "lr": 5e-4,
        "steps": 20,
        "tokens": 900,
        "curve": [[10, 0.7], [20, 0.6]],
        "examples": [],
        "by_seed": [{metric: value - 0.01}, {metric: value + 0.01}],
        metric: {"value": value, "low": value - 0.0321, "high": value + 0.0321, "n": 197},
    }
    if p is not None:
        found["difference"] = {metric: {"value": 0.05, "low": 0.01, "high": 0.09, "p_value": p, "n": 197}, "p_value": p}
    return found


@pytest.fixture
def comparison() -> dict:
    """Two seeds of a classification, numbers, held-out text and masked words."""

    def group(task, measure, metric, start, *entries):
        return {
            "task": task,
            "measure": measure,
            "metric": metric,
            "start": start,
            "rows": 700,
            "reference": entries[0]["name"],
            "entries": list(entries),
        }

    numbers = [
        entry("numbers-decoder-random", "decoder-only", "exact_match", 0.25),
        entry("numbers-both-random", "encoder-decoder", "exact_match", 0.55, 0.0004),
    ]
    for own in numbers:
        own["examples"] = [["4,071", "four thousand and seventy-one", EVIL]]
    classify = [
        entry("classify-decoder-x", "decoder-only", "accuracy", 0.9),
        entry("classify-encoder-x", "encoder-only", "accuracy", 0.8, 0.4),
    ]
    for own in classify:
        own["f1"] = own["accuracy"] | {"value": 0.5, "low": 0.4321, "high": 0.5678}
    return {
        "schema_version": 1,
        "task": "architectures",
        "labels": ["ham", EVIL],
        "positive": EVIL,
        "seeds": [123, 124],
        "layers": {"encoder": 2, "decoder": 3, "others": 6},
        "apart": 0.0098,
        "sizes": {"encoder": 6_901_760, "decoder": 6_901_760, "both": 6_969_088},
        "masking": "a mask there is",
        "piece_tokens": 32,
        "number_limit": 10_000,
        "batch_size": 16,
        "device": "cpu",
        "threads": "1",
        "precision": "fp32",
        "weights": {
            "name": "mini",
            "source": "bundled",
            "licence": "MIT",
            "sha256": {},
            "fallback": True,
            "note": "Not GPT-2. More.",
        },
        "groups": [
            group("classify", "", "accuracy", EVIL, *classify) | {"majority": 0.807},
            group("numbers", "", "exact_match", "random", *numbers),
            group(
                "text",
                "",
                "bits_per_byte",
                "mini",
                entry("text-decoder-x", "decoder-only", "bits_per_byte", 2.1),
                entry("text-both-x", "encoder-decoder", "bits_per_byte", 2.4, 0.001),
            ),
            group("text", "masked", "log_loss", "mini", entry("text-encoder-x", "encoder-only", "log_loss", 6.5)),
        ],
    }


def typed(comparison: dict) -> ArchitecturesComparison:
    return ArchitecturesComparison.from_json(comparison, "comparison.json")


def page_of(comparison: dict) -> PageContent:
    """The page of a run that left nothing else."""
    log = TrainingLog([], [], [], [], [])
    return architectures.page(Files("architectures", {}, typed(comparison), None, [], None, log, None, []))


def test_what_is_read_is_written_again(comparison):
    assert typed(comparison).to_json() == comparison


def test_every_value_stands_with_its_interval_its_n_and_its_test(comparison):
    page = page_of(comparison)
    tables = {section.title: [block for block in section.blocks if block.kind == "table"] for section in page.sections}
    first = tables[next(title for title in tables if title.startswith("Classification"))][0]
    assert "n = 197" in first.caption and first.rows[0][1:3] == ["90.0 %\n(86.8 to 93.2)", "50.0 %\n(43.2 to 56.8)"]
    assert first.rows[0][3:5] == ["\N{EN DASH}", "reference"]
    assert first.rows[1][3:5] == ["+5.0\n(+1.0 to +9.0)", "p = 0.4"]
    numbers = tables["Numbers in words, random start"][0]
    assert numbers.rows[-1][:2] == ["encoder-only", "does not\ngenerate"]
    assert tables["Equal sizes"][0].rows[-1] == ["encoder-decoder", "6,969,088", "2 in the encoder, 3 in the decoder"]
    for own in (block for blocks in tables.values() for block in blocks):
        assert all(len(row) == len(own.columns) for row in own.rows), own.caption


def test_the_page_begins_with_who_attends_to_whom(comparison):
    found = {name: torch.tensor(mask) for name, mask in architectures.masks(3, 4).items()}
    assert found["encoder-only"].all() and torch.equal(found["decoder-only"], torch.ones(7, 7).tril().bool())
    both = found["encoder-decoder"]
    assert both[:3, :3].all() and not both[:3, 3:].any() and both[3:, :3].all()
    assert torch.equal(both[3:, 3:], torch.ones(4, 4).tril().bool())
    figure, table = page_of(comparison).sections[0].blocks
    assert figure.kind == "figure" and figure.picture.source.startswith("data:image/svg+xml")
    assert [row[0] for row in table.rows] == list(found)


def test_the_verdict_says_what_differs_by_more_than_noise(comparison):
    said = architectures.verdict(typed(comparison))
    assert "encoder-decoder is ahead with exact match 55.0 %" in said
    assert "encoder-decoder differs from decoder-only by more than noise" in said
    assert "nothing differs from decoder-only by more than noise" in said
    assert "decoder-only is ahead with bits per byte 2.100" in said and "Masked" not in said


def test_equal_values_have_no_winner(comparison):
    for own in comparison["groups"][0]["entries"]:
        own["accuracy"] = comparison["groups"][0]["entries"][0]["accuracy"]
    assert "all are level at accuracy 90.0 %" in architectures.verdict(typed(comparison))


def test_the_screen_shows_each_task_with_intervals(comparison):
    shown = "\n".join(architectures.screen_table(typed(comparison)))
    assert "sizes within 1.0 %" in shown and "means of 2 seeds" in shown and "does not generate" in shown
    assert re.search(r"encoder-decoder +55\.0 % \(51\.8 to 58\.2\) +\+5\.0 \(\+1\.0 to \+9\.0\) +p = 0\.0004", shown)


def test_names_and_outputs_are_escaped(comparison, tmp_path):
    import json

    from finetune.report.build import build_report

    (tmp_path / "recipe.json").write_text("{}")
    (tmp_path / "comparison.json").write_text(json.dumps(comparison))
    html = build_report(tmp_path, {"architectures": architectures.PAGE}).read_text(encoding="utf-8")
    assert html.count("<script") == 1 and "&lt;script&gt;" in html and "86.8 to 93.2" in html
    assert html.count("data:image/svg+xml") == 9 and "://" not in re.sub(r"data:[^\"]+", "", html)
