"""The cards of the bundled samples hold the figures that their scripts measure."""

import json
import runpy
import sys

import pytest

from finetune.comparisons.architectures.numbers import in_words


@pytest.mark.parametrize("name", ["spam", "instruct", "seq2seq"])
def test_a_card_contains_the_figures_of_its_script(root, monkeypatch, capsys, name):
    script = root / "data" / name / "check_sample.py"
    monkeypatch.setattr(sys, "argv", [str(script), "--check"])
    runpy.run_path(str(script), run_name="__main__")
    assert all(
        f"| `{name}` | {value} |" in (script.parent / "card.md").read_text(encoding="utf-8")
        for name, value in json.loads(capsys.readouterr().out).items()
    )


WORDS = {
    0: "zero",
    7: "seven",
    13: "thirteen",
    20: "twenty",
    21: "twenty-one",
    99: "ninety-nine",
    100: "one hundred",
    101: "one hundred and one",
    110: "one hundred and ten",
    999: "nine hundred and ninety-nine",
    1000: "one thousand",
    1001: "one thousand and one",
    1100: "one thousand one hundred",
    4071: "four thousand and seventy-one",
    40_215: "forty thousand two hundred and fifteen",
    100_000: "one hundred thousand",
    100_007: "one hundred thousand and seven",
    101_000: "one hundred and one thousand",
    919_312: "nine hundred and nineteen thousand three hundred and twelve",
}
NAMES = dict(
    zip(
        [
            "zero",
            "one",
            "two",
            "three",
            "four",
            "five",
            "six",
            "seven",
            "eight",
            "nine",
            "ten",
            "eleven",
            "twelve",
            "thirteen",
            "fourteen",
            "fifteen",
            "sixteen",
            "seventeen",
            "eighteen",
            "nineteen",
        ],
        range(20),
        strict=True,
    )
)
TENS = {"twenty": 20, "thirty": 30, "forty": 40, "fifty": 50, "sixty": 60, "seventy": 70, "eighty": 80, "ninety": 90}
NAMES |= TENS | {f"{ten}-{one}": TENS[ten] + NAMES[one] for ten in TENS for one in list(NAMES)[1:10]}


def read_number(text):
    """What the words say, by British grammar; KeyError or ValueError for what breaks it."""
    for name, size in (("thousand", 1000), ("hundred", 100)):
        head, found, rest = text.partition(f" {name}")
        if not found:
            continue
        assert 1 <= (many := read_number(head)) < (1000 if size == 1000 else 10), text
        if not rest:
            return many * size
        joined = rest.startswith(" and ")
        value = read_number(rest.removeprefix(" and")[1:])
        assert 0 < value < size and joined == (value < 100), text
        return many * size + value
    return NAMES[text]


@pytest.fixture(scope="module")
def number_words(root):
    return runpy.run_path(str(root / "data" / "seq2seq" / "number_words.py"))


def test_numbers_are_spelled_out_in_british_english():
    assert {n: in_words(n) for n in WORDS} == WORDS
    tried = [*range(11_000), *range(11_000, 1_000_000, 37), 999_999]
    assert [read_number(in_words(n)) for n in tried] == tried
    for wrong in ("one hundred one", "one thousand seven", "one thousand and one hundred", "twenty one", "ten hundred"):
        with pytest.raises((AssertionError, KeyError)):
            read_number(wrong)
    for n in (-1, 1_000_000):
        with pytest.raises(ValueError, match="is not in 0 to 999,999"):
            in_words(n)


def test_the_sample_of_numbers_is_what_its_script_makes(root, number_words, tmp_path):
    number_words["write_sample"](tmp_path / "again.tsv")
    lines = (tmp_path / "again.tsv").read_bytes()
    assert lines == (root / "data" / "seq2seq" / "sample.tsv").read_bytes()
    header, *rows = lines.decode().splitlines()
    numbers = [int(row.split("\t")[0].replace(",", "")) for row in rows]
    assert header == "source\ttarget" and len(numbers) == len(set(numbers)) == 20_000
    assert set(range(1000)) < set(numbers) and max(numbers) < 1_000_000 and numbers != sorted(numbers)
    assert rows == [f"{n:,}\t{in_words(n)}" for n in numbers]
    assert [n for n in numbers if f"{n:,}".count(",") != (n > 999)] == []
