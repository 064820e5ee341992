"""Texts longer than the input: cut, head and tail, or windows, on mini, and the cost of each.

    python benchmarks/long_texts.py --text FOLDER [--seeds 1 2 3] [--sets NAME ...]
    python benchmarks/long_texts.py          writes the section again, from the existing rows

FOLDER holds NAME.txt or NAME.txt.xz for each of the sources below, documents separated by a line of <|endoftext|>. The
label of a document is its source. Mails lack their subject, which would contain the tag of the list. A seed determines
the documents' split, the head and the order of the rows, and is the same for the three ways.

Every run adds a row to long_texts.jsonl and is not repeated, except if its row comes from another version of mini.
"""

import argparse
import csv
import json
import lzma
import sys
import tempfile
from pathlib import Path

import few_labels
import numpy as np

import finetune
from finetune.console import say, silence
from finetune.evaluation.intervals import paired_bootstrap, wilson
from finetune.records import TrainResult
from finetune.run import Run
from finetune.training.pieces import CUT, WAYS

ROWS = Path(__file__).with_suffix(".jsonl")
PAGE = Path(__file__).with_name("README.md")
SOURCES = ("mailing_list_ham", "open_project_blogs", "developer_guides", "stackexchange_small_sites")
OPENING = "wikipedia_english"
EACH = 150  # documents per source
WORDS = (100, 220)  # minimum and maximum words of a document
MAX_LENGTH = 64
SPLIT = {"val_fraction": 0.1, "test_fraction": 0.3}
TRAIN = {"method": "last-blocks", "epochs": 3, "threads": 1, "metric": "f1_macro"}
SETS = {
    "whole": "the documents as they are",
    "late": "each document's first 80 words behind 60 words of a Wikipedia article drawn at random, which tell nothing",
}
RESAMPLES = 10_000


def documents(folder: Path, name: str, count: int, fewest: int = WORDS[0], most: int = WORDS[1]) -> list[str]:
    """The first documents of a source with a number of words in this range."""
    path = folder / f"{name}.txt"
    raw = path.read_text(encoding="utf-8") if path.exists() else _unpacked(folder / f"{name}.txt.xz")
    found = []
    for part in raw.split("<|endoftext|>\n"):
        first, _, rest = part.strip().partition("\n")
        text = rest.strip() if first.startswith("Subject:") else part.strip()
        if fewest <= len(text.split()) <= most:
            found.append(text)
        if len(found) == count:
            return found
    raise SystemExit(f"{path}: only {len(found)} documents of {fewest} to {most} words")


def _unpacked(path: Path) -> str:
    with lzma.open(path, "rt", encoding="utf-8") as file:
        return file.read()


def write_set(name: str, folder: Path, target: Path) -> None:
    """Write a set as a table of texts and labels."""
    rows = [(text, source) for source in SOURCES for text in documents(folder, source, EACH)]
    if name == "late":
        openings = documents(folder, OPENING, len(rows), 60, 10**6)
        rows = [
            (" ".join([*opening.split()[:60], *text.split()[:80]]), label)
            for opening, (text, label) in zip(openings, rows, strict=True)
        ]
    with open(target, "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *rows])


def measure(data: Path, name: str, way: str, seed: int) -> dict:
    """One run: the tested documents, those classified correctly, and the costs of the training."""
    settings = {
        "classify": {"long_texts": way},
        "max_length": MAX_LENGTH,
        "split": SPLIT | {"seed": seed},
        "train": TRAIN | {"seed": seed},
        "evaluate": {"resamples": 100},
    }
    with tempfile.TemporaryDirectory() as folder, silence():
        run = finetune.classify(data, "text", "label", weights="mini", settings=settings, name="run", folder=folder)
        with open(run.directory / "predictions.csv", encoding="utf-8", newline="") as file:
            tested = [(int(row["row"]), row["label"] == row["predicted"]) for row in csv.DictReader(file)]
        log = (run.directory / "train.jsonl").read_text(encoding="utf-8").splitlines()
        trained = Run.at(run.directory).result("train", TrainResult)
    return {
        "set": name,
        "way": way,
        "seed": seed,
        "start": few_labels.start_id(few_labels.MINI),
        "accuracy": float(np.mean([right for _, right in tested])),
        "tested": [row for row, _ in tested],
        "right": [row for row, right in tested if right],
        "tokens": sum(json.loads(line).get("tokens", 0) for line in log),
        "seconds": trained.seconds,
    }


def current(rows: list[dict]) -> dict[tuple[str, str, int], dict]:
    """The last row of each run that started from the bundled mini."""
    start = few_labels.start_id(few_labels.MINI)
    return {(row["set"], row["way"], row["seed"]): row for row in rows if row["start"] == start}


def tested_and_right(rows: list[dict]) -> np.ndarray:
    """How often each document was tested, and classified correctly (2, documents)."""
    counts = np.zeros((2, EACH * len(SOURCES)))
    for row in rows:
        for at, key in enumerate(("tested", "right")):
            np.add.at(counts[at], row[key], 1)
    return counts


def line(found: dict, name: str, way: str) -> str:
    """A row of the table: accuracy, its difference from cutting, paired by document, and costs relative to cutting."""
    seeds = [seed for one, own, seed in found if (one, own) == (name, way) and (name, CUT, seed) in found]
    if not seeds:
        return f"| {name} | {way} | 0 | missing | | | |"
    own, cut = ([found[name, kind, seed] for seed in seeds] for kind in (way, CUT))
    (tested, right), (_, begun) = tested_and_right(own), tested_and_right(cut)
    there = tested > 0
    tokens, seconds = (sum(row[key] for row in own) / sum(row[key] for row in cut) for key in ("tokens", "seconds"))
    gained = ""
    if way != CUT:
        change = paired_bootstrap(right[there], begun[there], RESAMPLES, 0, tested[there])
        value, low, high = (100 * number for number in change.known())
        gained = f"{value:+.1f} [{low:+.1f}, {high:+.1f}]"
    low, high = (100 * end for end in wilson(int(right.sum()), int(tested.sum())))
    return (
        f"| {name} | {way} | {len(seeds)} | {100 * right.sum() / tested.sum():.1f} [{low:.1f}, {high:.1f}] | {gained} | "
        f"{tokens:.2f} | {seconds:.2f} |"
    )


def section(rows: list[dict]) -> str:
    """The page's section, from the rows only."""
    found = current(rows)
    tested = sum(len(row["tested"]) for (_, way, _), row in found.items() if way == CUT)
    return "\n".join(
        [
            "## Texts longer than the input",
            "",
            f"What the setting `classify.long_texts` is worth where mini reads {MAX_LENGTH} tokens at a time. A text is a "
            f"document of {WORDS[0]} to {WORDS[1]} words, its label the source: {', '.join(SOURCES)}, {EACH} documents "
            f"each; mails are without their subject. {TRAIN['epochs']} epochs of method {TRAIN['method']}; 30 % of the "
            "documents are for the test. Two sets: "
            + "; ".join(f"`{name}`, {what}" for name, what in SETS.items())
            + ".",
            "",
            "    python benchmarks/long_texts.py --text FOLDER_OF_TEXTS",
            "",
            "| set | way | seeds | accuracy, % | minus cut, points | tokens trained on, x cut | time of training, x cut |",
            "|---|---|---:|---:|---:|---:|---:|",
            *(line(found, name, way) for name in SETS for way in WAYS),
            "",
            f"95 % intervals in brackets. The seeds' test rows ({tested:,} for each way, both sets together) are pooled; the "
            "differences are paired, and the bootstrap draws documents, which several seeds may have tested. The interval "
            "of an accuracy (Wilson) takes rows for independent. An epoch of windows has more steps, so windows are also "
            "trained longer. Times are of a busy machine.",
        ]
    )


def main() -> None:
    """Do the missing runs, then write the section."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--text", type=Path, help="folder of the sources; none: no runs, the section alone")
    parser.add_argument("--sets", nargs="+", choices=list(SETS), default=list(SETS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for seed in arguments.seeds if arguments.text else ():
            for name in arguments.sets:
                data = Path(folder) / f"{name}.csv"
                if not data.exists():
                    write_set(name, arguments.text, data)
                for way in WAYS:
                    if (name, way, seed) in current(few_labels.read_rows(ROWS)):
                        continue
                    row = measure(data, name, way, seed)
                    few_labels.append_row(ROWS, row)
                    say(f"{name} {way} seed {seed}: accuracy {row['accuracy']:.3f}, {row['seconds']:.0f} s")
    few_labels.write_section(PAGE, ROWS.stem, section(few_labels.read_rows(ROWS)))


if __name__ == "__main__":
    sys.exit(few_labels.report_errors(main))
