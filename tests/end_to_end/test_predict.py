"""The bundle at work: alone in another place, row by row, and as transformers reads it."""

import csv
import json
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

# What could drive a terminal, a spreadsheet or a browser.
HOSTILE = [
    "[/x] prize",
    "\x1b[31mred\x1b]0;title\x07",
    "\u202egnp.exe win",
    '=HYPERLINK("http://x")',
    "<script>alert(1)",
    "a\rb\r\nc",
    "[link=http://x]free[/link]",
    "{{7*7}} $x^$",
]
CONTROLS = {"\x1b", "\x07", "\u202e", "\r", "\x9b"}


@pytest.fixture
def bundle(toy, finetune):
    """The toy run's bundle and nothing else of the run, in the directory where ``finetune`` runs."""
    return Path(shutil.copytree(toy.run / "export" / "hf", "bundle"))


def read_csv(path: Path, delimiter: str = ",") -> list[list[str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.reader(file, delimiter=delimiter, strict=True))


def write_csv(path: str, rows: list[list[str]], delimiter: str = ",") -> None:
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter=delimiter).writerows(rows)


def test_transformers_gives_the_same_logits_and_labels(bundle, sms):
    import torch
    from transformers import AutoTokenizer, GPT2ForSequenceClassification

    from finetune.tasks.classify.bundle import Bundle

    ours = Bundle.load(bundle)
    model = GPT2ForSequenceClassification.from_pretrained(bundle).eval()
    tokenizer = AutoTokenizer.from_pretrained(bundle)
    texts = [text for text, _ in sms.rows] + ["naïve café 東京 👩‍👩‍👧", "<|endoftext|> typed", " a  b ", "x" * 2000]
    inputs = [tokenizer(text, truncation=True, max_length=ours.max_length)["input_ids"] for text in texts]
    with torch.inference_mode():
        theirs = np.concatenate([model(torch.tensor([ids])).logits.numpy() for ids in inputs])
        batch = tokenizer(texts[:8], padding=True, return_tensors="pt")
        padded = model(**batch).logits.numpy()
    logits = ours.logits(texts)
    assert np.abs(logits - theirs).max() < 1e-4 and np.abs(logits[:8] - padded).max() < 1e-4
    assert len(inputs[-1]) == ours.max_length == 512
    assert [model.config.id2label[i] for i in theirs.argmax(1)] == [ours.labels[i] for i in logits.argmax(1)]
    assert [model.config.id2label[i] for i in range(2)] == ours.labels == ["ham", "spam"]


def test_the_bundle_alone_gives_the_run_s_own_predictions(bundle, toy, finetune):
    test = read_csv(toy.run / "predictions.csv")
    write_csv("in.csv", [["text"], *([row[1]] for row in test[1:])])
    found = finetune("predict", "bundle", "--csv", "in.csv", "--out", "out.csv")
    assert found.status == 0 and found.out == "out.csv: 24 rows, text 'text'\n"
    out = read_csv(Path("out.csv"))
    assert out[0] == ["text", "predicted", "probability", "p_ham", "p_spam"]
    assert [row[1] for row in out[1:]] == [row[3] for row in test[1:]]
    figures = [np.array([row[2:] for row in out[1:]], float), np.array([row[4:] for row in test[1:]], float)]
    assert np.abs(figures[0] - figures[1]).max() <= 1e-6


def test_texts_on_the_command_line_get_a_line_each(bundle, toy, finetune):
    texts = ["win cash prize now", "lunch at home with mum", "claim free award"]
    for place in (bundle, toy.run):
        found = finetune("predict", place, *texts)
        lines = [line.split("\t") for line in found.out.splitlines()]
        assert found.status == 0 and len(lines) == 3 and all(len(line) == 2 for line in lines)
        assert {label for label, _ in lines} <= {"ham", "spam"}
        assert all(len(p) == 6 and 0.5 <= float(p) <= 1 for _, p in lines)
    single = [finetune("predict", bundle, text).out for text in texts]
    assert "".join(single) == found.out  # no text depends on its neighbours


def test_a_prediction_does_not_depend_on_its_batch(bundle, sms):
    from finetune.tasks.classify.bundle import Bundle

    ours, texts = Bundle.load(bundle), [text for text, _ in sms.rows]
    together, reverse = ours.logits(texts), ours.logits(texts[::-1])[::-1]
    alone = np.concatenate([ours.logits([text]) for text in texts[:20]])
    assert np.abs(together[:20] - alone).max() < 1e-5 and np.abs(together - reverse).max() < 1e-5


def test_a_table_keeps_columns_and_order_and_rows_without_text(bundle, finetune):
    rows = [
        ["id", "text", "note", "", ""],
        ["7", "win cash", "a,b", "", ""],
        ["3", "  ", '"q"', "", ""],
        ["5", "lunch\nhome", "", "-5", ""],
        ["1", "", "=1+1", "", ""],
        ["=A1", "meeting mum", "+44 20", "@x", ""],
    ]
    write_csv("in.csv", rows)
    found = finetune("predict", "bundle", "--csv", "in.csv", "--text", "text", "--out", "out.csv")
    assert found.status == 0 and found.out == "out.csv: 5 rows, text 'text', 2 of them without text\n"
    out = read_csv(Path("out.csv"))
    assert out[0] == [*rows[0], "predicted", "probability", "p_ham", "p_spam"]
    assert [row[:5] for row in out[1:4]] == rows[1:4]  # -5 is a number
    assert out[4][2] == "'=1+1" and out[5][:4] == ["'=A1", "meeting mum", "'+44 20", "'@x"]
    assert [row[5:] for row in (out[2], out[4])] == [[""] * 4] * 2
    for row in (out[1], out[3], out[5]):
        p = dict(zip(["ham", "spam"], map(float, row[7:]), strict=True))
        assert row[5] in p and float(row[6]) == p[row[5]] == max(p.values())
        assert sum(p.values()) == pytest.approx(1, abs=2e-6)


def test_hostile_cells_come_back_whole(bundle, finetune):
    """Every cell is read back as it was, but for the apostrophe before a formula; a lone \\r breaks no row."""
    write_csv("in.tsv", [["text", "=cmd()"], *([text, text] for text in HOSTILE)], "\t")
    found = finetune("predict", "bundle", "--csv", "in.tsv", "--out", "out.tsv")
    assert found.status == 0, found.err
    out = read_csv(Path("out.tsv"), "\t")
    defused = [("'" + text if text[0] in "=+-@" else text) for text in HOSTILE]
    assert [row[:2] for row in out[1:]] == [[text, text] for text in defused] and out[0][:2] == ["text", "'=cmd()"]
    assert b"\r\n" not in Path("out.tsv").read_bytes().replace(b"a\rb\r\nc", b"")


class Page(HTMLParser):
    """The elements of a page and its visible text."""

    def __init__(self, html: str):
        super().__init__()
        self.elements, self.attributes, self.text = set(), set(), []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.elements.add(tag)
        self.attributes |= {name for name, _ in attributes}

    def handle_data(self, data):
        self.text.append(data)


def test_hostile_texts_and_labels_drive_nothing(finetune, capsys):
    """Through the whole run: the screen, the log, the report, the bundle and its predictions."""
    labels = ["[/x]\x1b[2J", "=1+1\u202e<img src=x onerror=alert(1)>"]
    words = [["win", "cash"], ["lunch", "home"]]
    rows = [
        [f"{HOSTILE[i // 2 % len(HOSTILE)]} {words[i % 2][i % 3 % 2]} {'x' * (i // 2)}", labels[(i + i // 9) % 2]]
        for i in range(80)
    ]
    write_csv("my.csv", [["text", "label"], *rows])
    made = finetune("classify", "my.csv", "--weights", "random-bytes", "--set", "train.epochs=1", "--name", "x")
    assert made.status == 0, made.err
    run = Path("runs/x")
    assert json.loads((run / "export/hf/bundle.json").read_text(encoding="utf-8"))["labels"] == sorted(labels)
    predicted = finetune("predict", "runs/x", *HOSTILE)
    assert predicted.status == 0 and len(predicted.out.splitlines()) == len(HOSTILE)
    html = (run / "report/index.html").read_text(encoding="utf-8")
    for shown in (
        made.out,
        made.err,
        predicted.out,
        (run / "log.txt").read_text(encoding="utf-8"),
        html,
        (run / "report/report.md").read_text(encoding="utf-8"),
    ):
        assert not CONTROLS & set(shown)
    assert "[/x]" in made.out and "[/x]" in predicted.out + finetune("predict", "runs/x", "lunch", "cash").out
    page = Page(html)
    assert html.count("<script") == 1  # the page's own, which its policy names by hash
    assert not page.elements & {"iframe", "object"} and not any(a.startswith("on") for a in page.attributes)
    assert "[/x]" in "".join(page.text) and "<img src=x" in "".join(page.text)
    table = read_csv(run / "predictions.csv")
    assert all(len(row) == 7 for row in table) and {row[2] for row in table[1:]} == {labels[0], "'" + labels[1]}
