"""The tables of benchmarks/README.md are what the scripts make of the rows, and their intervals are right."""

import importlib
import itertools
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from finetune.checkpoints.store import write_checkpoint
from finetune.files import read_json
from finetune.models.gpt import GPT, GPTConfig
from finetune.tasks.classify.data import LabelledRow
from finetune.tokenizer import Tokenizer


@pytest.fixture
def scripts(root, monkeypatch):
    """The benchmarks' scripts by name, imported from their folder."""
    monkeypatch.syspath_prepend(root / "benchmarks")
    return {
        name: importlib.import_module(name)
        for name in ("few_labels", "learning_curves", "domain_adaptation", "classify_sets")
    }


def a_row(accuracy, seed, name="TREC", budget=100, model="mini", start="a", **more):
    return {
        "set": name,
        "budget": budget,
        "seed": seed,
        "model": model,
        "start": start,
        "accuracy": accuracy,
        "f1_macro": accuracy / 2,
        "labels": 100,
        "n_test": 500,
        "threads": 1,
    } | more


def line_of(text, *begin):
    return next(line for line in text.splitlines() if line.startswith("| " + " | ".join(begin)))


def test_the_page_is_what_the_scripts_make_of_the_rows(scripts):
    shared, curves, adaptation, whole = scripts.values()
    rows = shared.read_rows(curves.ROWS)
    assert shared.section_of(curves.PAGE, "classify_sets") == whole.section(rows + shared.read_rows(whole.ROWS))
    assert shared.section_of(curves.PAGE, "learning_curves") == curves.section(rows)
    assert shared.section_of(curves.PAGE, "domain_adaptation") == adaptation.section(
        shared.read_rows(adaptation.ROWS), rows
    )


def test_the_last_rows_are_of_the_checkpoint_that_is_bundled(scripts):
    shared, curves, adaptation, whole = scripts.values()
    rows = [row for script in (curves, adaptation, whole) for row in shared.read_rows(script.ROWS)]
    newest = {row["model"]: row["start"] for row in rows}
    assert newest == {model: shared.start_id(model) for model in newest}


def test_intervals_are_scipys(scripts):
    random = np.random.default_rng(0)
    first, second = random.normal(0.8, 0.05, 5), random.normal(0.7, 0.05, 5)
    for values, theirs in ((first, stats.ttest_1samp(first, 0)), (first - second, stats.ttest_rel(first, second))):
        expected = theirs.confidence_interval(0.95)
        found = scripts["few_labels"].mean_interval(list(values))
        assert found == pytest.approx((values.mean(), expected.low, expected.high), rel=1e-12)


def test_a_missing_run_is_reported_and_others_stay(scripts):
    rows = [a_row(0.7 + 0.01 * seed, seed) for seed in (1, 2, 3, 4, 5)]
    rows += [a_row(0.5 + 0.01 * seed, seed, model="random") for seed in (1, 2, 4)]
    line = line_of(scripts["learning_curves"].section(rows), "TREC", "100")
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[2] == "73.0 [71.0, 75.0]"
    assert cells[3:] == ["missing (2 of 5)", "missing (5 of 5)", "missing (2 of 5)", "missing (5 of 5)"]


def test_differences_are_paired_and_judged_by_their_interval(scripts):
    noise = [0.0, 0.1, 0.2, 0.05, 0.15]
    rows = [a_row(0.5 + noise[seed - 1], seed) for seed in (1, 2, 3, 4, 5)]
    rows += [a_row(0.49 + noise[seed - 1], seed, model="random") for seed in (5, 4, 3, 2, 1)]
    rows += [a_row(0.5 + noise[-seed], seed, model="tf-idf", start="") for seed in (1, 2, 3, 4, 5)]
    text = scripts["learning_curves"].section(rows)
    assert line_of(text, "TREC", "100").count("+1.0 [+1.0, +1.0]") == 1
    ahead, even = (line for line in text.splitlines() if line.startswith("- Against"))
    assert "ahead in 1 (TREC 100), behind in 0" in ahead and "no significant difference in 1." in even


def test_whole_sets_count_the_runs_on_all_labels_alone(scripts):
    """Those of the learning curves and its own; a run that is missing is said."""
    rows = [a_row(0.8 + 0.01 * seed, seed, budget="all") for seed in (1, 2, 3, 4, 5)] + [a_row(0.1, 1)]
    rows += [a_row(0.7 + 0.01 * seed, seed, budget="all", model="tf-idf", start="") for seed in (1, 2, 3, 4, 5)]
    rows += [a_row(0.9, seed, "Banking77", "all", labels=8000, n_test=3080) for seed in (1, 3)]
    text = scripts["classify_sets"].section(rows)
    assert line_of(text, "TREC", "6", "100", "500 (official)", "accuracy").endswith(
        "| 83.0 [81.0, 85.0] | 73.0 [71.0, 75.0] | +10.0 [+10.0, +10.0] |"
    )
    assert "1 of 5 sets complete. ahead: TREC." in text
    assert line_of(text, "Banking77", "77", "8,000", "3,080 (official)").endswith(
        "| missing (3 of 5) | missing (5 of 5) | missing (5 of 5) |"
    )
    assert line_of(text, "YouTube spam", "2", "?").count("missing (5 of 5)") == 3


def test_the_whole_sets_are_the_files_of_both_scripts(scripts, tmp_path):
    whole, shared = scripts["classify_sets"], scripts["few_labels"]
    assert list(whole.SETS) == [*shared.FILES, *whole.OWN]
    (tmp_path / "youtube_spam_train.csv").write_text("text,label,video\none,a,x\ntwo,b,x\nthree,a,x\n")
    (tmp_path / "youtube_spam_test.csv").write_text("text,label,video\nTwo,b,y\nfour,a,y\n")
    data = shared.read_set("YouTube spam", tmp_path, whole.OWN)
    assert [record.text for record in data.pool] == ["one", "three"] and len(data.test) == 2


def test_rows_of_an_older_mini_do_not_count(scripts):
    rows = [a_row(0.1, 1, start="old"), *(a_row(0.6, seed, start="new") for seed in (2, 3, 4, 5))]
    assert "missing (1 of 5)" in line_of(scripts["learning_curves"].section(rows), "TREC", "100")


def test_draws_hold_every_label_in_its_share_and_nest(scripts):
    shared = scripts["few_labels"]
    pool = [LabelledRow(i, str(i), "rare" if i % 50 == 0 else "abc"[i % 3]) for i in range(1000)]
    data = shared.LabelledSet("x", ["a", "b", "c", "rare"], pool, [])
    smaller, larger, other = (
        [record.row for part in shared.draw(data, budget, seed) for record in part]
        for budget, seed in ((50, 1), (200, 1), (50, 2))
    )
    assert set(smaller) < set(larger) and set(smaller) != set(other) and len(set(larger)) == 200
    labels = [pool[row].label for row in larger]
    assert {label: labels.count(label) for label in "abc"} == pytest.approx(dict.fromkeys("abc", 65.3), abs=1)
    train, val = shared.draw(data, 200, 1)
    assert labels.count("rare") == 4 and len(val) == 40 and len(train) == 160
    assert {record.label for record in train} == set(data.labels)


def test_the_pool_has_each_text_once_and_none_of_the_test(scripts, tmp_path):
    (tmp_path / "trec_train.csv").write_text("text,label\none,A\nOne,A\ntwo 1,B\nthree,B\n")
    (tmp_path / "trec_test.csv").write_text("text,label\nTWO 2,B\ntwo 2,A\n")
    data = scripts["few_labels"].read_set("TREC", tmp_path)
    assert [record.text for record in data.pool] == ["one", "three"] and len(data.test) == 2


def test_a_run_leaves_one_row_and_is_not_done_again(scripts, tmp_path, monkeypatch):
    """Each kind of run once on a toy set and a toy checkpoint; the same seed gives the same figures."""
    shared = scripts["few_labels"]
    tokenizer = Tokenizer.of_bytes()
    write_checkpoint(tmp_path / "toy", GPT(GPTConfig(tokenizer.vocab_size, 64, 32, 2, 2)).initialise(1), tokenizer)
    monkeypatch.setattr(shared, "LEAST_STEPS", 3)
    texts = [f"{word} {i % 7}" for i in range(30) for word in ("cash prize", "see you")]
    pool = [LabelledRow(i, text, text[0]) for i, text in enumerate(texts)]
    data, path = shared.LabelledSet("toy", ["c", "s"], pool, pool[:10]), tmp_path / "rows.jsonl"
    for model in ("mini", "random", "tf-idf", "mini"):
        assert model == "mini" or not shared.is_done(path, "toy", 40, 1, model)
        shared.measure(path, data, 40, 1, model, str(tmp_path / "toy"))
        assert shared.is_done(path, "toy", 40, 1, model)
    first, random, tfidf, again = shared.read_rows(path)
    assert {key for key in first if first[key] != again[key]} <= {"seconds", "cpu_seconds"}
    assert len({row["log_loss"] for row in (first, random, tfidf)}) == 3
    assert (first["labels"], first["n_test"], first["steps"] >= 3) == (40, 10, True) and 0 <= first["f1"] <= 1
    assert len({first["start"], random["start"], tfidf["start"]}) == 3
    assert not shared.is_done(path, "toy", 50, 1, "mini")


def test_a_row_is_one_write_at_the_end(scripts, tmp_path, monkeypatch):
    """So that processes side by side cannot cut each other's lines."""
    path, written = tmp_path / "rows.jsonl", []
    real = os.write
    monkeypatch.setattr(os, "write", lambda file, data: written.append(data) or real(file, data))
    path.write_text("{}\n")
    for number in (1, 2):
        scripts["few_labels"].append_row(path, {"text": "x" * 10_000, "number": number})
    assert [row.get("number") for row in scripts["few_labels"].read_rows(path)] == [None, 1, 2]
    assert len(written) == 2 and all(line.endswith(b"\n") for line in written)


def test_a_section_replaces_itself_and_nothing_else(scripts, tmp_path):
    write, page = scripts["few_labels"].write_section, tmp_path / "README.md"
    for name, text in (("one", "first"), ("two", "second"), ("one", "changed\n\nlonger")):
        write(page, name, text)
    assert page.read_text() == (
        "# Benchmarks\n\n<!-- begin one -->\nchanged\n\nlonger\n<!-- end one -->\n\n"
        "<!-- begin two -->\nsecond\n<!-- end two -->\n"
    )


def test_the_page_shows_the_rows_of_the_variants(root, scripts):
    variants = importlib.import_module("variants")
    page = (root / "benchmarks" / "README.md").read_text(encoding="utf-8")
    assert variants.table(read_json(root / "benchmarks" / "variants.json")) in page


def test_the_page_shows_the_figures_of_the_decoding(root, scripts):
    decoding = importlib.import_module("decoding")
    found = scripts["few_labels"].section_of(root / "benchmarks" / "README.md", "decoding")
    assert found == decoding.section(read_json(root / "benchmarks" / "decoding.json"))


def test_the_page_shows_the_records_of_the_other_scripts(root, scripts, monkeypatch, tmp_path):
    shared, page = scripts["few_labels"], root / "benchmarks" / "README.md"
    for name in ("growth", "architectures"):
        section = importlib.import_module(name).section(read_json(page.with_name(f"{name}.json")))
        assert section == shared.section_of(page, name)
    pairs, methods = importlib.import_module("seq2seq_sets"), importlib.import_module("full_shape_methods")
    assert pairs.section(shared.read_rows(pairs.ROWS)) == shared.section_of(page, "seq2seq_sets")
    text = page.read_text(encoding="utf-8")
    monkeypatch.setattr(methods, "README", tmp_path / "README.md")
    methods.README.write_text(text.replace("| lora | 1,181,184 |", "| lora | 1 |"), encoding="utf-8")
    methods.write_table(methods.recorded())
    assert methods.README.read_text(encoding="utf-8") == text


def test_the_page_of_reliability_shows_the_record_of_the_campaigns(root, monkeypatch):
    monkeypatch.syspath_prepend(root / "tests" / "faults" / "campaigns")
    record = importlib.import_module("record")
    assert record.page(read_json(record.RECORD)) == record.PAGE.read_text(encoding="utf-8")


def test_variety_and_repetition_are_shares_of_n_grams(scripts):
    decoding = importlib.import_module("decoding")
    rows = [[1, 2, 1, 2, 1, 2, 3], [1, 2, 4, 5, 6, 7, 8]]
    assert decoding.variety(rows, 1) == 8 / 14 and decoding.variety(rows, 2) == 8 / 12
    assert decoding.repetition(rows) == pytest.approx((1 / 4 + 0) / 2)


def test_the_interval_of_a_share_stays_within_0_and_100(scripts):
    cell = scripts["few_labels"].cell
    assert cell([0.1, 0.9, 0.95]) == "65.0 [0.0, 100.0]"
    low, high = cell([-0.9, 0.9, 0.1], sign="+").partition("[")[2].rstrip("]").split(", ")
    assert float(low) < -100 and float(high) > 100  # a difference is not cut


@pytest.mark.slow
def test_the_measurements_of_a_gpu_run_at_a_tiny_size_on_a_cpu(root, tmp_path):
    """Every work gives its figures beside transformers', and ours equals its plain path."""
    command = [sys.executable, root / "benchmarks" / "gpu.py", "--smoke", "--out", tmp_path / "gpu.json"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(root)})
    assert done.returncode == 0, done.stderr
    found = read_json(tmp_path / "gpu.json")
    works = {row["work"]: [own["way"] for own in found["rows"] if own["work"] == row["work"]] for row in found["rows"]}
    assert set(works) == {
        "an epoch of short texts, all weights",
        "LoRA",
        "generation, batch 1",
        "generation, batch 8",
        "language modelling",
    }
    assert all("transformers" in ways and len(ways) >= 2 for ways in works.values())
    same = {(row["work"], row["way"]): row["same"] for row in found["rows"]}
    assert same["generation, batch 8", "finetune"] == "100.0% of tokens equal"
    assert float(same["language modelling", "varlen"].split()[2]) < 1e-5


def test_the_table_at_the_top_is_made_of_the_recorded_rows(root, monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(root / "benchmarks")
    short, generation = importlib.import_module("short"), importlib.import_module("generation")
    page = (root / "benchmarks" / "README.md").read_text(encoding="utf-8")
    assert page.startswith(f"# Benchmarks\n\n{short.section(short.read_rows())}\n")
    assert generation.table(read_json(root / "benchmarks" / "generation.json")) in page
    monkeypatch.setattr(short, "ROWS", tmp_path / "rows.jsonl")
    monkeypatch.setattr(short, "PAGE", tmp_path / "README.md")
    short.PAGE.write_text(f"# Benchmarks\n\n{short.section([])}\nmore\n", encoding="utf-8")
    row = short.Row("work", "1 s", "2 s", 2.0, "here", "command")
    for ratio in (2.0, 3.0):  # the newer row of the same work and machine stands
        short.record([replace(row, ratio=ratio), replace(row, machine="there")])
    assert [own.ratio for own in short.read_rows(short.ROWS)] == [3.0, 2.0]
    assert short.PAGE.read_text(encoding="utf-8").endswith(short.section(short.read_rows(short.ROWS)) + "\nmore\n")


def test_the_table_of_scaling_is_what_its_script_computes(root, monkeypatch):
    monkeypatch.syspath_prepend(root / "benchmarks")
    scaling = importlib.import_module("scaling")
    assert scaling.table() in (root / "docs" / "scaling.md").read_text(encoding="utf-8")
    link = scaling.Link("", within=1e9, between=1e9)
    assert scaling.efficiency(1e9, 1000, 1, link) == 1  # alone, nothing is sent
    computed, waited = scaling.step_seconds(1e9, 1000, 2, link)  # 4 GB over 1 GB/s, two turns of 160 buckets
    assert computed == pytest.approx(6e12 / (0.4 * 989e12)) and waited == pytest.approx(
        4 + 2 * 10e-6 * 160 - computed * 2 / 3
    )


def test_the_tables_of_exports_are_made_of_the_recorded_rows(scripts, root):
    shared = scripts["few_labels"]
    parity, answers = importlib.import_module("export_parity"), importlib.import_module("gguf_answers")
    rows = shared.read_rows(parity.ROWS)
    assert shared.section_of(parity.PAGE, "export_parity") == parity.table(rows) and all(map(parity.held, rows))
    cases = {(row["shape"], row["labels"], row["method"]) for row in rows}
    assert cases == set(itertools.product(parity.SHAPES, parity.LABELS, parity.METHODS)) and len(cases) == len(rows)
    assert all(("peft" in row["programs"]) is (row["method"] == "lora") for row in rows)
    off = rows[0] | {"programs": {"peft": rows[0]["programs"]["transformers"] | {"logits": 2e-4}}}
    assert not parity.held(off) and f"{len(rows) - 1} cases below 0.0001" in parity.table([off, *rows[1:]])
    found = shared.read_rows(answers.ROWS)
    assert shared.section_of(answers.PAGE, "gguf_answers") == answers.table(found)
    assert {(row["style"], row["width"]) for row in found} <= set(itertools.product(answers.STYLES, answers.WIDTHS))
    for row in found:
        if row["width"] == "f32":  # where llama.cpp's own rounding decides one tie at most
            assert row["same"] + 1 >= row["prompts"] == 100 and all(gap < 0.005 for gap in row["gaps"])
