"""The benchmark on long texts: its section is what its rows say, and differences are paired by document."""

import csv
import importlib
import lzma

import numpy as np
import pytest


@pytest.fixture
def script(root, monkeypatch):
    monkeypatch.syspath_prepend(root / "benchmarks")
    return importlib.import_module("long_texts")


def a_row(script, way, seed, tested, right, **more):
    start = script.few_labels.start_id("mini")
    return {
        "set": "whole",
        "way": way,
        "seed": seed,
        "start": start,
        "tested": tested,
        "right": right,
        "tokens": 100,
        "seconds": 10.0,
    } | more


def test_differences_are_paired_by_document(script):
    tested = list(range(0, 200, 2))
    rows = [
        a_row(script, "cut", 1, tested, tested[:50]),
        a_row(script, "windows", 1, tested, tested[:80], tokens=250, seconds=30.0),
        a_row(script, "windows", 2, tested, []),  # whose cut is missing
        a_row(script, "cut", 3, tested, [], start="of another mini"),
    ]
    own, begun = (script.line(script.current(rows), "whole", way) for way in ("windows", "cut"))
    cells = [cell.strip() for cell in own.strip("|").split("|")]
    assert cells[:3] == ["whole", "windows", "1"] and cells[3].startswith("80.0 [") and cells[5:] == ["2.50", "3.00"]
    value, low, high = map(float, cells[4].replace("[", "").replace("]", "").replace(",", "").split())
    spread = 1.96 * 100 * np.std([1] * 30 + [0] * 70) / 100**0.5  # of the mean over 100 documents
    assert value == 30 and low == pytest.approx(30 - spread, abs=1) and high == pytest.approx(30 + spread, abs=1)
    assert begun.startswith("| whole | cut | 1 | 50.0 [")
    assert script.line(script.current(rows), "late", "windows") == "| late | windows | 0 | missing | | | |"


def test_a_document_tested_by_two_seeds_is_drawn_as_one(script):
    rows = [
        a_row(script, way, seed, [0, 1], [0] if way == "cut" else [0, 1])
        for way in ("cut", "windows")
        for seed in (1, 2)
    ]
    cells = script.line(script.current(rows), "whole", "windows").strip("|").split("|")
    assert cells[4].strip() == "+50.0 [+0.0, +100.0]"  # two documents, not four rows


def test_the_sets_are_documents_with_their_source_as_label(script, tmp_path, monkeypatch):
    monkeypatch.setattr(script, "EACH", 2)
    for name in (*script.SOURCES, script.OPENING):
        bodies = [f"{name} " + "word " * (99 + i) for i in range(9)] + ["too short"]
        parts = [f"Subject: [list] {name}\n{body}\n" for body in bodies] if name == "mailing_list_ham" else bodies
        text = "<|endoftext|>\n".join(f"{part}\n" for part in parts)
        with lzma.open(tmp_path / f"{name}.txt.xz", "wt", encoding="utf-8") as file:
            file.write(text)
    for name in script.SETS:
        script.write_set(name, tmp_path, tmp_path / "my.csv")
        with open(tmp_path / "my.csv", encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        assert [row["label"] for row in rows] == [source for source in script.SOURCES for _ in range(2)]
        assert not any("Subject" in row["text"] for row in rows)
        words = [row["text"].split() for row in rows]
        if name == "late":
            assert all(
                own[0] == script.OPENING and own[60] == row["label"] for own, row in zip(words, rows, strict=True)
            )
            assert {len(own) for own in words} == {140}


def test_the_page_is_what_the_script_makes_of_the_rows(script):
    rows = script.few_labels.read_rows(script.ROWS)
    assert rows and script.few_labels.section_of(script.PAGE, "long_texts") == script.section(rows)
