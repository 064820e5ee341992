"""Compare exported classifiers with the trained model: logits and labels in transformers, peft and onnxruntime.

Every case is the real command on made-up rows with 2, 6 or 77 labels: a few steps of training by one method, then every
export format that supports it. The weights are mini's, or random ones at the full shape of GPT-2 124M as transformers
writes them. Each export is then loaded as its README says and applied to the test texts; our logits are those of the
checkpoint in fp32, so that our side does not depend on any export.

    python benchmarks/export_parity.py --shapes mini        # minutes
    python benchmarks/export_parity.py                      # the full shape too: half an hour on one thread

Each case adds a row to export_parity.jsonl and is not run again; the table goes to README.md.
Exits with 1 if a logit differs by 1e-4 or more, or a label differs. Needs the extra `dev`, and 5 GB of disk.
"""

import argparse
import csv
import importlib.util
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
import transformers
from few_labels import append_row, read_rows, write_section
from full_shape_methods import write_weights

from finetune.console import say
from finetune.files import read_json
from finetune.run import Run
from finetune.tasks.setup import best_model
from finetune.training.predict import predict_logits
from finetune.training.token_rows import encode

SHAPES = ("mini", "124M")
LABELS = (2, 6, 77)
METHODS = ("full", "last-blocks", "lora")
PROGRAMS = ("transformers", "peft", "onnxruntime")
LIMIT = 1e-4
MAX_LENGTH, STEPS = 24, 4
SETTINGS = [
    f"max_length={MAX_LENGTH}",
    f"train.max_steps={STEPS}",
    "train.lr=0.002",
    "train.threads=1",
    "train.precision=fp32",
    "evaluate.resamples=100",
    "classify.audit=off",
]
ROWS = Path(__file__).with_suffix(".jsonl")
PAGE = Path(__file__).with_name("README.md")
WORDS = "the a we you they in on at for late soon good paper train river morning small open"


@dataclass(frozen=True)
class Difference:
    """The difference of another program's results on the test texts from ours."""

    logits: float  # the largest absolute difference of a logit
    same_labels: int
    texts: int
    largest_logit: float  # our largest absolute logit


def write_table(path: Path, labels: int) -> None:
    """Made-up texts of 2 to 60 words, each with a word that reveals its label."""
    draw = random.Random(labels)
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        for number in range(max(120, 8 * labels)):
            label = number % labels
            words = [f"subject{label}", *draw.choices(WORDS.split(), k=draw.randint(1, 59)), f"#{number}"]
            writer.writerow([" ".join(words), f"label {label}"])


def make(folder: Path, shape: str, labels: int, method: str) -> Path:
    """Train and export with the command. Returns the run."""
    weights: Path | str = "mini"
    if shape != "mini":
        weights = folder / shape
        if not weights.exists():
            write_weights(weights)
    write_table(folder / "rows.csv", labels)
    settings = [word for pair in SETTINGS for word in ("--set", pair)]
    run = folder / "runs" / "case"
    command(folder, "classify", "rows.csv", "--weights", weights, "--method", method, "--name", "case", *settings)
    command(folder, "export", run, "--format", "onnx")
    if method == "lora":
        command(folder, "export", run, "--format", "peft")
    return run


def command(folder: Path, *words: str | Path) -> None:
    """Run the real command in its own process."""
    done = subprocess.run(
        [sys.executable, "-m", "finetune", *map(str, words)], cwd=folder, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, words))}\n{done.stdout}{done.stderr}")


def compare(run: Path) -> dict[str, Difference]:
    """Our logits on the test texts compared with those of every program with an export."""
    found = Run.at(run)
    model, tokenizer = best_model(found.recipe(), found)
    card = read_json(run / "export" / "hf" / "bundle.json")
    texts = [row["text"] for row in read_rows(run / "data" / "test.jsonl")]
    ours = predict_logits(model.eval(), encode(tokenizer, texts, card["max_length"]))
    folders = {"transformers": "hf", "peft": "peft", "onnxruntime": "onnx"}
    differences = {}
    for program, format in folders.items():
        directory = run / "export" / format
        if not directory.exists():
            continue
        logits, labels = READERS[program](directory, texts)
        wanted = [card["labels"][at] for at in ours.argmax(axis=1)]
        same = sum(own == other for own, other in zip(wanted, labels, strict=True))
        apart = float(np.abs(ours - logits).max())
        differences[program] = Difference(apart, same, len(texts), float(np.abs(ours).max()))
    return differences


def in_transformers(directory: Path, texts: list[str]) -> tuple[np.ndarray, list[str]]:
    """Logits of a padded batch, truncated by the tokenizer's settings."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(directory).eval()
    return _answers(model, tokenizer, texts, model.config.id2label)


def in_peft(directory: Path, texts: list[str]) -> tuple[np.ndarray, list[str]]:
    """Logits of the adapter on the base that its config names."""
    from peft import PeftModel

    config = read_json(directory / "adapter_config.json")
    names = read_json(directory / "bundle.json")["labels"]
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    base = transformers.GPT2ForSequenceClassification.from_pretrained(
        config["base_model_name_or_path"],
        dtype=torch.float32,
        num_labels=len(names),
        pad_token_id=tokenizer.pad_token_id,
    )
    return _answers(PeftModel.from_pretrained(base, directory).eval(), tokenizer, texts, dict(enumerate(names)))


def in_onnxruntime(directory: Path, texts: list[str]) -> tuple[np.ndarray, list[str]]:
    """Logits from the predict.py beside the graph."""
    spec = importlib.util.spec_from_file_location("predict", directory / "predict.py")
    assert spec is not None and spec.loader is not None, "the export of a classifier has one"
    predict = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(predict)
    classifier = predict.OnnxClassifier(directory)
    logits = classifier.logits(texts)
    return logits, [classifier.labels[at] for at in logits.argmax(axis=1)]


def _answers(model, tokenizer, texts: list[str], names: dict[int, str]) -> tuple[np.ndarray, list[str]]:
    batch = tokenizer(texts, truncation=True, padding=True, return_tensors="pt")
    with torch.inference_mode():
        logits = model(**batch).logits.numpy()
    return logits, [names[at] for at in logits.argmax(axis=1).tolist()]


READERS: dict[str, Callable[[Path, list[str]], tuple[np.ndarray, list[str]]]] = {
    "transformers": in_transformers,
    "peft": in_peft,
    "onnxruntime": in_onnxruntime,
}


def held(row: dict) -> bool:
    """Whether every program gives the same logits and labels."""
    return all(own["logits"] < LIMIT and own["same_labels"] == own["texts"] for own in row["programs"].values())


def table(rows: list[dict]) -> str:
    """The section of README.md."""
    done = sorted(rows, key=lambda row: (SHAPES.index(row["shape"]), row["labels"], METHODS.index(row["method"])))
    checks = [own for row in rows for own in row["programs"].values()]
    worst = max(own["logits"] for own in checks)
    lines = [
        "## Exports beside the trained model",
        "",
        f"`python benchmarks/export_parity.py`: a classifier of made-up rows, {STEPS} steps of training by each method, then "
        "its exports loaded by other programs as their READMEs say. The largest difference of a logit on all test texts, in "
        "fp32, and how many texts get the same label. 124M: random weights at GPT-2's full shape and vocabulary, written by "
        "transformers. Texts are padded and some are truncated.",
        "",
        f"{len(rows)} cases, {len(checks)} comparisons: "
        f"{sum(map(held, rows))} cases below {LIMIT:g} with every label equal, the largest difference {worst:.1e}.",
        "",
        "| shape | labels | method | largest logit | transformers | peft | onnxruntime | labels equal |",
        "|---|---:|---|---:|---:|---:|---:|---|",
    ]
    for row in done:
        programs = row["programs"]
        cells = [f"{programs[name]['logits']:.1e}" if name in programs else "-" for name in PROGRAMS]
        same = {f"{own['same_labels']} of {own['texts']}" for own in programs.values()}
        largest = max(own["largest_logit"] for own in programs.values())
        values = [row["shape"], str(row["labels"]), row["method"], f"{largest:.2f}", *cells, " / ".join(sorted(same))]
        lines.append("| " + " | ".join(values) + " |")
    versions = rows[-1]["versions"]
    lines += ["", ", ".join(f"{name} {version}" for name, version in versions.items()) + "."]
    return "\n".join(lines)


def versions() -> dict[str, str]:
    """Versions of the programs."""
    from importlib.metadata import version

    return {name: version(name) for name in ("torch", *PROGRAMS)}


def main() -> int:
    """Run the cases that are not recorded yet and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=SHAPES)
    parser.add_argument("--labels", nargs="+", type=int, choices=LABELS, default=LABELS)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--directory", type=Path, help="where the weights and runs go; kept if given")
    arguments = parser.parse_args()
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(1)
    rows = read_rows(ROWS)
    done = {(row["shape"], row["labels"], row["method"]) for row in rows}
    folder = Path(arguments.directory or tempfile.mkdtemp()).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        for case in [(s, n, m) for s in arguments.shapes for n in arguments.labels for m in arguments.methods]:
            if case in done:
                continue
            shutil.rmtree(folder / "runs", ignore_errors=True)
            programs = {name: asdict(own) for name, own in compare(make(folder, *case)).items()}
            row = dict(zip(("shape", "labels", "method"), case, strict=True))
            row |= {"programs": programs, "versions": versions()}
            append_row(ROWS, row)
            rows.append(row)
            say(f"{case}: {'held' if held(row) else 'NOT HELD'} {programs}")
    finally:
        shutil.rmtree(folder / "runs", ignore_errors=True)
        if not arguments.directory:
            shutil.rmtree(folder)
    write_section(PAGE, "export_parity", table(rows))
    return 0 if all(map(held, rows)) else 1


if __name__ == "__main__":
    sys.exit(main())
