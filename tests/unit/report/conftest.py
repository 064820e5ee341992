"""Run directories as the stages leave them: synthetic, seeded, small."""

import csv
import json
import math
from dataclasses import replace

import numpy as np
import pytest

from finetune.evaluation.results import Start, StartWeights
from finetune.recipe import Recipe
from finetune.tables.cells import escape_formula
from finetune.tasks.classify.score import score_classifier

_FILLER = [
    "call",
    "me",
    "when",
    "you",
    "get",
    "there",
    "see",
    "later",
    "today",
    "home",
    "work",
    "meeting",
    "please",
    "thanks",
    "about",
    "the",
    "and",
    "for",
    "with",
    "time",
    "back",
    "going",
    "new",
    "good",
    "night",
]
_NOTE = (
    "This run started from random weights, not from GPT-2. To use GPT-2, run "
    "`finetune weights get gpt2` with a network connection, then run again with another --name."
)
_SHA = "7d039a24a6083ed9ef0f806ebad56bbb976e3aeb8de05669173bfdc4996c239d"
_TRAINED = {
    "method": "full",
    "why": [],
    "lr": 1e-3,
    "precision": "fp32",
    "parameters": 400_000,
    "trainable": {"names": [], "places": [], "parameters": 400_000, "share": 1.0},
    "epochs": 1.0,
    "rows": 3520,
    "tokens": 88_000,
    "tokens_per_second": 218.5,
    "stopped_early": False,
    "processes": 1,
    "threads": 2,
    "device": "cpu",
    "peak_bytes": 1_250_000_000,
}  # of a train stage's result


def normalise(text: str) -> str:
    """Stands in for the splits' own function."""
    return " ".join(text.casefold().split())


def _texts(generator, y, k: int) -> list[str]:
    """Sentences whose words hint at their class, some of them misleading."""
    texts = []
    for label in y:
        hinted = label if generator.random() < 0.975 else generator.integers(k)
        hints = [f"topic{hinted}word{generator.integers(40)}" for _ in range(generator.integers(1, 3))]
        words = [*generator.choice(_FILLER, size=generator.integers(4, 16)), *hints]
        texts.append(" ".join(generator.permutation(words)))
    return texts


def _logits(generator, y, k: int, strength: float):
    logits = generator.normal(size=(len(y), k)) * 1.9
    logits[np.arange(len(y)), y] += strength
    return logits


def write_run(
    run_dir,
    labels=("ham", "spam"),
    rows=(700, 120, 300),
    *,
    strength=6.0,
    seed=0,
    fallback=False,
    headline="accuracy",
    aim="half",
    texts=None,
    pipeline="spam-classifier",
    train_log=True,
    perfect=False,
    resamples=200,
):
    """Write a whole run directory and return it. `texts`: texts that replace the first ones of the test."""
    generator = np.random.default_rng(seed)
    labels, k = list(labels), len(labels)
    weight = np.array([0.8] + [0.2 / (k - 1)] * (k - 1)) if k == 2 else np.full(k, 1 / k)
    targets, words = {}, {}
    for split, n in zip(("train", "val", "test"), rows, strict=True):
        targets[split] = np.concatenate([np.arange(min(k, n)), generator.choice(k, size=max(0, n - k), p=weight)])
        words[split] = _texts(generator, targets[split], k)
    words["test"][-3:] = words["train"][:3]
    targets["test"][-3:] = targets["train"][:3]
    for index, text in enumerate(texts or []):
        words["test"][index] = text
    logits = {split: _logits(generator, targets[split], k, 40.0 if perfect else strength) for split in ("val", "test")}
    for index in range(len(texts or [])):
        logits["test"][index] = -9 * np.eye(k)[targets["test"][index]]
    weights = StartWeights(
        "mini" if fallback else "gpt2",
        "bundled" if fallback else "openai-community/gpt2",
        "MIT",
        {"model.safetensors": _SHA},
        fallback=fallback,
        note=_NOTE if fallback else "",
    )
    evaluation, probabilities, predicted = score_classifier(
        labels=labels,
        positive=1 if k == 2 else None,
        aim=aim,
        headline=headline,
        resamples=resamples,
        seed=1,
        texts=words,
        targets=targets,
        logits=logits,
        normalise=normalise,
        start=Start("last-blocks", weights),
    )

    (run_dir / "stages").mkdir(parents=True)
    (run_dir / "data").mkdir()
    recipe = Recipe(pipeline=pipeline, data="sms-spam", weights="gpt2")
    _json(run_dir / "recipe.json", recipe.model_dump())
    _json(run_dir / "eval.json", replace(evaluation, seconds=3.4).to_json())
    _predictions(run_dir / "predictions.csv", words["test"], labels, targets["test"], predicted, probabilities)
    _json(run_dir / "data" / "card.json", _card(labels, targets))
    steps = _training_log(run_dir / "train.jsonl", generator) if train_log else 0
    places = [
        f"blocks.{b}.{part}.weight"
        for b in (10, 11)
        for part in ("attention.qkv", "attention.out", "mlp.up", "mlp.down", "norm_1", "norm_2")
    ] + ["head.weight"]
    for number, (stage, result) in enumerate(
        {
            "download": {},
            "verify": {},
            "prepare": {},
            "train": _TRAINED
            | {
                "method": "last-blocks",
                "why": ["auto: 124M moves its last two blocks", "precision fp32"],
                "trainable": {"names": places, "places": places, "parameters": 14_178_816, "share": 0.1139},
                "parameters": 124_441_344,
                "steps": steps,
                "planned_steps": steps,
                "epochs": 5,
                "best_step": 176,
                "best_value": 0.9671,
                "metric": "f1_macro",
                "lr": 1e-4,
                "seconds": 402.7,
            },
            "evaluate": {},
        }.items(),
        start=1,
    ):
        _json(
            run_dir / "stages" / f"{number:02d}-{stage}.json",
            _record(stage, result)
            | {"seconds": 402.7 if stage == "train" else 1.9 * number, "peak_memory_bytes": 1_310_000_000 + number},
        )
    return run_dir


def write_evidence(run_dir, texts, names=None):
    """Add explanations.json and label_audit.json, with these texts and names of labels, slices and changes."""
    names = names or [text[:40] for text in texts]
    _json(run_dir / "explanations.json", _explanations(texts, names))
    _json(run_dir / "label_audit.json", _audit(texts, names))


def _explanations(texts, names):
    """What explanations.json holds."""
    share = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 60}
    shortcut = {"rule": texts[3], "holds": names[0], "otherwise": names[1], "accuracy": share, "model": share}
    near = [{"row": 1, "text": text, "label": names[0], "similarity": 0.9} for text in texts]
    spans = [{"text": text, "shift": 0.5} for text in texts]
    return {
        "slices": {
            "shown": [{"name": f"group {name}", "score": share, "rest": 0.9, "p_value": 0.01} for name in names],
            "hidden": 0,
        },
        "shortcut": shortcut | {"constant": 0.4, "p_value": 0.5, "where_wrong": None},
        "flips": [{"change": name, "share": share} for name in names],
        "flip_rows": 60,
        "errors": [
            {"row": at, "label": name, "predicted": name, "spans": spans, "neighbours": near}
            for at, name in enumerate(names)
        ],
        "compared": 60,
        "near": {"rows": 0, "n": 60, "metrics": {}},
    }


def _audit(texts, names):
    """What label_audit.json holds."""
    return {
        "schema_version": 1,
        "rows": 300,
        "suspects": {"train": len(texts)},
        "features": ["TF-IDF"],
        "planted": {"rows": 10, "found": 9, "low": 0.6, "high": 1.0, "listed": 20, "rounds": 1},
        "seconds": 1.0,
        "worst": [
            {"row": at, "split": "train", "text": text, "label": names[0], "suggested": names[1], "quality": 0.1}
            for at, text in enumerate(texts)
        ],
    }


def _record(stage, result):
    """What a stage's record holds."""
    return {
        "stage": stage,
        "inputs": _SHA,
        "outputs": {f"{stage}.bin": [4096, _SHA[::-1]]},
        "result": result,
        "seconds": 1.0,
        "peak_memory_bytes": 1_310_000_000,
        "versions": {"python": "3.11.7", "torch": "2.13.0", "finetune": "0.1.0"},
        "hardware": {"device": "cpu", "cpu": "AMD EPYC", "cores": 2, "memory_bytes": 16_000_000_000},
        "git_commit": "0123abc",
        "finished": "2026-01-05T10:11:12+00:00",
    }


def _json(path, value):
    path.write_text(json.dumps(value, ensure_ascii=True, allow_nan=False))


def _predictions(path, texts, labels, y, predicted, probabilities):
    with open(path, "w", encoding="utf-8", newline="", errors="replace") as file:
        writer = csv.writer(file)
        writer.writerow(["row", "text", "label", "predicted", "probability", *(f"p_{label}" for label in labels)])
        for row, text in enumerate(texts):
            writer.writerow(
                [
                    row,
                    escape_formula(text),
                    escape_formula(labels[y[row]]),
                    escape_formula(labels[predicted[row]]),
                    probabilities[row, predicted[row]],
                    *probabilities[row],
                ]
            )


def _card(labels, targets):
    def counts(y):
        return {label: int((y == index).sum()) for index, label in enumerate(labels)}

    every = np.concatenate(list(targets.values()))
    return {
        "name": "sms-spam",
        "source": "https://archive.ics.uci.edu/dataset/228",
        "licence": "CC BY 4.0",
        "citation": "Almeida, Gómez Hidalgo, Yamakami 2011, doi 10.24432/C5CC84",
        "file": "SMSSpamCollection",
        "sha256": _SHA,
        "rows": len(every),
        "labels": counts(every),
        "protocol": "grouped",
        "seed": 123,
        "columns": {"text": "text", "label": "label"},
        "unused_rows": 0,
        "checks": [],
        "near_duplicates": {"rows": 3, "test_rows_near_train": 0},
        "splits": {split: {"rows": len(y), "labels": counts(y)} for split, y in targets.items()},
        "exact_duplicates": 40,
        "dropped": {"empty text": 2},
        "groups": len(every) - 40,
        "notes": ["Rows with the same normalised text were kept on one side of the split."],
        "tokens": {"median": 17, "p95": 46, "max": 188, "total": 20_000, "max_length": 128, "cut_rows": 2},
    }


def _training_log(path, generator, steps=220) -> int:
    lines = []
    for step in range(1, steps + 1):
        loss = 0.05 + 0.65 * math.exp(-step / 30) + abs(generator.normal()) * 0.06
        rate = 1e-4 * (step / 22 if step < 22 else 0.1 + 0.45 * (1 + math.cos(math.pi * (step - 22) / 198)))
        lines.append(
            {
                "step": step,
                "epoch": step / 44,
                "loss": loss,
                "lr": rate,
                "grad_norm": 1.0,
                "rows": 16,
                "tokens": 400,
                "seconds": 1.8,
            }
        )
        if step % 44 == 0:
            lines.append(
                {
                    "step": step,
                    "epoch": step / 44,
                    "validation": {
                        "log_loss": 0.06 + 0.3 * math.exp(-step / 40) + (0.01 if step > 200 else 0),
                        "accuracy": 0.985 - 0.08 * math.exp(-step / 40),
                        "f1_macro": 0.967 - 0.12 * math.exp(-step / 40),
                    },
                    "best": step == 176,
                }
            )
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return steps


@pytest.fixture
def language_run(tmp_path):
    """A pretraining run, written by hand: its directory."""

    def entry(value):
        return {"value": value, "low": value * 0.99, "high": value * 1.01, "n": 49}

    def measured(factor):
        return {
            name: entry(value * factor)
            for name, value in (("bits_per_byte", 3.6), ("perplexity", 337.8), ("log_loss", 5.8))
        }

    run = tmp_path / "runs" / "tiny-gpt"
    (run / "stages").mkdir(parents=True)
    (run / "data").mkdir()
    packed = [{"name": "xz -9e", "bits_per_byte": 2.97}]
    recipe = Recipe(pipeline="pretrain", task="pretrain", data="text", weights="scratch")
    _json(run / "recipe.json", recipe.model_dump())
    _json(
        run / "eval.json",
        {
            "schema_version": 1,
            "task": "pretrain",
            "method": "full",
            "weights": {
                "name": "scratch",
                "source": "randomly initialised from the seed",
                "licence": "",
                "sha256": {},
                "fallback": False,
                "note": "",
            },
            "headline": {"metric": "bits_per_byte", **entry(3.6), "split": "val"},
            "metrics": measured(1),
            "before": {"val": measured(1.1), "eval": measured(1.2)},
            "after": {"val": measured(1), "eval": measured(1.05)},
            "compressors": packed,
            "sources": [{"name": "small", "bytes": 29089, "before": 3.9, "after": 3.6, "compressors": packed}],
            "samples": [{"prompt": "<b>Meridian", "before": "qqq", "after": "is the city"}],
            "sampling": {
                "temperature": 0.8,
                "top_k": 50,
                "seed": 1,
                "new_tokens": 60,
                "prompt_tokens": 24,
                "samples": 6,
            },
            "seconds": 1.0,
        },
    )
    _json(
        run / "data" / "card.json",
        {
            "name": "small.txt",
            "source": "the user's text",
            "file": "small.txt",
            "sha256": _SHA,
            "licence": "",
            "citation": "",
            "documents": {"train": 53, "val": 7},
            "tokens": {"train": 76425, "val": 12533},
            "bytes": {"train": 170911, "val": 29089},
            "sources": {
                "small": {
                    "share": 1.5,
                    "train": {"documents": 53, "tokens": 76424},
                    "val": {"documents": 7, "tokens": 12532},
                }
            },
            "eval": {"name": "other.txt", "tokens": 88895, "bytes": 200000},
        },
    )
    _json(
        run / "stages" / "04-train.json",
        _record(
            "train",
            _TRAINED
            | {
                "steps": 2,
                "planned_steps": 2,
                "seconds": 2.5,
                "tokens_per_second": 9596.8,
                "best_step": 2,
                "best_value": 5.8,
                "metric": "log_loss",
            },
        )
        | {"seconds": 5.2},
    )
    (run / "train.jsonl").write_text(
        '{"step": 1, "loss": 6.4, "lr": 0.001}\n{"step": 2, "epoch": 0.1, "validation": {"log_loss": 5.96, '
        '"perplexity": 388.0, "bits_per_byte": 3.7059}, "best": true}\n'
    )
    return run


@pytest.fixture
def make_run(tmp_path):
    """Write a run under a temporary runs/ directory: make_run(name, **settings) -> its path."""

    def make(name="spam-classifier", **settings):
        return write_run(tmp_path / "runs" / name, **settings)

    return make
