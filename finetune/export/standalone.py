"""Classify texts with the model.onnx beside this file. It needs numpy, tiktoken and onnxruntime, and nothing else.

    pip install numpy tiktoken onnxruntime
    python predict.py "a text" "another text"                     # a label and its probability for each
    python predict.py --csv in.csv --text COLUMN --out out.csv    # the table with the predictions added

    from predict import OnnxClassifier
    labels, probabilities = OnnxClassifier("DIRECTORY").predict(["a text"])

Labels, length, temperature and decision rule stand in model.onnx; the vocabulary in vocab.json and merges.txt.
"""

import argparse
import csv
import hashlib
import json
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tiktoken

SPLIT = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"""
TOKENS = 8192  # of one forward pass, padding included
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\0")  # a spreadsheet would execute a cell that starts with one


# Invisible characters; those that are white space become a blank.
INVISIBLE = re.compile("[\u00a0\u00ad\u200b\u200e\u200f\u2028\u2029\u202a-\u202e\u2060\ufeff]")


def fold_white_space(text: str) -> str:
    """The text without invisible characters and outer white space, each run of white space one blank."""
    return " ".join(INVISIBLE.sub(lambda found: " " if found[0].isspace() else "", text).split())


class OnnxClassifier:
    """A classifier with its tokenizer and decision rule."""

    def __init__(self, directory: str | Path):
        import onnxruntime

        directory = Path(directory)
        self.session = onnxruntime.InferenceSession(directory / "model.onnx", providers=["CPUExecutionProvider"])
        stored = self.session.get_modelmeta().custom_metadata_map
        card = {name: json.loads(value) for name, value in stored.items()}
        self.labels: list[str] = card["labels"]
        self.positive: str | None = card.get("positive")
        self.threshold: float | None = card.get("threshold")
        self.thresholds: list[float] | None = card.get("thresholds")  # of each label, if a text may have many
        self.costs: list[list[float]] | None = card.get("costs")  # of each true and predicted label
        self.abstain_below: float | None = card.get("abstain_below")  # the probability under which it does not decide
        self.temperature: float = card["temperature"]
        self.max_length: int = card["max_length"]
        self.long_texts: str = card.get("long_texts", "cut")  # or head-tail, windows
        self.folds: bool = card.get("white_space") == "fold"
        self.quantized: bool = card.get("quantized") is not None
        self.encoding, self.pad, fingerprint = read_vocabulary(directory)
        if fingerprint != card["tokenizer_sha256"]:
            raise ValueError(f"{directory}: the vocabulary is not the one that this model was trained with")

    def encode(self, texts: Sequence[str]) -> list[list[list[int]]]:
        """Token ids of each text, in the pieces that the model reads, as in training."""
        texts = list(map(fold_white_space, texts)) if self.folds else list(texts)
        rows = self.encoding.encode_ordinary_batch(texts)
        empty = [number for number, ids in enumerate(rows) if not ids]
        if empty:
            raise ValueError(f"text {empty[0]} is empty")
        return [self.pieces(ids) for ids in rows]

    def pieces(self, ids: list[int]) -> list[list[int]]:
        """A text's ids; of a long text its beginning, or head and tail, or windows that share a quarter."""
        most, quarter = self.max_length, self.max_length // 4
        if len(ids) <= most or self.long_texts == "cut":
            return [ids[:most]]
        if self.long_texts == "head-tail":
            return [ids[:quarter] + ids[quarter - most :]]
        return [ids[at : at + most] for at in range(0, len(ids) - quarter, most - quarter)]

    def logits(self, texts: Sequence[str]) -> np.ndarray:
        """Class logits (n, K), fp32: of a text in windows, the mean over them."""
        texts_pieces = self.encode(texts)
        logits = self.logits_of([piece for pieces in texts_pieces for piece in pieces])
        counts = np.array([len(pieces) for pieces in texts_pieces], dtype=int)
        if (counts == 1).all():
            return logits
        sums = np.add.reduceat(logits.astype(np.float64), np.cumsum(counts) - counts, axis=0)
        return (sums / counts[:, None]).astype(np.float32)

    def logits_of(self, rows: list[list[int]]) -> np.ndarray:
        """Class logits (n, K), fp32, of token ids."""
        found = np.zeros((len(rows), len(self.labels)), dtype=np.float32)
        for numbers in self._batches([len(ids) for ids in rows]):
            longest = max(len(rows[number]) for number in numbers)
            ids = np.full((len(numbers), longest), self.pad, dtype=np.int64)
            mask = np.zeros_like(ids)
            for at, number in enumerate(numbers):
                ids[at, : len(rows[number])], mask[at, : len(rows[number])] = rows[number], 1
            found[numbers] = self.session.run(["logits"], {"input_ids": ids, "attention_mask": mask})[0]
        return found

    def _batches(self, lengths: list[int]) -> list[list[int]]:
        """Rows of similar lengths together; one by one in int8, where a row would change with its batch."""
        batches: list[list[int]] = []
        for number in sorted(range(len(lengths)), key=lambda row: lengths[row]):
            if not self.quantized and batches and (len(batches[-1]) + 1) * lengths[number] <= TOKENS:
                batches[-1].append(number)
            else:
                batches.append([number])
        return batches

    def probabilities(self, texts: Sequence[str]) -> np.ndarray:
        """Calibrated probabilities (n, K), float64."""
        scaled = self.logits(texts).astype(np.float64) / self.temperature
        if self.thresholds is not None:
            return np.exp(-np.logaddexp(0, -scaled))
        odds = np.exp(scaled - scaled.max(axis=1, keepdims=True))
        return odds / odds.sum(axis=1, keepdims=True)

    def decide(self, probabilities: np.ndarray) -> np.ndarray:
        """Whether each of n texts gets each label (n, K), the thresholds applied."""
        if self.thresholds is not None:
            return probabilities >= np.array(self.thresholds)
        chosen = probabilities.argmax(axis=1)
        if self.costs is not None:
            chosen = (probabilities @ np.array(self.costs)).argmin(axis=1)
        if self.threshold is not None and self.positive is not None and len(self.labels) == 2:
            positive = self.labels.index(self.positive)
            chosen = np.where(probabilities[:, positive] >= self.threshold, positive, 1 - positive)
        return np.arange(len(self.labels)) == chosen[:, None]

    def predict(self, texts: Sequence[str]) -> tuple[list[str], np.ndarray]:
        """Labels and calibrated probabilities (n, K) of texts, the thresholds applied. Many labels are joined with ;"""
        if not len(texts):
            return [], np.zeros((0, len(self.labels)))
        probabilities = self.probabilities(texts)
        names = [";".join(self.labels[at] for at in np.flatnonzero(row)) for row in self.decide(probabilities)]
        return names, probabilities

    def confidence(self, probabilities: np.ndarray) -> np.ndarray:
        """The probability (n,) of the label; of many, of these labels and no others, taken as independent."""
        decided = self.decide(probabilities)
        if self.thresholds is not None:
            return np.where(decided, probabilities, 1 - probabilities).prod(axis=1)
        return probabilities[decided]

    def decision(self, label: str, probability: float) -> list[str]:
        """The label, or ``abstain`` if its probability is too low; nothing for a model that never abstains."""
        if self.abstain_below is None:
            return []
        return [label if probability >= self.abstain_below else "abstain"]

    def lines(self, texts: Sequence[str]) -> list[str]:
        """For the screen: each text's labels, the probability of each, and the decision where it may abstain."""
        names, probabilities = self.predict(texts)
        rows = zip(names, probabilities, self.decide(probabilities), self.confidence(probabilities), strict=True)
        return [
            "\t".join([" ".join(name.split()), ";".join(f"{p:.4f}" for p in row[own]), *self.decision(name, sure)])
            for name, row, own, sure in rows
        ]


def read_vocabulary(directory: Path) -> tuple[tiktoken.Encoding, int, str]:
    """GPT-2's byte-level BPE from vocab.json, the id of ``<|endoftext|>``, and a hash of the vocabulary."""
    vocab: dict[str, int] = json.loads((directory / "vocab.json").read_text(encoding="utf-8"))
    lines = (directory / "merges.txt").read_text(encoding="utf-8").split("\n")
    ranked = 256 + sum(1 for line in lines if line and not line.startswith("#version"))
    plain = [byte for byte in range(256) if chr(byte).isprintable() and chr(byte) != " "]
    rest = [byte for byte in range(256) if byte not in plain]
    byte_of = {chr(byte): byte for byte in plain} | {chr(256 + at): byte for at, byte in enumerate(rest)}
    ranks = {bytes(byte_of[letter] for letter in token): rank for token, rank in vocab.items() if rank < ranked}
    special = {token: rank for token, rank in vocab.items() if rank >= ranked}
    encoding = tiktoken.Encoding("vocabulary", pat_str=SPLIT, mergeable_ranks=ranks, special_tokens=special)
    ordered = json.dumps(sorted(vocab.items(), key=lambda item: item[1]))
    return encoding, special["<|endoftext|>"], hashlib.sha256(ordered.encode()).hexdigest()


def read_csv(source: Path) -> tuple[list[str], list[list[str]]]:
    """The header and the rows of a CSV, without blank lines."""
    csv.field_size_limit(1 << 30)
    with open(source, encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, strict=True)
        try:
            lines = [(reader.line_num, row) for row in reader if row]
        except csv.Error as error:
            raise ValueError(f"{source}, line {reader.line_num}: {error}") from error
    if not lines:
        raise ValueError(f"{source}: is empty")
    [(_, names), *rest] = lines
    for line, row in rest:
        if len(row) != len(names):
            raise ValueError(f"{source}, line {line}: {len(row)} cells, and the header has {len(names)}")
    return names, [row for _, row in rest]


def predict_csv(model: OnnxClassifier, source: Path, column: str, target: Path) -> int:
    """Copy a CSV with its predictions added; rows without text get empty cells. Returns the number of rows."""
    names, rows = read_csv(source)
    if column not in names:
        raise ValueError(f"{source}: no column {column!r}; its columns are {', '.join(names)}")
    texts = [row[names.index(column)] for row in rows]
    labels, probabilities = model.predict([text for text in texts if text.strip()])
    answers = iter(zip(labels, model.confidence(probabilities), probabilities, strict=True))
    draft = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    with open(draft, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        decision = ["decision"] if model.abstain_below is not None else []
        added = ["predicted", *decision, "probability", *(f"p_{label}" for label in model.labels)]
        writer.writerow([*map(harmless, names), *added])
        for row, text in zip(rows, texts, strict=True):
            cells = [""] * len(added)
            if text.strip():
                label, sure, p = next(answers)
                own = map(harmless, model.decision(label, sure))
                cells = [harmless(label), *own, *(f"{value:.6f}" for value in (sure, *p))]
            writer.writerow([*map(harmless, row), *cells])
    os.replace(draft, target)
    return len(rows)


def harmless(cell: str) -> str:
    """A cell that a spreadsheet does not execute: an apostrophe is put in front of a possible formula."""
    if not cell.lstrip("'").startswith(FORMULA):
        return cell
    try:
        float(cell)
    except ValueError:
        return "'" + cell
    return cell


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="Classify texts with the model.onnx beside this file.")
    parser.add_argument("texts", nargs="*", metavar="TEXT")
    parser.add_argument("--csv", type=Path, metavar="IN.csv", help="a table with a header")
    parser.add_argument("--text", default="text", metavar="COLUMN", help="its text column (default: text)")
    parser.add_argument("--out", type=Path, metavar="OUT.csv", help="output table, with the predictions")
    given = parser.parse_args()
    if bool(given.texts) == bool(given.csv) or bool(given.csv) != bool(given.out):
        parser.error("give texts, or --csv IN.csv with --out OUT.csv")
    try:
        model = OnnxClassifier(Path(__file__).parent)
        if given.csv:
            print(f"{given.out}: {predict_csv(model, given.csv, given.text, given.out):,} rows")
            return 0
        for line in model.lines(given.texts):
            print(line)
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
