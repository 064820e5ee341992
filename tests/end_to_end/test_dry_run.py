"""``--dry-run``: the plan and the estimates of a run, and nothing left of it."""

import json
import re
import tempfile
from pathlib import Path

import pytest
import torch._dynamo  # noqa: F401 (its first import makes a folder among the temporary files)

from finetune.hub import fetch

PLAN = ["--dry-run", "--set", "train.threads=1"]


@pytest.fixture
def dry(finetune, tmp_path, monkeypatch):
    """``dry(*arguments)``: the lines of a dry run that must leave nothing, here or where temporary files go."""
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))

    def run(*arguments: str) -> list[str]:
        before = sorted(tmp_path.rglob("*"))
        found = finetune(*arguments, *PLAN)
        assert found.status == 0, found.err
        assert sorted(tmp_path.rglob("*")) == before
        return found.out.splitlines()

    return run


def figures(lines: list[str], name: str) -> list[str]:
    """The estimate of this name: about, low and high."""
    line = next(line for line in lines if line.strip().startswith(name))
    return re.fullmatch(rf"\s+{name}\s\s+(.*?)\s\s+(.*) to (.*)", line).groups()


@pytest.mark.parametrize("method", ["full", "last-blocks", "head"])
def test_a_classifiers_plan_and_estimates(method, dry, tools):
    rows = "".join(f"{text.strip(chr(34))},{label}\n" for text, label in tools.toy_rows())
    Path("my.csv").write_text("text,label\n" + rows)
    lines = dry("classify", "my.csv", "--weights", "random-bytes", "--method", method, "--set", "train.epochs=3")
    assert any(line.startswith("stages: download") for line in lines)
    assert f"  chosen: method={method}  lr=0.001  epochs=3  precision=fp32" in lines
    (trained,) = [line for line in lines if "parameters are trained" in line]
    assert trained.startswith(f"  {method}: ") and trained.endswith(" head")
    steps = next(line for line in lines if line.startswith("steps: "))
    assert re.match(r"steps: 18 of 16 rows; 8\d rows of [\d,]+ tokens in an epoch; 3 validations", steps)
    for name in ("training", "peak memory of training", "forward passes of evaluation"):
        assert all(re.fullmatch(r"[\d.]+ (s|min \d+ s|MB|GB)", figure) for figure in figures(lines, name))
    assert any(line.startswith("measured: 3 optimizer steps") for line in lines)


def test_a_language_models_plan_and_estimates(dry):
    Path("text.txt").write_text(
        "<|endoftext|>\n".join(f"the ferry {name} left at {hour}\n" for name in "abcdefgh" for hour in range(8))
    )
    lines = dry(
        "run",
        "pretrain",
        "--set",
        "data=text.txt",
        "--set",
        "weights=scratch",
        "--set",
        "shape.layers=2",
        "--set",
        "shape.width=32",
        "--set",
        "shape.context=32",
        "--set",
        "pretrain.val_fraction=0.2",
    )
    assert any(line.startswith("  full: ") for line in lines) and figures(lines, "training")
    assert any(line.startswith("measured: 3 optimizer steps") for line in lines)


def test_a_run_of_that_name_is_not_touched(toy, toy_copy, finetune, tools):
    before = tools.hashes(toy_copy)
    assert finetune(*toy.command, *PLAN).status == 0
    assert tools.hashes(toy_copy) == before


def test_weights_that_are_not_here_are_named_with_their_size_and_not_fetched(dry, sms, monkeypatch):
    """The network answers, and nothing is asked of it; the shape alone gives what moves."""

    def refuse(*arguments):
        raise AssertionError("something was downloaded")

    for name in ("_download", "_fetch_member"):
        monkeypatch.setattr(fetch, name, refuse)
    lines = dry("run", "spam-classifier", "--set", "weights=gpt2", "--set", "train.epochs=1")
    assert any(re.match(r"weights: gpt2 are not on this machine; the run downloads 5\d\d.MB", line) for line in lines)
    assert any("last-blocks: 14,178,816 of 124,441,344 parameters are trained (11.4%)" in line for line in lines)
    assert any(line.startswith("rows: 120; train ") for line in lines)
    assert any(re.fullmatch(r"steps: \d of 16 rows", line) for line in lines)
    assert not any("measured" in line for line in lines)
    monkeypatch.delenv("FINETUNE_MIRROR")
    monkeypatch.delenv("FINETUNE_REGISTRY")
    monkeypatch.setattr("finetune.tables.sources.network_available", lambda: True)
    lines = dry("run", "spam-classifier", "--set", "weights=gpt2")
    assert any("data: sms-spam is not on this machine; the run downloads" in line for line in lines)


def test_weights_without_a_meaning_are_an_error_as_in_the_run(finetune):
    wrong = finetune("run", "spam-classifier", "--set", "weights=no-such-weights", *PLAN)
    assert wrong.status == 2 and "unknown weights" in wrong.err and not list(Path().iterdir())


def test_the_report_shows_estimate_and_actual(toy):
    record = json.loads((toy.run / "stages" / "04-train.json").read_text())
    found = record["result"]["estimate"]
    assert 0 < found["seconds_low"] < found["seconds"] < found["seconds_high"]
    assert found["peak_bytes_low"] <= found["peak_bytes"] and record["result"]["peak_bytes"] > 1e7
    lines = (toy.run / "report" / "report.md").read_text(encoding="utf-8").splitlines()
    table = lines[lines.index("Estimated and actual cost") :][:8]
    assert [line.split("|")[1].strip() for line in table if line.startswith("|")][2:] == ["Time", "Peak memory"]


def test_an_interrupted_dry_run_promises_nothing(sms, finetune, monkeypatch):
    from finetune.commands import dry_run

    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(dry_run, "_probe", interrupted)
    stopped = finetune("run", "spam-classifier", "--set", "weights=random-bytes", *PLAN)
    assert stopped.status == 130 and "a dry run saves nothing" in stopped.err and "saved files" not in stopped.err
