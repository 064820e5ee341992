"""Each code is reached by a table that has what it stands for, and is not shown where it is muted."""

import csv
import json
import random
from pathlib import Path

import pytest

from finetune.errors import RunError
from finetune.recipe import Recipe
from finetune.records import DataOrigin
from finetune.report.blocks import Table, Text
from finetune.tables.codes import BY_NAME
from finetune.tasks.classify.check import check_file
from finetune.tasks.classify.data import ClassifierCard, prepare, read_data, table_findings
from finetune.tasks.classify.sections.data import data_section
from finetune.tokenizer import Tokenizer

ROWS = 240
WORDS = [
    "apple",
    "river",
    "stone",
    "cloud",
    "grass",
    "tower",
    "candle",
    "window",
    "garden",
    "silver",
    "winter",
    "morning",
    "paper",
    "forest",
    "hammer",
    "kettle",
    "ladder",
    "mirror",
    "needle",
    "orange",
    "pencil",
    "quarry",
]
SMS = ["ham\thello there you", 'spam\t"win now or never', "ham\twell then bye", 'ham\tso it goes"', "spam\tbuy me"]
LONG = "a rather long text that is here twice, nearly"


def texts(**others: str) -> list[str]:
    """Different texts, some replaced: ``_3="a text"`` for that of row 3."""
    draw = random.Random(0)
    found = [" ".join(draw.sample(WORDS, 7)) for _ in range(ROWS)]
    for row, text in others.items():
        found[int(row[1:])] = text
    return found


def labels(**others: str) -> list[str]:
    """Two labels in turns, some replaced."""
    return [others.get(f"_{row}", ("ham", "spam")[row % 2]) for row in range(ROWS)]


def table(own_texts: list[str] | None = None, own_labels: list[str] | None = None, **more: list) -> dict[str, list]:
    """The columns of a table without a finding, some replaced, with more of them."""
    return {"text": own_texts or texts(), "label": own_labels or labels()} | more


def swallowing() -> str:
    """A quote that opens in row 10 and closes in row 14."""
    lines = [f'"{text}, {label}",{label}' for text, label in zip(texts(), labels(), strict=True)]
    lines[10:15] = ['"opened 10,ham', "plain 11,spam", "plain 12,ham", "plain 13,spam", 'closed 14",ham']
    return "\n".join(["text,label", *lines]) + "\n"


TABLES: dict[str, dict[str, list] | str | bytes] = {
    "encoding": "\n".join(["text,label", "café,ham", "thé,ham", *(f"{own},spam" for own in texts())]).encode("cp1252"),
    "layout": "\n".join(["text;label", *(f"{text};{label}" for text, label in zip(texts(), labels(), strict=True))]),
    "quoting": "\n".join(SMS * 4) + "\n",
    "swallowed_rows": swallowing(),
    "columns": {"id": list(range(ROWS)), "words": texts(), "kind": labels()},
    "unused_split": table(split=["train", "train", "val", "test"] * (ROWS // 4)),
    "leaking_column": table(kind=["letter", "advert"] * (ROWS // 2)),
    "reserved_columns": table(predicted=list(range(ROWS))),
    "one_text": table(["the same"] * ROWS),
    "few_texts": table([f"text {row % 3}" for row in range(ROWS)]),
    "empty_text": table(texts(_5="")),
    "cut_texts": table(texts(_5=" ".join(WORDS * 40))),
    "other_alphabet": table(["мама мыла раму " + text for text in texts()]),
    "broken_characters": table(texts(_5="caf\u00c3\u00a9")),
    "control_characters": table(texts(_5="a bell \x07 here")),
    "emoji": table(texts(_5="win \U0001f600")),
    "many_labels": table(None, [f"k{row}" for row in range(ROWS)]),
    "empty_label": table(None, labels(_5="")),
    "several_labels": table(None, labels(_5="ham;spam")),
    "missing_words": table(None, labels(_5="NaN", _7="n/a")),
    "label_spelling": table(None, labels(_5="Spam")),
    "rare_labels": table(None, labels(_5="maybe")),
    "imbalance": table(None, ["spam"] * 24 + ["ham"] * (ROWS - 24)),
    "label_in_text": table(
        [f"[{label}] {text}" if label == "spam" else text for text, label in zip(texts(), labels(), strict=True)]
    ),
    "exact_duplicates": table(texts(_4="same text", _6="Same  TEXT")),
    "conflicting_labels": table(texts(_4="same text", _5="Same  TEXT")),
    "near_duplicates": table(texts(_4=LONG, _6=LONG + " so")),
    "near_duplicates_with_other_label": table(texts(_4=LONG, _5=LONG + " so")),
    "white_space_clue": table([text + "  " * (row % 2) for row, text in enumerate(texts())]),
    "style_clue": table([text + "." * (row % 2) for row, text in enumerate(texts())]),
    "nested_texts": table([json.dumps(text.split()) for text in texts()]),
    "repeated_header": table(texts(_5="text"), labels(_5="label")),
    "total_row": table(texts(_239="Total"), labels(_239="240")),
    "cannot_split": table([f"order number {1000 + row}" for row in range(ROWS)]),
}

PARTS = ["train"] * 160 + ["val"] * 40 + ["test"] * 40
DIVIDED = {  # found by ``prepare`` alone, which knows the split
    "shared_groups": table(who=[f"person {row % 50}" for row in range(ROWS)], part=PARTS),
    "test_rows_near_train": table(
        texts(_4=LONG, _220=LONG + " so"), who=[f"person {row}" for row in range(ROWS)], part=PARTS
    ),
}


def write(path: Path, content: dict[str, list] | str | bytes) -> str:
    if isinstance(content, dict):
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([list(content), *zip(*content.values(), strict=True)])
    else:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def prepared(path: str, **more):
    recipe = Recipe(data=path, columns={"group": "who", "split": "part"}, **more)
    source = read_data(recipe)
    return prepare(recipe, source, Tokenizer.of_bytes(), 400, table_findings(recipe, source))[2]


def test_every_check_has_a_table_here():
    of_tables = {name for name, check in BY_NAME.items() if check.code < "FT050"}  # later ones: the audit, other data
    assert {*TABLES, *DIVIDED} == of_tables and len(TABLES) + len(DIVIDED) == len(of_tables)


@pytest.mark.parametrize("name", TABLES)
def test_a_table_reaches_its_code_and_the_code_mutes_it(name, tmp_path):
    path, code = write(tmp_path / "my.csv", TABLES[name]), BY_NAME[name].code
    found = check_file(path)
    assert code in {finding.code for finding in found.findings} and found.muted == []
    if not BY_NAME[name].stops:
        again = check_file(path, ignore=[code, "FT008"])
        assert again.muted == sorted({code, "FT008"})
        assert again.findings == [finding for finding in found.findings if finding.code not in (code, "FT008")]
        assert again.rows == found.rows and again.duplicates == found.duplicates


@pytest.mark.parametrize("name", DIVIDED)
def test_a_split_reaches_its_code_and_the_code_mutes_it(name, tmp_path):
    path, code = write(tmp_path / "my.csv", DIVIDED[name]), BY_NAME[name].code
    found, muted = prepared(path), prepared(path, ignore=(code,))
    said = next(finding.what for finding in found.checks if finding.code == code)
    assert said not in found.notes and found.muted == []
    assert muted.muted == [code] and muted.to_json()["muted"] == [code] and said not in muted.notes
    assert muted.checks == [finding for finding in found.checks if finding.code != code]
    assert muted.splits == found.splits and muted.near_duplicates == found.near_duplicates


@pytest.mark.parametrize("name", ["layout", "columns", "empty_text"])
def test_notes_of_reading_are_muted_with_their_finding(name, tmp_path):
    path, code = write(tmp_path / "my.csv", TABLES[name]), BY_NAME[name].code
    lines = [[*read_data(Recipe(data=path, ignore=ignore)).notes] for ignore in ((), (code,))]
    cards = [
        prepare(recipe, read_data(recipe), Tokenizer.of_bytes(), 400)[2]
        for recipe in (Recipe(data=path), Recipe(data=path, ignore=(code,)))
    ]
    assert len(cards[1].notes) < len(cards[0].notes) and cards[0].rows == cards[1].rows
    assert name == "empty_text" or len(lines[1]) < len(lines[0])


@pytest.fixture
def card(tmp_path) -> ClassifierCard:
    """That of a table with findings, two of which are muted."""
    found = prepared(write(tmp_path / "my.csv", DIVIDED["shared_groups"]), ignore=("FT007", "FT016"))
    return found.of(DataOrigin("my", "my.csv", "mine", "none", "none", "0" * 64))


def test_a_card_is_read_back_with_its_findings(card):
    plain = card.to_json()
    assert {finding["code"] for finding in plain["checks"]} == {finding.code for finding in card.checks} != set()
    assert ClassifierCard.from_json(plain, "card.json") == card
    plain["checks"][0]["check"] = "unheard_of"
    with pytest.raises(RunError, match="card.json: not in this version's format; got checks.0.*unheard_of"):
        ClassifierCard.from_json(plain, "card.json")


def test_the_report_lists_findings_by_code_and_says_what_is_muted(card):
    blocks = data_section(card).blocks
    listed = next(own for own in blocks if isinstance(own, Table) and own.columns[0] == "Code")
    assert [row[:2] for row in listed.rows] == [[finding.code, finding.level] for finding in card.checks]
    said = " ".join(own.text for own in blocks if isinstance(own, Text))
    assert "Muted codes, whose findings are not listed: FT007, FT016." in said and "docs/findings.md" in said
    assert not any(finding.what in said for finding in card.checks)
