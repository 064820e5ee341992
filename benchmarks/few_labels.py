"""Shared by the benchmarks with few labels: the sets, the draw of the labels, one run of a model, and its row.

The sets are files of one folder, named in FILES. A set has a fixed test split, and a pool from which labelled rows are
drawn: its training and validation rows, without duplicates and without texts of the test, after normalising.
"""

import json
import os
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from scipy.stats import t as student

from finetune.checkpoints.sources import locate_weights
from finetune.console import say
from finetune.errors import FinetuneError, Interrupted
from finetune.evaluation.baseline import tfidf_logistic
from finetune.evaluation.calibration import softmax
from finetune.evaluation.metrics import classification_metrics
from finetune.files import atomic_write, sha256_file, sha256_json
from finetune.models.gpt import GPT
from finetune.pipeline import load_pipeline
from finetune.recipe import Train
from finetune.tables.readers import read_labelled
from finetune.tables.splits import grouped_split, normalise_text
from finetune.tables.tables import TableFormat
from finetune.tasks.classify.data import LabelledRow
from finetune.tasks.classify.job import build_job, build_model, examples
from finetune.tasks.setup import fit
from finetune.training.precision import choose_precision, device_type
from finetune.training.predict import predict_logits
from finetune.training.trainable import choose_settings, freeze

FILES = {  # (files of the pool, files of the test); the SMS set is one file, split as the spam-classifier splits it
    "SMS spam": (["SMSSpamCollection"], []),
    "TREC": (["trec_train.csv"], ["trec_test.csv"]),
    "Tweet emotion": (["tweet_emotion_train.csv", "tweet_emotion_val.csv"], ["tweet_emotion_test.csv"]),
}
SMS_LAYOUT = TableFormat("\t", header=False, quoting=False, columns=("label", "text"))
SEEDS = [1, 2, 3, 4, 5]
MINI, RANDOM, TFIDF = "mini", "random", "tf-idf"
METRICS = ("accuracy", "f1_macro", "f1", "log_loss")
VAL_SHARE = 0.2  # share of the labels that choose the checkpoint, and the C of the logistic regression
LEAST_STEPS = 150  # minimum optimizer steps; epochs over few labels would end before the model learns
PREDICT_TOKENS = 1024  # tokens of a forward pass: fastest if it fits the CPU's cache
HEAD = "# Benchmarks\n"


@dataclass(frozen=True)
class LabelledSet:
    """A pool of rows to draw from, and the test rows."""

    name: str
    labels: list[str]
    pool: list[LabelledRow]
    test: list[LabelledRow]


def read_set(name: str, folder: Path, files: dict = FILES) -> LabelledSet:
    """Read a set's files. Raises DataError."""
    pool_files, test_files = files[name]
    layout = None if test_files else SMS_LAYOUT
    pool, test = (
        [record for file in files for record in _records(folder / file, layout)] for files in (pool_files, test_files)
    )
    if not test:
        split = load_pipeline("spam-classifier").recipe.split
        parts = grouped_split(
            [record.text for record in pool],
            [record.label for record in pool],
            split.val_fraction,
            split.test_fraction,
            split.seed,
        )
        pool, test = [pool[i] for i in parts["train"] + parts["val"]], [pool[i] for i in parts["test"]]
    seen, once = {normalise_text(record.text) for record in test}, []
    for record in pool:
        if (text := normalise_text(record.text)) not in seen:
            seen.add(text)
            once.append(record)
    return LabelledSet(name, sorted({record.label for record in [*pool, *test]}), once, test)


def _records(path: Path, layout: TableFormat | None) -> list[LabelledRow]:
    found = read_labelled(path, None, None, layout)
    return [LabelledRow(*values) for values in zip(found.rows, found.texts, found.labels, strict=True)]


def stratified_order(records: list[LabelledRow], seed) -> list[LabelledRow]:
    """The records in a random order of which every prefix has each label in proportion, to half a row."""
    random, labels = np.random.default_rng(seed), np.array([record.label for record in records])
    place = np.empty(len(records))
    for label in np.unique(labels):
        rows = random.permutation(np.flatnonzero(labels == label))
        place[rows] = (np.arange(len(rows)) + 0.5) / len(rows)
    return [records[i] for i in np.lexsort((random.permutation(len(records)), place))]


def draw(data: LabelledSet, budget: int | str, seed: int) -> tuple[list[LabelledRow], list[LabelledRow]]:
    """(train, val) with `budget` rows in all; with the same seed, a smaller draw is a subset of a larger one."""
    drawn = stratified_order(data.pool, seed)[: None if budget == "all" else budget]
    held_out = round(VAL_SHARE * len(drawn))
    drawn = stratified_order(drawn, [seed, 1])
    return drawn[held_out:], drawn[:held_out]


def start_id(model: str) -> str:
    """The identity of a run's start: mini's weights; for random weights, mini's shape and vocabulary."""
    folder = locate_weights(MINI).directory
    if model == RANDOM:
        return sha256_json([sha256_file(folder / name) for name in ("config.json", "vocab.json", "merges.txt")])[:12]
    return "" if model == TFIDF else sha256_file(folder / "model.safetensors")[:12]


def is_done(path: Path, name: str, budget: int | str, seed: int, model: str) -> bool:
    """Whether the file has this run's row, from the currently bundled start."""
    wanted = [name, budget, seed, model, start_id(model)]
    return any(wanted == [row[key] for key in ("set", "budget", "seed", "model", "start")] for row in read_rows(path))


def measure(
    path: Path, data: LabelledSet, budget: int | str, seed: int, model: str, checkpoint: str = MINI, **more
) -> None:
    """Do one run and append its row, with `more` added. checkpoint: provides a GPT's weights, or only its shape."""
    parts = *draw(data, budget, seed), data.test
    started, worked = time.monotonic(), time.process_time()
    probabilities, how = _by_tfidf(data, parts) if model == TFIDF else _by_gpt(data, parts, seed, model, checkpoint)
    seconds = {"seconds": round(time.monotonic() - started, 1), "cpu_seconds": round(time.process_time() - worked, 1)}
    targets = [data.labels.index(record.label) for record in data.test]
    metrics = classification_metrics(
        targets,
        probabilities.argmax(1),
        probabilities,
        data.labels,
        1 if len(data.labels) == 2 else None,
        resamples=100,
        seed=0,
    )
    values = {name: round(metrics[name].value, 6) for name in METRICS if name in metrics}
    append_row(
        path,
        {
            "set": data.name,
            "budget": budget,
            "seed": seed,
            "model": model,
            "start": start_id(model),
            **values,
            "labels": len(parts[0]) + len(parts[1]),
            "n_test": len(data.test),
            **seconds,
            **how,
            **more,
        },
    )
    say(
        f"{data.name}, {budget} labels, seed {seed}, {model}: accuracy {values['accuracy']:.4f} "
        f"({seconds['seconds']:.0f} s, {seconds['cpu_seconds']:.0f} s of them computing)"
    )


def _by_tfidf(data: LabelledSet, parts) -> tuple[np.ndarray, dict]:
    texts = [[record.text for record in part] for part in parts]
    targets = [[data.labels.index(record.label) for record in part] for part in parts]
    probabilities, note, _ = tfidf_logistic(texts[0], targets[0], texts[1], targets[1], texts[2], len(data.labels))
    return probabilities, {"note": note}


def _by_gpt(data: LabelledSet, parts, seed: int, model: str, checkpoint: str) -> tuple[np.ndarray, dict]:
    """Probabilities (n, K) of the test rows, from the best checkpoint on the validation rows."""
    loaded, device = locate_weights(checkpoint).load(), torch.device(device_type())
    gpt = GPT(loaded.model.config).initialise(seed) if model == RANDOM else loaded.model
    settings, _ = choose_settings(
        Train(seed=seed), loaded.report.parameters, model != RANDOM, len(parts[0]), device.type
    )
    settings = settings.model_copy(update={"precision": choose_precision(settings.precision, gpt.config.width)[0]})
    classifier = build_model(gpt, len(data.labels), seed)
    trainable = freeze(classifier, gpt, settings.method, settings.last_blocks)
    labelled, val, test = (examples(part, data.labels, loaded.tokenizer, gpt.config.context) for part in parts)
    times = max(1, -(-LEAST_STEPS * settings.batch_size // (settings.epochs * len(labelled.ids))))
    labelled = replace(
        labelled,
        rows=labelled.rows * times,
        ids=labelled.ids.take([*range(len(labelled.ids))] * times),
        targets=np.tile(labelled.targets, times),
    )
    job = build_job(classifier, trainable, settings, labelled, val, device)
    with tempfile.TemporaryDirectory() as folder, open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
        found = fit(job, settings, Path(folder), {}, checkpoint_seconds=float("inf"))
    logits = predict_logits(classifier.eval(), test.ids, budget=PREDICT_TOKENS)
    kept = {key: getattr(found, key) for key in ("steps", "epochs", "best_step", "threads", "device")}
    return softmax(logits, 1.0), kept | {"times": times, "precision": settings.precision}


def read_rows(path: Path) -> list[dict]:
    """The rows of a file, if it exists."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def append_row(path: Path, row: dict) -> None:
    """Append a row in one write, so that several processes can append to the same file."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.write(file, (json.dumps(row) + "\n").encode())
    finally:
        os.close(file)


def current(rows: list[dict], model: str) -> dict[tuple, dict]:
    """(set, budget, seed) -> row of a model, only rows with the same start as the last one."""
    own = [row for row in rows if row["model"] == model]
    return {(row["set"], row["budget"], row["seed"]): row for row in own if row["start"] == own[-1]["start"]}


def mean_interval(values: list[float]) -> tuple[float, float, float]:
    """The mean and its 95 % interval by Student's t over the values (two at least)."""
    mean, n = float(np.mean(values)), len(values)
    half = float(student.ppf(0.975, n - 1) * np.std(values, ddof=1)) / n**0.5
    return mean, mean - half, mean + half


def cell(values: list[float | None], sign: str = "") -> str:
    """A mean in percent with its interval, or how many of the runs are missing."""
    missing = values.count(None)
    if missing:
        return f"missing ({missing} of {len(values)})"
    mean, low, high = (100 * value for value in mean_interval(values))
    if not sign:  # a share, not a difference: Student's t may exceed the range of a share
        low, high = max(low, 0.0), min(high, 100.0)
    return f"{mean:{sign}.1f} [{low:{sign}.1f}, {high:{sign}.1f}]"


def differences(first: list[float | None], second: list[float | None]) -> list[float | None]:
    """The differences by seed; None if one of the two is missing."""
    return [None if None in pair else pair[0] - pair[1] for pair in zip(first, second, strict=True)]


def write_section(page: Path, name: str, text: str) -> None:
    """Put `text` between the page's markers of this name, which are added at the end if missing."""
    begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
    whole = page.read_text(encoding="utf-8") if page.exists() else HEAD
    section = f"{begin}\n{text.strip()}\n{end}"
    before, found, rest = whole.partition(begin)
    after = rest.partition(end)[2] if found else "\n"
    with atomic_write(page) as file:
        file.write((before if found else whole.rstrip() + "\n\n") + section + after)


def section_of(page: Path, name: str) -> str:
    """The text between the markers."""
    text = page.read_text(encoding="utf-8")
    return text.partition(f"<!-- begin {name} -->")[2].partition(f"<!-- end {name} -->")[0].strip()


def report_errors(main: Callable[[], None]) -> int:
    """Run a script. Returns the exit status, as on the command line."""
    try:
        main()
    except FinetuneError as error:
        say(f"error: {error}", error=True)
        return 2
    except (Interrupted, KeyboardInterrupt):
        say("stopped; the same command goes on after the last row", error=True)
        return 130
    return 0
