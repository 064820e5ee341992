"""Findings have codes on the screen, in the card and in the report, and a code can be ignored."""

import json
import re
from pathlib import Path

import pytest

ROWS = [f"{('lunch at home', 'win a prize')[i % 2]} {'x' * (i // 2)},{('ham', 'spam')[i % 2]}" for i in range(60)]
ROWS += [",ham", "caf\u00c3\u00a9 at noon,ham", "what is rare,other"]
IGNORED = ["FT011", "FT014"]
TRAIN = [
    "--weights",
    "random-bytes",
    "--set",
    "train.max_steps=2",
    "--set",
    "max_length=16",
    "--set",
    "evaluate.resamples=100",
    "--set",
    "split.test_fraction=0.3",
]


@pytest.fixture
def data(tmp_path):
    """A table with a row without text, broken characters and a label of one row."""
    (tmp_path / "my.csv").write_text("\n".join(["text,label", *ROWS]) + "\n", encoding="utf-8")


def codes(text: str) -> set[str]:
    return set(re.findall(r"FT\d{3}", text))


def ignoring(option: bool) -> list[str]:
    """Both ways to say what to ignore."""
    return (
        [part for code in IGNORED for part in ("--ignore", code)]
        if option
        else ["--set", f"ignore={json.dumps(IGNORED)}"]
    )


def test_codes_are_shown_and_muted_by_the_check(finetune, data):
    plain, muted = finetune("data", "check", "my.csv"), finetune("data", "check", "my.csv", *ignoring(True))
    assert plain.status == muted.status == 0 and codes(plain.out) >= {*IGNORED, "FT021"}
    assert "docs/findings.md" in plain.out and "muted    FT011, FT014\n" in muted.out
    rows = [line for line in muted.out.splitlines() if not line.startswith("muted")]
    assert "FT021" in "\n".join(rows) and not codes("\n".join(rows)) & {*IGNORED}
    found = json.loads(finetune("data", "check", "my.csv", "--json", *ignoring(True)).out)
    assert found["muted"] == IGNORED and not {own["code"] for own in found["findings"]} & {*IGNORED}


def test_codes_are_in_warnings_card_and_report(finetune, data):
    done = finetune("classify", "my.csv", *TRAIN, "--name", "mine")
    assert done.status == 0, done.err
    assert "left out: empty text (row 60) [FT011]\n" in done.out and "docs/findings.md" in done.out
    assert re.search(r"^note: .* contain wrongly decoded characters \(row 61\).* \[FT014\]$", done.err, re.M)
    card = json.loads(Path("runs/mine/data/card.json").read_text())
    assert {finding["code"] for finding in card["checks"]} >= {*IGNORED, "FT021"} and "muted" not in card
    for page in ("index.html", "report.md"):
        report = Path("runs/mine/report", page).read_text(encoding="utf-8")
        assert codes(report) >= {*IGNORED, "FT021"} and "docs/findings.md" in report and "Muted" not in report
        assert not re.search(r"(href=|\]\()[^ >]*findings\.md", report)


@pytest.mark.parametrize("option", [True, False])
def test_ignored_findings_are_neither_shown_nor_warned_of(finetune, data, option):
    done = finetune("classify", "my.csv", *TRAIN, *ignoring(option), "--name", "mine")
    assert done.status == 0, done.err
    said = done.out + done.err
    assert "muted: FT011, FT014\n" in said and "[FT021]" in said
    assert "[FT011]" not in said and "[FT014]" not in said and "wrong encoding" not in said and "empty text" not in said
    card = json.loads(Path("runs/mine/data/card.json").read_text())
    assert card["muted"] == IGNORED and card["dropped"] == {"empty text": 1}
    assert not {finding["code"] for finding in card["checks"]} & {*IGNORED}
    assert not [note for note in card["notes"] if "left out" in note]
    report = Path("runs/mine/report/report.md").read_text(encoding="utf-8")
    assert "Muted codes, whose findings are not listed: FT011, FT014." in report and "FT021" in report
    assert len(re.findall("FT014", report.partition("## Data")[2].partition("\n## ")[0])) == 1


def test_a_recipe_file_ignores_findings(finetune, data):
    Path("mine.toml").write_text(
        f'pipeline = "classify"\ndata = "my.csv"\nweights = "random-bytes"\n'
        f"ignore = {json.dumps(IGNORED)}\n[split]\ntest_fraction = 0.3\n"
    )
    done = finetune("run", "mine.toml", "--until", "prepare")
    assert done.status == 0 and "muted: FT011, FT014\n" in done.out, done.err
    refused = finetune("run", "pretrain", "--set", 'ignore=["FT011"]')
    assert refused.status == 2 and "ignore has no effect in pretrain" in refused.err


@pytest.mark.parametrize("command", [["data", "check", "my.csv"], ["classify", "my.csv"]])
def test_unknown_codes_and_those_that_stop_are_refused(finetune, data, command):
    unknown = finetune(*command, "--ignore", "FT011", "--ignore", "FT999")
    assert (
        unknown.status == 2
        and "cannot ignore a finding with an unknown code; got FT999; known: FT001 encoding, FT002" in unknown.err
    )
    stops = finetune(*command, "--ignore", "FT017")
    assert stops.status == 2 and "FT017 (many_labels) makes training impossible and cannot be ignored" in stops.err
    assert not Path("runs").exists()


def test_what_stops_training_says_its_code(finetune, tmp_path):
    (tmp_path / "my.csv").write_text("text,label\n" + "".join(f"text {'x' * i},k{i}\n" for i in range(40)))
    for command in (["data", "check", "my.csv"], ["classify", "my.csv", *TRAIN]):
        done = finetune(*command)
        assert done.status == 2 and "too many for labels [FT017]" in done.err
