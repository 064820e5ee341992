"""Whole labelled sets with their own test parts: mini and TF-IDF with all training labels, five seeds.

    python benchmarks/classify_sets.py --data FOLDER [--sets NAME ...] [--seeds 1 2] [--models mini tf-idf]
    python benchmarks/classify_sets.py          writes the table again, from the existing rows

FOLDER holds banking77_train.csv, banking77_test.csv, youtube_spam_train.csv and youtube_spam_test.csv. The other sets
of the table are those of learning_curves.py: the table reuses its runs on all labels (`--only-budgets all`). A run is
described at the top of learning_curves.py; here the seed determines which fifth of the labels is for validation, the
head and the order of the rows.

Every run adds a row to classify_sets.jsonl and is not repeated, except if its row comes from another version of mini.
"""

import argparse
import sys
from pathlib import Path

import few_labels
from few_labels import MINI, SEEDS, TFIDF, cell, current, differences

from finetune.console import say

ROWS = Path(__file__).with_suffix(".jsonl")
CURVES = Path(__file__).with_name("learning_curves.jsonl")
PAGE = Path(__file__).with_name("README.md")
OWN = {
    "Banking77": (["banking77_train.csv"], ["banking77_test.csv"]),
    "YouTube spam": (["youtube_spam_train.csv"], ["youtube_spam_test.csv"]),
}
SETS = {  # classes, and the origin of the test split
    "SMS spam": (2, "ours, grouped by text"),
    "TREC": (6, "official"),
    "Tweet emotion": (4, "official"),
    "Banking77": (77, "official"),
    "YouTube spam": (2, "another video's comments"),
}
MODELS = (MINI, TFIDF)


def values_of(rows: list[dict], name: str, metric: str) -> list[list[float | None]]:
    """The metric by seed of each model, on all labels; None if the run is missing."""
    return [[current(rows, model).get((name, "all", seed), {}).get(metric) for seed in SEEDS] for model in MODELS]


def table(rows: list[dict]) -> str:
    """Markdown: means over the seeds in percent with 95 % intervals, and the paired difference."""
    lines = [
        "| set | classes | labels | test | metric | mini | TF-IDF | mini − TF-IDF |",
        "|---|---:|---:|---|---|---:|---:|---:|",
    ]
    for name, (classes, whose) in SETS.items():
        whole = [row for row in rows if (row["set"], row["budget"]) == (name, "all")]
        sizes = [f"{whole[-1][key]:,}" if whole else "?" for key in ("labels", "n_test")]
        for metric in ("accuracy", "f1_macro"):
            own, other = values_of(rows, name, metric)
            cells = [cell(own), cell(other), cell(differences(own, other), "+")]
            lines.append(
                f"| {name} | {classes} | {sizes[0]} | {sizes[1]} ({whose}) | "
                f"{metric.replace('f1_macro', 'macro F1')} | {' | '.join(cells)} |"
            )
    return "\n".join(lines)


def verdict(rows: list[dict]) -> str:
    """On which sets mini is ahead, behind, or neither in accuracy, by the interval of the difference."""
    found = {name: differences(*values_of(rows, name, "accuracy")) for name in SETS}
    known = {name: few_labels.mean_interval(values) for name, values in found.items() if None not in values}
    ahead = [name for name, (_, low, _) in known.items() if low > 0]
    behind = [name for name, (_, _, high) in known.items() if high < 0]
    even = [name for name in known if name not in ahead + behind]
    said = [
        f"{word}: {', '.join(names)}"
        for word, names in (("ahead", ahead), ("behind", behind), ("neither", even))
        if names
    ]
    return f"mini against TF-IDF, {len(known)} of {len(SETS)} sets complete. {'; '.join(said)}".rstrip() + (
        "." if said else ""
    )


def section(rows: list[dict]) -> str:
    """The page's section, from the rows only."""
    return "\n".join(
        [
            "## Whole sets",
            "",
            "mini fine-tuned, and TF-IDF with logistic regression, on all training labels (a fifth of them for "
            f"validation), tested on the whole test set. Means over {len(SEEDS)} seeds in percent, in brackets 95 % "
            "intervals by Student's t over the seeds; the difference is paired by seed. The test rows are always the same.",
            "",
            verdict(rows),
            "",
            table(rows),
            "",
            "Made by [classify_sets.py](classify_sets.py) from its rows and, for the first three sets, from those of "
            "[learning_curves.py](learning_curves.py).",
        ]
    )


def main() -> None:
    """Do the missing runs, then write the section."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder of the sets' files; none: no runs, the table alone")
    parser.add_argument("--sets", nargs="+", choices=list(OWN), default=list(OWN))
    parser.add_argument("--seeds", nargs="+", type=int, choices=SEEDS, default=SEEDS)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    arguments = parser.parse_args()
    assert list(SETS) == [*few_labels.FILES, *OWN]
    for name in arguments.sets if arguments.data else ():
        data = few_labels.read_set(name, arguments.data, OWN)
        for seed in arguments.seeds:
            for model in arguments.models:
                if not few_labels.is_done(ROWS, name, "all", seed, model):
                    few_labels.measure(ROWS, data, "all", seed, model)
    few_labels.write_section(PAGE, ROWS.stem, section(few_labels.read_rows(CURVES) + few_labels.read_rows(ROWS)))
    say(f"{PAGE}: {len(few_labels.read_rows(ROWS))} rows")


if __name__ == "__main__":
    sys.exit(few_labels.report_errors(main))
