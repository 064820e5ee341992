"""Texts of the data on a page: announced at its head, and left out on request."""

import json
import re
from dataclasses import replace

import pytest

from finetune.report.blocks import Code, Section, Table, Text
from finetune.report.build import build_report
from finetune.report.quotes import quoting_note, without_quotes
from finetune.tasks.classify.page import PAGE
from finetune.tasks.pretrain import page as language
from tests.unit.report.conftest import write_evidence

TEXTS = [f"secret{at} of a person" for at in range(8)]


@pytest.fixture
def run(make_run):
    run = make_run(rows=(200, 60, 90), texts=TEXTS, resamples=100)
    write_evidence(run, TEXTS, ["ham", "spam"])
    return run


def pages(run):
    index = build_report(run, {"classify": PAGE})
    return index.read_text(encoding="utf-8"), (run / "report" / "report.md").read_text(encoding="utf-8")


def test_a_page_that_shows_texts_says_so_and_how_to_share_it_without(run):
    for page in pages(run):
        assert "texts of your data, some of them training rows" in page
        assert "--set report.texts=false --name spam-classifier-shared" in page.replace("\\", "")
        assert "secret0" in page and "secret7" in page


def test_on_request_no_text_is_left(run):
    recipe = json.loads((run / "recipe.json").read_text())
    (run / "recipe.json").write_text(json.dumps(recipe | {"report": {"texts": False}}))
    for page in pages(run):
        assert "This page shows no texts of the data" in page and "of your data, some" not in page
        assert "secret" not in page and not re.search(r"topic\d", page)
        for kept in ("Labels that may be wrong", "Misclassified test rows", "Shortcut", "Slices", "spam"):
            assert kept in page


def test_columns_and_blocks_that_quote_are_dropped_and_the_others_keep_their_look():
    table = Table(
        "t", ["Row", "Text", "Label", "n"], [["0", "secret", "ham", "3"]], frozenset({0, 3}), quotes=frozenset({1})
    )
    whole = Table("w", ["", ""], [["a", "secret"]], quotes=frozenset({0, 1}))
    code = Code("finetune secret", quotes=True, instead='finetune "a text"')
    section = Section("id", "Title", [table, whole, code, Text("secret", quotes=True), Text("kept")], "introduction")
    found = without_quotes(section)
    assert "secret" not in repr(found) and found.introduction == "introduction"
    kept, command, text, note = found.blocks
    assert kept.columns == ["Row", "Label", "n"] and kept.rows == [["0", "ham", "3"]] and kept.numbers == {0, 2}
    assert command.text == 'finetune "a text"' and text == Text("kept") and "report.texts = false" in note.text
    plain = Section("id", "Title", [Text("kept")])
    assert without_quotes(plain) is plain and quoting_note([plain]) == ""
    assert "test texts" in quoting_note([section]) and "training" not in quoting_note([section])
    assert "training rows" in quoting_note([plain, replace(section, training=True)])


def test_a_language_models_samples_are_left_out(language_run):
    recipe = json.loads((language_run / "recipe.json").read_text())
    for texts in (True, False):
        (language_run / "recipe.json").write_text(json.dumps(recipe | {"report": {"texts": texts}}))
        index = build_report(language_run, {"pretrain": language.PAGE})
        for path in (index, index.parent / "report.md"):
            page = path.read_text(encoding="utf-8")
            assert ("Meridian" in page, "is the city" in page) == (texts, texts) and "Before and after" in page
