"""Does it help to let mini read a set's texts, without their labels, before it learns from 100 of them?

    python benchmarks/domain_adaptation.py --data FOLDER      for FOLDER and the draws, see learning_curves.py
    python benchmarks/domain_adaptation.py                    writes the table again, from the existing rows

Pretraining of mini continues on the texts of a set's pool, never on test texts, by the pipeline `pretrain` with the
settings READING, once per set. Each seed then fine-tunes from that run, as learning_curves.py does. The runs from mini
itself are those of learning_curves.jsonl; missing ones are added there. The pretraining run is kept under --runs, and
resumed if it was stopped.
"""

import argparse
import json
import sys
from pathlib import Path

from few_labels import (
    MINI,
    SEEDS,
    TFIDF,
    LabelledSet,
    cell,
    current,
    differences,
    is_done,
    measure,
    read_rows,
    read_set,
    report_errors,
    write_section,
)
from learning_curves import ROWS as CURVES

from finetune.console import say
from finetune.execution import execute, open_run
from finetune.files import atomic_write, read_json
from finetune.pipeline import load_pipeline, make_recipe
from finetune.records import TrainResult

ROWS = Path(__file__).with_suffix(".jsonl")
PAGE = Path(__file__).with_name("README.md")
SETS = ["SMS spam", "Tweet emotion"]
BUDGET = 100
ADAPTED = "adapted"
READING = ["train.epochs=3", "train.lr=5e-4", "train.evaluations_per_epoch=5", "pretrain.val_fraction=0.02"]


def read_texts(data: LabelledSet, runs: Path) -> tuple[str, dict]:
    """The chain's first command, `finetune run pretrain`: its run, and bits per byte of held-out texts."""
    name = f"adapted-{data.name.lower().replace(' ', '-')}"
    runs.mkdir(parents=True, exist_ok=True)
    texts = runs / f"{name}.jsonl"
    with atomic_write(texts) as file:
        file.writelines(json.dumps({"text": record.text}) + "\n" for record in data.pool)
    request = make_recipe("pretrain", ["weights=mini", *READING], {"data": str(texts)})
    run, recipe = open_run(request, runs, name)
    execute(run, recipe, load_pipeline("pretrain").stages, fresh=True)
    measured = read_json(run.path("eval.json"))
    bits = {f"bits_{when}": round(measured[when]["val"]["bits_per_byte"]["value"], 4) for when in ("before", "after")}
    trained = run.result("train", TrainResult)
    return str(run.directory), bits | {"read_tokens": trained.tokens, "read_seconds": round(trained.seconds)}


def measure_set(data: LabelledSet, seeds: list[int], runs: Path) -> None:
    """Do the missing runs, from mini and from the weights pretrained on the texts."""
    for seed in seeds:
        if not is_done(CURVES, data.name, BUDGET, seed, MINI):
            measure(CURVES, data, BUDGET, seed, MINI)
    missing = [seed for seed in seeds if not is_done(ROWS, data.name, BUDGET, seed, ADAPTED)]
    if missing:
        checkpoint, found = read_texts(data, runs)
        for seed in missing:
            measure(ROWS, data, BUDGET, seed, ADAPTED, checkpoint, **found)


def table(rows: list[dict], curves: list[dict]) -> str:
    """Markdown: means over the seeds in percent with their 95 % intervals."""
    adapted, direct, tfidf = current(rows, ADAPTED), current(curves, MINI), current(curves, TFIDF)
    lines = ["| set | metric | mini | texts read first | difference | TF-IDF |", "|---|---|---:|---:|---:|---:|"]
    for name in SETS:
        for metric, shown in (
            ("accuracy", "accuracy"),
            ("f1", "F1 of spam") if name == "SMS spam" else ("f1_macro", "macro F1"),
        ):
            first, second, third = (
                [found.get((name, BUDGET, seed), {}).get(metric) for seed in SEEDS]
                for found in (direct, adapted, tfidf)
            )
            lines.append(
                f"| {name} | {shown} | {cell(first)} | {cell(second)} | "
                f"{cell(differences(second, first), '+')} | {cell(third)} |"
            )
    return "\n".join(lines)


def section(rows: list[dict], curves: list[dict]) -> str:
    """The page's section, from the rows only."""
    newest = {name: row for (name, _, _), row in current(rows, ADAPTED).items()}
    read = [
        f"- {name}: {row['read_tokens']:,} tokens read in {row['read_seconds']:,} s; bits per byte of held-out "
        f"texts {row['bits_before']:.3f} before, {row['bits_after']:.3f} after."
        for name, row in newest.items()
    ]
    return "\n".join(
        [
            "## Does pretraining on the texts help?",
            "",
            f'{BUDGET} labels, {len(SEEDS)} samples of them, and the whole test set, as above. For "texts read first", mini '
            "was pretrained further on the training texts of the set before fine-tuning, once per set, without labels and "
            "without test texts. Means in percent with 95 % intervals over the samples; the difference is paired.",
            "",
            table(rows, curves),
            "",
            *read,
            *([""] if read else []),
            "The settings are at the top of [domain_adaptation.py](domain_adaptation.py).",
        ]
    )


def main() -> None:
    """Do the missing runs, then write the section."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder of the sets' files; none: no runs, the table alone")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=SETS)
    parser.add_argument("--seeds", nargs="+", type=int, choices=SEEDS, default=SEEDS)
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where the run of the reading goes")
    arguments = parser.parse_args()
    if arguments.data:
        for name in arguments.sets:
            measure_set(read_set(name, arguments.data), arguments.seeds, arguments.runs)
    write_section(PAGE, ROWS.stem, section(read_rows(ROWS), read_rows(CURVES)))
    say(f"{PAGE}: written")


if __name__ == "__main__":
    sys.exit(report_errors(main))
