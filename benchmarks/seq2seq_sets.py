"""Both families of seq2seq on real sets: translation, headlines, paraphrases; mini, one training each.

    python benchmarks/seq2seq_sets.py --data FOLDER [--sets NAME ...] [--families NAME ...]
    python benchmarks/seq2seq_sets.py          writes the table again, from the existing rows

FOLDER holds eng-fra_40k_{train,valid,test}.tsv (Tatoeba, CC BY 2.0), agnews_headlines.jsonl (AG News, description to
title) and mrpc_paraphrase_{train,test}.jsonl (Microsoft Research paraphrases). Each run is the real command, from
mini's weights, with greedy decoding and one seed; both families get the same pairs and learning rate, and train
until validation stops improving, up to a maximum. Every run adds a row to seq2seq_sets.jsonl and is not repeated. On a
GPU all six take some minutes; on a CPU they take a night.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import few_labels
from machine import device_name

from finetune.console import say
from finetune.files import read_json

ROWS = Path(__file__).with_suffix(".jsonl")
PAGE = Path(__file__).with_name("README.md")
PASSES = 12  # maximum
SETS = {  # pairs per optimizer step, and the data settings of the command
    "English to French": (
        256,
        "data=eng-fra_40k_train.tsv",
        "validation=eng-fra_40k_valid.tsv",
        "test=eng-fra_40k_test.tsv",
    ),
    "headlines": (64, "data=agnews_headlines.jsonl", "split.val_fraction=0.05", "split.test_fraction=0.1"),
    "paraphrases": (64, "data=mrpc_paraphrase_train.jsonl", "test=mrpc_paraphrase_test.jsonl"),
}
FAMILIES = ("decoder", "encoder-decoder")
COMMON = (
    "weights=mini",
    f"train.epochs={PASSES}",
    "train.max_steps=100000",
    "train.evaluations_per_epoch=1",
    "train.patience=3",
    "train.lr=0.001",
    "train.micro_batch_tokens=16384",
    "train.precision=fp32",
    "seq2seq.max_new_tokens=96",
)
METRICS = {"bleu": ("BLEU", 1), "chrf": ("chrF", 1), "rouge_l": ("ROUGE-L", 100), "exact_match": ("exact", 100)}
NAMES = {
    "the model before training": "before training",
    "the source itself": "the source copied",
    "the target of the most similar training source (TF-IDF)": "nearest known source's target",
}


def measure(folder: Path, name: str, family: str, threads: int) -> None:
    """One run of the command, and its row."""
    batch, *data = SETS[name]
    settings = [
        *COMMON,
        *(_whole(folder, word) for word in data),
        f"train.batch_size={batch}",
        f"seq2seq.family={family}",
        f"train.threads={threads}",
    ]
    with tempfile.TemporaryDirectory() as place:
        words = [
            "run",
            "seq2seq",
            "--name",
            "measured",
            "--until",
            "evaluate",
            *(word for setting in settings for word in ("--set", setting)),
        ]
        subprocess.run(
            [sys.executable, "-m", "finetune", *words],
            cwd=place,
            check=True,
            env=os.environ | {"OMP_NUM_THREADS": str(threads)},
        )
        run = Path(place) / "runs" / "measured"
        found, card = read_json(run / "eval.json"), read_json(run / "data" / "card.json")
        trained = next(read_json(path)["result"] for path in (run / "stages").glob("*-train.json"))
    row = {
        "set": name,
        "family": family,
        "start": few_labels.start_id("mini"),
        "machine": device_name(),
        "train": card["splits"]["train"]["used"],
        "baselines": [{key: entry[key] for key in ("name", "metrics", "differences")} for entry in found["baselines"]],
    }
    row |= {
        key: trained[key]
        for key in (
            "epochs",
            "steps",
            "best_step",
            "seconds",
            "peak_bytes",
            "parameters",
            "device",
            "threads",
            "precision",
        )
    }
    few_labels.append_row(ROWS, row | {key: found[key] for key in ("metrics", "signatures")})


def _whole(folder: Path, setting: str) -> str:
    """A setting with the absolute path of its file."""
    key, _, value = setting.partition("=")
    return f"{key}={(folder / value).resolve()}" if (folder / value).is_file() else setting


def table(rows: list[dict]) -> list[str]:
    """Markdown: a line for each model and baseline, with 95 % intervals."""
    lines = [
        "| set | written by | " + " | ".join(title for title, _ in METRICS.values()) + " | loss | training |",
        "|---|---|" + "---:|" * (len(METRICS) + 2),
    ]
    for name in SETS:
        own = [row for row in rows if row["set"] == name]
        for row in own:
            spent = (
                f"{row['epochs']:.0f} passes, {row['steps']:,} steps, the best after {row['best_step']:,}; "
                f"{row['seconds']:,.0f} s"
            )
            lines.append(f"| {name} | mini, {row['family']} | {_cells(row['metrics'])} | {spent} |")
        for entry in own[0]["baselines"] if own else ():
            if not entry["name"].startswith("the model"):  # the untrained model differs by family
                lines.append(f"| {name} | {NAMES[entry['name']]} | {_cells(entry['metrics'])} | |")
        lines += [
            f"| {name} | mini, {family} | missing |" + " |" * (len(METRICS) + 1)
            for family in FAMILIES
            if family not in {row["family"] for row in own}
        ]
    return lines


def _cells(metrics: dict) -> str:
    cells = [_cell(metrics.get(metric), scale) for metric, (_, scale) in METRICS.items()]
    loss = metrics.get("log_loss")
    return " | ".join([*cells, f"{loss['value']:.3f}" if loss else ""])


def _cell(entry: dict | None, scale: float) -> str:
    if entry is None or entry["value"] is None:
        return ""
    value, low, high = (scale * entry[key] for key in ("value", "low", "high"))
    return f"{value:.1f} [{low:.1f}, {high:.1f}]"


def verdict(rows: list[dict]) -> list[str]:
    """A line for each set: whether each family beats the better of the two baselines in chrF, by a paired test."""
    lines = []
    for name in SETS:
        own = [row for row in rows if row["set"] == name]
        if not own:
            continue
        parts = []
        for row in own:
            simple = [entry for entry in row["baselines"] if not entry["name"].startswith("the model")]
            best = max(simple, key=lambda entry: entry["metrics"]["chrf"]["value"])
            difference = best["differences"]["chrf"]
            word = (
                "ahead of"
                if difference["low"] > 0
                else "behind"
                if difference["high"] < 0
                else "not significantly different from"
            )
            parts.append(
                f"{row['family']} {word} {NAMES[best['name']]} by chrF "
                f"({difference['value']:+.1f} [{difference['low']:+.1f}, {difference['high']:+.1f}])"
            )
        counts = f"{own[0]['train']:,} training pairs, {own[0]['metrics']['chrf']['n']:,} test pairs"
        lines.append(f"- {name}, {counts}: {'; '.join(parts)}.")
    return lines


def section(rows: list[dict]) -> str:
    """The page's section, from the rows only."""
    signatures = rows[-1]["signatures"] if rows else {}
    return "\n".join(
        [
            "## Source to target on real sets",
            "",
            "mini (6.9 M parameters; 13 M as an encoder-decoder) in both families, each trained once with one seed for at "
            f"most {PASSES} epochs, stopped after three without a lower validation loss; greedy decoding, compared with "
            "two baselines without a model. In brackets 95 % intervals by bootstrap over the test pairs; they do not "
            f"cover other seeds. Trained on: {'; '.join(sorted({row['machine'] for row in rows}))}.",
            "",
            *verdict(rows),
            "",
            *table(rows),
            "",
            *(f"{name}: `{text}`  " for name, text in signatures.items()),
            "",
            "Made by [seq2seq_sets.py](seq2seq_sets.py).",
        ]
    )


def main() -> None:
    """Do the missing runs, then write the section."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder of the sets' files; none: no runs, the table alone")
    parser.add_argument("--sets", nargs="+", choices=list(SETS), default=list(SETS))
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=FAMILIES)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    for name in arguments.sets if arguments.data else ():
        for family in arguments.families:
            if (name, family) not in {(row["set"], row["family"]) for row in few_labels.read_rows(ROWS)}:
                measure(arguments.data, name, family, arguments.threads)
    few_labels.write_section(PAGE, ROWS.stem, section(few_labels.read_rows(ROWS)))
    say(f"{PAGE}: {len(few_labels.read_rows(ROWS))} rows")


if __name__ == "__main__":
    sys.exit(few_labels.report_errors(main))
