"""The report of whole run directories: content, safety, and what may be missing."""

import ast
import base64
import csv
import hashlib
import importlib
import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from finetune.errors import RunError
from finetune.report.build import build_report
from finetune.report.inputs import ValidationPoint, read_errors, read_training_log
from finetune.tasks.classify import page as results
from finetune.tasks.classify.score import ClassifierEvaluation
from finetune.tasks.pretrain import page as language

PAGES = {"classify": results.PAGE, "pretrain": language.PAGE}
PAYLOADS = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    '"><svg onload=alert(1)>',
    "' onmouseover='alert(1)",
    '<a href="javascript:alert(1)">x</a>',
    "javascript:alert(1)",
    "<iframe src=//evil.example>",
    "</td></table>",
    "<style>*{display:none}</style>",
    "<link rel=stylesheet href=//evil.example/x.css>",
    "<body onload=alert(1)>",
    "<meta http-equiv=refresh content='0;url=//evil.example'>",
    "<base href=//evil.example>",
    "<object data=x>",
    "<form action=//evil.example><input autofocus onfocus=alert(1)>",
    "<details open ontoggle=alert(1)>",
    "<!--",
    "]]>",
    "<math><mi xlink:href=javascript:alert(1)>",
    "<video><source onerror=alert(1)>",
    "{{7*7}}",
    "{% raw %}",
    "{{''.__class__.__mro__}}",
    "${7*7}",
    "<ScRiPt >alert(1)</sCrIpT>",
    "<img/src=x/onerror=alert(1)>",
    "&lt;b&gt;",
    "%3Cscript%3E",
    "\u2028<script>",
    "<svg><animate onbegin=alert(1)>",
    "=cmd|' /C calc'!A0",
    "| a | b |\n| --- |",
]

TAGS = set(
    re.findall(
        r"\w+",
        "html head meta title style body main header nav section div p h1 h2 ul li a span strong table caption thead tbody tr "
        "th td figure figcaption img details summary pre code wbr script",
    )
)


class Page(HTMLParser):
    """Every tag with its attributes, and the visible text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text, self.open = [], "", []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "br", "link", "input", "wbr"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data):
        if not {"style", "script"} & set(self.open):
            self.text += data

    def named(self, *names):
        return [attrs for tag, attrs in self.tags if tag in names]


def read(run):
    index = build_report(run, PAGES)
    assert index == run / "report" / "index.html"
    text = index.read_text(encoding="utf-8")
    return Page(text), text, (run / "report" / "report.md").read_text(encoding="utf-8")


def check_inert(page):
    """Nothing in the page runs, loads or leaves it."""
    assert [attrs for tag, attrs in page.tags if tag == "script"] == [{}], "one script, the page's own"
    assert {tag for tag, _ in page.tags} <= TAGS
    for tag, attrs in page.tags:
        assert not [name for name in attrs if name.startswith("on") or name in ("style", "srcset", "action")], tag
        for name in ("src", "href"):
            if name in attrs:
                assert attrs[name].startswith("data:image/svg+xml;base64," if tag == "img" else "#"), attrs[name]
    assert page.open == []


def test_report_of_two_labels_holds_everything_in_order(make_run):
    run = make_run(rows=(300, 80, 150))
    page, text, markdown = read(run)
    titles = re.findall(r"<h2 [^>]*>([^<]+)</h2>", text)
    assert titles == [
        "Model and baselines",
        "All metrics",
        "Confusion matrix",
        "ROC and precision-recall curves",
        "Calibration",
        "Decisions",
        "Training",
        "Metrics by label",
        "Errors",
        "Overlap between splits",
        "Data",
        "Run details",
        "How to use it",
        "Try it, and look inside",
        "Licence",
    ]
    assert re.findall(r"^## (.+)$", markdown, re.M) == titles
    evaluation = json.loads((run / "eval.json").read_text())
    value = f"{100 * evaluation['headline']['value']:.1f}"
    for place in (page.text, markdown):
        plain = " ".join(place.split())
        assert f"Accuracy {value} % (" in plain and "n = 150" in plain and "TF-IDF + logistic regression" in plain
        assert "McNemar" in plain and "finetune run runs/spam-classifier/recipe.json --name" in plain
        assert 'finetune predict runs/spam-classifier "some text"' in plain and "CC BY 4.0" in plain
        assert "finetune serve runs/spam-classifier" in plain
        assert 'finetune xray runs/spam-classifier --text "some text"' in plain
        assert "doi 10.24432/C5CC84" in plain and "0123abc" in plain and "last-blocks" in plain
    assert len(page.named("img")) == 7
    assert "train.weight_decay" in page.text and "decoupled weight decay of matrices" in page.text


def test_page_is_accessible_and_self_contained(make_run):
    page, text, _ = read(make_run(rows=(200, 60, 90)))
    check_inert(page)
    csp = [attrs["content"] for attrs in page.named("meta") if attrs.get("http-equiv") == "Content-Security-Policy"]
    script = re.search("<script>(.*)</script>", text, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; img-src data:"
    assert csp == [f"{policy}; base-uri 'none'; form-action 'none'"]
    assert "url(" not in text and "@import" not in text and len(text) < 3_000_000
    assert all(attrs["alt"] and attrs["width"] and attrs["height"] for attrs in page.named("img"))
    assert all(attrs.get("scope") in ("col", "row") for attrs in page.named("th"))
    assert [tag for tag, _ in page.tags if tag in ("h1", "h2", "h3")] == ["h1"] + ["h2"] * 15
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert {attrs["href"][1:] for attrs in page.named("a")} <= set(ids)
    assert text.count("<figcaption>") == len(page.named("img"))


def test_hostile_texts_labels_and_names_are_inert(make_run):
    labels = ["<script>alert('label')</script>", '" onmouseover="alert(1)']
    run = make_run("<b onclick=x>'", labels=labels, rows=(200, 60, 120), texts=PAYLOADS, pipeline="<script>")
    card = json.loads((run / "data" / "card.json").read_text())
    card |= {
        "name": PAYLOADS[1],
        "source": "javascript:alert(1)",
        "notes": PAYLOADS,
        "licence": PAYLOADS[0],
        "checks": [{"check": "emoji", "level": "note", "what": what, "do": what} for what in PAYLOADS],
    }
    (run / "data" / "card.json").write_text(json.dumps(card))
    evaluation = json.loads((run / "eval.json").read_text())
    evaluation["weights"] |= {"name": PAYLOADS[2], "source": PAYLOADS[3], "fallback": True, "note": PAYLOADS[0]}
    (run / "eval.json").write_text(json.dumps(evaluation))
    page, text, markdown = read(run)
    check_inert(page)
    assert "{{7*7}}" in page.text and "alert(1)" in page.text and "javascript:alert(1)" in page.text
    prose = [line for line in markdown.splitlines() if not line.startswith("    ")]  # the rest is indented code
    assert not re.search(r"<\s*/?\s*[a-zA-Z!]", "\n".join(prose)), "Markdown holds a raw tag"
    assert "](" not in markdown
    assert [line for line in prose if line.startswith("|") and "alert(1)" in line]


def test_a_markdown_cell_cannot_break_its_table(make_run):
    _, _, markdown = read(make_run(rows=(200, 60, 90), texts=["| x | y |\n| --- |", "a`b`c *d* _e_ [f](g)"]))
    row = next(line for line in markdown.splitlines() if "x \\| y" in line)
    assert row.startswith("| 0 |") and len(re.findall(r"(?<!\\)\|", row)) == 6
    assert "a\\`b\\`c \\*d\\* \\_e\\_ \\[f\\](g)" in markdown


def test_control_characters_do_not_reach_the_page(make_run):
    run = make_run(rows=(200, 60, 90), texts=["ring\x07 \x1b[31mred \u202ereversed"])
    _, text, markdown = read(run)
    for place in (text, markdown):
        assert "ring" in place and not re.search("[\x00-\x08\x0b-\x1f\x7f\u202e]", place)


def test_with_many_labels_the_worst_are_listed_instead_of_a_matrix(make_run):
    labels = [f"intent_{i}" for i in range(77)]
    page, text, markdown = read(make_run(labels=labels, rows=(231, 100, 200), strength=3.0, headline="f1_macro"))
    check_inert(page)
    assert not [attrs for attrs in page.named("img") if "Confusion matrix" in attrs["alt"]]
    assert "Most frequent confusions" in page.text and "The 20 labels with the lowest F1, of 77" in page.text
    assert "Macro F1" in page.text and "The 20 most frequent of 77 labels are listed." in page.text
    assert "Curves" not in page.text


def test_a_few_labels_have_a_matrix_and_mean_curves(make_run):
    page, _, markdown = read(make_run(labels=["$x^$", "b|c", "漢字", "d"], rows=(160, 60, 120), strength=2.0))
    assert [attrs for attrs in page.named("img") if attrs["alt"].startswith("Confusion matrix of 4 labels")]
    assert "mean of 4 classes, each against the rest" in page.text
    assert "b\\|c" in markdown and "$x^$" in markdown


def test_errors_are_listed_most_confident_first_and_shortened(make_run):
    run = make_run(rows=(200, 60, 90), texts=["=1+1 formula", "long " * 200, "'=2+2 quoted"])
    page, text, _ = read(run)
    with open(run / "predictions.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    wrong = sorted((row for row in rows if row["label"] != row["predicted"]), key=lambda r: -float(r["probability"]))
    found = read_errors(run / "predictions.csv")
    assert found.total == 90 and found.wrong == len(wrong)
    assert [row.row for row in found.rows] == [row["row"] for row in wrong[:30]]
    assert ">=1+1 formula<" in text and "'=1+1" not in text and ">&#39;=2+2 quoted<" in text
    assert "counted from 0 without the header" in " ".join(page.text.split())
    assert max(len(row.text) for row in found.rows) == 300


def test_many_errors_keep_the_thirty_most_confident(tmp_path):
    path = tmp_path / "predictions.csv"
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["row", "text", "label", "predicted", "probability", "p_ham", "p_spam"])
        for row in range(500):
            writer.writerow([row, "x" * 200_000 if row == 7 else "t", "a", "b", (row * 37 % 500) / 500, 0, 0])
    found = read_errors(path)
    assert [row.probability for row in found.rows] == [i / 500 for i in range(499, 469, -1)]
    assert found.wrong == 500


def test_a_perfect_run_without_a_log_says_so(make_run):
    page, text, _ = read(make_run(rows=(200, 60, 90), perfect=True, train_log=False))
    check_inert(page)
    assert "All 90 test rows are classified correctly." in page.text and "no log of its training steps" in page.text
    assert "Every test row is classified correctly." in page.text and "A zero-width interval" in page.text


def test_a_fallback_is_reported_with_the_commands_that_avoid_it(make_run):
    page, _, markdown = read(make_run("tiny", rows=(200, 60, 90), fallback=True))
    for place in (page.text, markdown):
        assert "from random weights, not from GPT" in place and "`finetune" not in place
        assert place.count("finetune weights get gpt2") == 1 and "--set weights=gpt2 --name tiny-gpt2" in place
    assert "random weights" not in read(make_run("full", rows=(200, 60, 90)))[0].text


def test_an_undefined_metric_is_shown_as_its_reason(make_run):
    run = make_run(rows=(200, 60, 90))
    evaluation = json.loads((run / "eval.json").read_text())
    for metrics in (evaluation["metrics"], evaluation["validation"], evaluation["baselines"][0]["metrics"]):
        metrics["roc_auc"] = {"value": None, "low": None, "high": None, "n": 90, "reason": "only one class"}
    evaluation["curves"]["model"] = None
    evaluation["baselines"][0]["difference"] = {"metric": "accuracy", "value": 0.01, "low": 0.0, "high": 0.02, "n": 90}
    (run / "eval.json").write_text(json.dumps(evaluation))
    page, _, _ = read(run)
    assert "not defined" in page.text and "only one class" in page.text
    assert not re.search(r"\b(None|nan|NaN|Undefined)\b", page.text)


def test_only_recipe_and_evaluation_are_needed(make_run):
    run = make_run(rows=(200, 60, 90))
    for name in ("data", "stages"):
        shutil.rmtree(run / name)
    for name in ("train.jsonl", "predictions.csv"):
        (run / name).unlink()
    page, _, markdown = read(run)
    check_inert(page)
    assert "The run has no data card." in page.text and "The run has no predictions.csv." in markdown


def test_building_twice_gives_the_same_bytes(make_run):
    run = make_run(rows=(200, 60, 90))
    first = read(run)[1:]
    assert read(run)[1:] == first


def test_a_missing_or_damaged_evaluation_raises(make_run, tmp_path):
    with pytest.raises(RunError, match=f"no eval.json.*finetune run .*recipe.json --name {tmp_path.name}"):
        build_report(tmp_path, PAGES)
    run = make_run("my-run", rows=(100, 30, 40))
    (run / "eval.json").write_text("{")
    with pytest.raises(RunError, match="cannot read"):
        build_report(run, PAGES)
    (run / "eval.json").write_text('{"headline": 3}')
    with pytest.raises(RunError, match="eval.json: not in this version's format.*--name my-run --from evaluate"):
        build_report(run, PAGES)
    (run / "predictions.csv").write_text("row,text\n1,x\n")
    with pytest.raises(RunError, match="predictions.csv"):
        read_errors(run / "predictions.csv")


@pytest.mark.parametrize("text", ["null", "[]", "{}", "3", '{"task": "classify"}', "[" * 100_000])
@pytest.mark.parametrize(
    "file, stage",
    [
        ("eval.json", "evaluate"),
        ("data/card.json", "prepare"),
        ("stages/04-train.json", "train"),
        ("stages/01-download.json", "download"),
    ],
)
def test_an_invalid_evaluation_raises_with_the_stage_that_writes_it(make_run, file, stage, text):
    run = make_run("my-run", rows=(20, 6, 6), resamples=1)
    (run / file).write_text(text)
    with pytest.raises(RunError, match=f"{file}.*--name my-run --from {stage}"):
        build_report(run, PAGES)


@pytest.mark.parametrize(
    "file, text",
    [("recipe.json", "[]"), ("attention.json", "3"), ("attention.json", "[3]"), ("stages/04-train.json", None)],
)
def test_every_other_invalid_file_raises_with_its_name(make_run, file, text):
    run = make_run("my-run", rows=(20, 6, 6), resamples=1)
    if text is None:  # a stage's record whose result is not the training's
        text = json.dumps(json.loads((run / file).read_text()) | {"result": {}})
    (run / file).write_text(text)
    with pytest.raises(RunError, match=f"{file}: not in this version's format"):
        build_report(run, PAGES)


def test_an_unknown_task_raises_with_its_name(make_run):
    run = make_run(rows=(20, 6, 6), resamples=1)
    with pytest.raises(RunError, match="eval.json.*got task 'classify'; known: pretrain"):
        build_report(run, {"pretrain": language.PAGE})


@pytest.mark.parametrize("error", [KeyError, TypeError, AttributeError, IndexError])
def test_a_bug_in_a_page_is_not_reported_as_a_damaged_file(make_run, error):
    def broken(files):
        raise error("ours")

    run = make_run(rows=(20, 6, 6), resamples=1)
    with pytest.raises(error, match="ours"):
        build_report(run, {"classify": replace(results.PAGE, make=broken)})


def test_training_log_uses_the_later_line_and_skips_an_incomplete_one(tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_text(
        '{"step": 1, "loss": 9.0, "lr": 0.1}\n{"step": 2, "loss": NaN, "lr": 0.2}\n'
        '{"step": 1, "loss": 1.0, "lr": 0.1}\n{"step": 2, "validation": {"log_loss": 0.5}, "best": true}\n'
        '{"step": 3, "lo'
    )
    log = read_training_log(path)
    assert log.steps == [1] and log.losses == [1.0] and log.rates == [0.1, 0.2]
    assert log.validation == [ValidationPoint(2, None, True, {"log_loss": 0.5})]


def test_a_long_log_is_averaged_not_dropped(tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_text("".join(f'{{"step": {step}, "loss": {step}, "lr": 1}}\n' for step in range(1, 6001)))
    log = read_training_log(path)
    assert len(log.steps) == 600 and log.losses[0] == pytest.approx(5.5) == log.steps[0]
    assert sum(log.losses) / 600 == pytest.approx(3000.5)


def test_python_code_in_the_report_uses_existing_names(make_run):
    path = make_run(rows=(100, 30, 40)) / "eval.json"
    evaluation = ClassifierEvaluation.from_json(json.loads(path.read_text()), path)
    code = [block.text for block in results.use("it's a run", evaluation).blocks if block.kind == "code"]
    snippets = [ast.parse(text) for text in code if "import " in text]
    assert len(snippets) == 2
    own = {
        alias.name: getattr(importlib.import_module(node.module), alias.name)
        for tree in snippets
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module.startswith("finetune")
        for alias in node.names
    } | {"finetune": importlib.import_module("finetune")}
    names = [node for tree in snippets for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    used = [(own[node.value.id], node.attr) for node in names if getattr(node.value, "id", "") in own]
    assert used and all(hasattr(*pair) for pair in used)


@pytest.mark.parametrize("stage, loop, shown", [(500.0, 402.7, "8 min 20 s"), (10.0, 402.7, "6 min 43 s")])
def test_training_time_covers_the_whole_stage_and_all_resumed_parts(make_run, stage, loop, shown):
    run = make_run(rows=(100, 30, 40))
    path = run / "stages" / "04-train.json"
    record = json.loads(path.read_text())
    record |= {"seconds": stage, "result": record["result"] | {"seconds": loop}}
    path.write_text(json.dumps(record))
    _, _, markdown = read(run)
    lines = markdown.replace("\u00a0", " ").splitlines()
    assert [line for line in lines if line.startswith("| this model |") and line.endswith(f"| {shown} |")]
    assert f"| Time | {shown} |" in lines


def test_estimate_and_actual_stand_side_by_side(make_run):
    run = make_run()
    path = run / "stages" / "04-train.json"
    record = json.loads(path.read_text())
    record["result"] |= {
        "planned_steps": 400,
        "peak_bytes": 1_250_000_000,
        "estimate": {
            "seconds": 300.0,
            "seconds_low": 240.0,
            "seconds_high": 360.0,
            "steps": 3,
            "peak_bytes": 1_100_000_000,
            "peak_bytes_low": 900_000_000,
            "peak_bytes_high": 1_400_000_000,
            "cpu_share": 0.42,
        },
    }
    path.write_text(json.dumps(record))
    build_report(run, PAGES)
    text = (run / "report" / "report.md").read_text(encoding="utf-8").replace("\u00a0", " ")
    assert "| Time | 5 min 0 s | 4 min 0 s to 6 min 0 s | 6 min 43 s |" in text
    assert "| Peak memory | 1.10 GB | 900 MB to 1.40 GB | 1.25 GB |" in text
    assert (
        "It is for 400 steps; training stopped after 220. During them the process received 42 % of the CPU time" in text
    )


def test_notes_are_sentences_and_the_loss_figure_names_the_kept_checkpoint(make_run):
    run = make_run(rows=(100, 30, 40))
    card = json.loads((run / "data" / "card.json").read_text())
    (run / "data" / "card.json").write_text(json.dumps(card | {"notes": ["rows are grouped"]}))
    page, _, _ = read(run)
    assert "Rows are grouped." in page.text and "Majority class: " in page.text
    assert (
        "The dashed line marks the checkpoint with the best validation macro F1, which is evaluated and exported."
        in " ".join(page.text.split())
    )


def test_names_break_after_dots_and_stay_whole_when_copied(make_run):
    page, text, _ = read(make_run(rows=(100, 30, 40)))
    assert "blocks.10.<wbr>attention.<wbr>qkv.<wbr>weight" in text and "blocks.10.attention.qkv.weight" in page.text
    assert "0.<wbr>" not in re.sub(r"\.\d+\.<wbr>", "", text)


def test_a_language_models_report_counts_its_text_and_shows_samples(language_run):
    page, text, markdown = read(language_run)
    check_inert(page)
    assert "<title>tiny-gpt: pretraining report</title>" in text
    assert markdown.startswith("# tiny-gpt: pretraining report")
    assert '<p class="eyebrow">Pretraining report</p>' in text and "valuation report" not in text + markdown
    lines = [re.sub(r"\\(.)", r"\1", line) for line in markdown.splitlines()]
    for line in (
        "| Training text | 53 | 76,425 | 170,911 | 2.24 |",
        "| Held-out text | 7 | 12,533 | 29,089 | 2.32 |",
        "| Evaluation file | \N{EN DASH} | 88,895 | 200,000 | 2.25 |",
        "| small | 1.5 | 53 | 76,424 | 7 | 12,532 |",
        "| Tokens per second | 9,597 |",
        "| Time | 5.2\u00a0s |",
        "| Before training | qqq |",
        "| After training | is the city |",
        "| 2 | 0.1 | 5.9600 | 3.7059 | yes |",
    ):
        assert line in lines, line
    assert "Accuracy" not in page.text and "the best validation log loss" in " ".join(page.text.split())


def test_building_a_report_imports_no_torch(make_run):
    run = make_run(rows=(100, 30, 40))
    code = (
        "import sys; from pathlib import Path; from finetune.report import build; "
        "from finetune.tasks.classify import page; "
        f"build.build_report(Path({str(run)!r}), {{'classify': page.PAGE}}); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
