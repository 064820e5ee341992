"""Does the bundled checkpoint earn its place? mini, random weights of its shape, and TF-IDF, by the number of labels.

    python benchmarks/learning_curves.py --data FOLDER [--sets NAME ...] [--only-budgets 100 all] [--seeds 1 2]
    python benchmarks/learning_curves.py          writes the table and the plot again, from the existing rows

FOLDER holds SMSSpamCollection, trec_train.csv, trec_test.csv and tweet_emotion_train.csv, _val.csv and _test.csv.

The seed draws a stratified sample of labelled rows from a set's training rows. A fifth of them is for validation, which
chooses the checkpoint, or the logistic regression's C; the test split is always the same. Training uses the project's
defaults: all weights are trained; mini with lr 5e-4 for 5 epochs, random weights with 1e-3 for 12; early stopping after
4 validations without a gain. If that gives fewer than LEAST_STEPS optimizer steps, the training rows are repeated within
each epoch until there are enough, by the same rule for both. The seed also determines the head, the random weights and
the order of the rows.

Every run adds a row to learning_curves.jsonl and is not repeated, except if its row comes from another version of mini.
Several processes can run at the same time on different sets.
"""

import argparse
import sys
from pathlib import Path

import matplotlib
import numpy as np
from few_labels import (
    FILES,
    MINI,
    RANDOM,
    SEEDS,
    TFIDF,
    cell,
    current,
    differences,
    is_done,
    mean_interval,
    measure,
    read_rows,
    read_set,
    report_errors,
    write_section,
)
from matplotlib.figure import Figure

from finetune.console import say
from finetune.report.plots import BASELINE, GREY, MODEL

ROWS = Path(__file__).with_suffix(".jsonl")
PLOT = Path(__file__).with_suffix(".png")
PAGE = Path(__file__).with_name("README.md")
BUDGETS = [50, 100, 200, 500, "all"]
FIRST = [100, "all", 50, 200, 500]  # the order of the runs, the two most informative budgets first
NAMES = {MINI: "mini", RANDOM: "random weights, same shape", TFIDF: "TF-IDF + logistic regression"}


def values_of(rows: list[dict], metric: str) -> dict[tuple, list[float | None]]:
    """(set, budget, model) -> the metric by seed; None if the run is missing."""
    by_model = {model: current(rows, model) for model in NAMES}
    return {
        (name, budget, model): [by_model[model].get((name, budget, seed), {}).get(metric) for seed in SEEDS]
        for name in FILES
        for budget in BUDGETS
        for model in NAMES
    }


def table(rows: list[dict], metrics: dict[str, str]) -> str:
    """Markdown: the mean over the seeds in percent with its 95 % interval. metrics: which one, by set."""
    lines = [
        "| set | labels | mini | random weights | TF-IDF | mini − random | mini − TF-IDF |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name, metric in metrics.items():
        found = values_of(rows, metric)
        for budget in BUDGETS:
            own, *others = (found[name, budget, model] for model in NAMES)
            cells = [cell(own), *map(cell, others), *(cell(differences(own, other), "+") for other in others)]
            lines.append(f"| {name} | {labels_of(rows, name, budget)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def labels_of(rows: list[dict], name: str, budget: int | str) -> str:
    """A number of labels as text: 50, or all 4,116."""
    whole = {row["labels"] for row in rows if (row["set"], row["budget"]) == (name, "all")}
    return str(budget) if budget != "all" else f"all {max(whole):,}" if whole else "all"


def verdict(rows: list[dict]) -> str:
    """How often mini is ahead, behind, or neither, by the interval of the difference, where no run is missing."""
    found, sentences = values_of(rows, "accuracy"), []
    for other in (RANDOM, TFIDF):
        pairs = {
            (name, budget): differences(found[name, budget, MINI], found[name, budget, other])
            for name in FILES
            for budget in BUDGETS
        }
        known = {place: mean_interval(values) for place, values in pairs.items() if None not in values}
        ahead = [place for place, (_, low, _) in known.items() if low > 0]
        behind = [place for place, (_, _, high) in known.items() if high < 0]
        even = len(known) - len(ahead) - len(behind)
        sentences.append(
            f"- Against {NAMES[other]}: {len(known)} of {len(pairs)} comparisons are complete; ahead in "
            f"{_listed(ahead)}, behind in {_listed(behind)}, no significant difference in {even}."
        )
    return "\n".join(sentences)


def _listed(places: list[tuple]) -> str:
    """A count with its cases: 2 (TREC 50, 100), or 0."""
    budgets = {name: [str(budget) for own, budget in places if own == name] for name, _ in places}
    named = "; ".join(f"{name} {', '.join(own)}" for name, own in budgets.items())
    return f"{len(places)} ({named})" if places else "0"


def section(rows: list[dict]) -> str:
    """The page's section, from the rows only."""
    start = [row["start"] for row in rows if row["model"] == MINI][-1:]
    threads = sorted({row["threads"] for row in rows if row["model"] == MINI and row["start"] in start})
    sizes = {row["set"]: row["n_test"] for row in rows}
    return "\n".join(
        [
            "## Does the bundled checkpoint earn its place?",
            "",
            "mini fine-tuned, random weights of mini's shape with mini's vocabulary, and TF-IDF with logistic regression, "
            f"on the same labels. Accuracy on the whole test set in percent: the mean over {len(SEEDS)} random samples of "
            "the labels, and in brackets its 95 % interval by Student's t over the samples; the differences are paired by "
            "sample. The test rows are the same in every run, so the intervals show the effect of the sampled labels, not "
            "of the test rows. About one comparison in twenty is significant by chance.",
            "",
            verdict(rows),
            "",
            *([f"![accuracy by the number of labels]({PLOT.name})", ""] if rows else []),
            table(rows, dict.fromkeys(FILES, "accuracy")),
            "",
            "F1 of spam for the SMS set, macro F1 for the others:",
            "",
            table(rows, {name: "f1" if name == "SMS spam" else "f1_macro" for name in FILES}),
            "",
            *(
                [
                    f"Test rows: {', '.join(f'{name} {size:,}' for name, size in sizes.items())}. mini's weights: sha256 "
                    f"{', '.join(start)}…; CPU threads: {', '.join(map(str, threads))}.",
                    "",
                ]
                if start
                else []
            ),
            "The top of [learning_curves.py](learning_curves.py) says how the labels are sampled and how long the models "
            "are trained; every run is in [learning_curves.jsonl](learning_curves.jsonl).",
        ]
    )


def plot(rows: list[dict], path: Path) -> None:
    """Plot accuracy over labels, a panel per set; bars are the intervals, and points with missing runs are left out."""
    found, counts = values_of(rows, "accuracy"), {row["set"]: {} for row in rows}
    for row in rows:
        counts[row["set"]][row["budget"]] = row["labels"]
    matplotlib.rcParams.update({"font.size": 11, "axes.spines.top": False, "axes.spines.right": False})
    figure = Figure(figsize=(12, 4.3), layout="constrained", dpi=110)
    for axes, name in zip(figure.subplots(1, len(FILES)), FILES, strict=True):
        ticks = counts.get(name, {})
        for model, colour, style, shift in (
            (MINI, MODEL, "o-", 1.0),
            (RANDOM, GREY, "s--", 0.96),
            (TFIDF, BASELINE, "^:", 1.04),
        ):
            points = {
                ticks[budget] * shift: mean_interval(values)
                for budget in BUDGETS
                if None not in (values := found[name, budget, model])
            }
            if points:
                mean, low, high = 100 * np.array(list(points.values())).T
                axes.errorbar(
                    list(points),
                    mean,
                    [mean - low, high - mean],
                    fmt=style,
                    color=colour,
                    capsize=3,
                    linewidth=1.8,
                    markersize=6,
                    label=NAMES[model],
                )
        axes.set_xscale("log")
        axes.set_xticks(
            list(ticks.values()), [f"all\n{n:,}" if budget == "all" else f"{budget}" for budget, n in ticks.items()]
        )
        axes.set_xticks([], minor=True)
        axes.set(title=name, xlabel="labels", ylabel="test accuracy, %" if name == next(iter(FILES)) else "")
        axes.grid(color="#e6e8eb")
    handles = {
        label: handle for axes in figure.axes for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=3, frameon=False)
    figure.savefig(path, metadata={"Software": None})


def main() -> None:
    """Do the missing runs, then write the section and the plot."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder of the sets' files; none: no runs, the table alone")
    parser.add_argument("--sets", nargs="+", choices=list(FILES), default=list(FILES))
    parser.add_argument("--only-budgets", nargs="+", default=list(map(str, BUDGETS)), choices=list(map(str, BUDGETS)))
    parser.add_argument("--seeds", nargs="+", type=int, choices=SEEDS, default=SEEDS)
    parser.add_argument("--models", nargs="+", choices=list(NAMES), default=list(NAMES))
    parser.add_argument("--table", action="store_true", help="do no runs, whatever --data says")
    arguments = parser.parse_args()
    if arguments.data and not arguments.table:
        sets = [read_set(name, arguments.data) for name in arguments.sets]
        wanted = [
            (data, budget, seed, model)
            for budget in FIRST
            if str(budget) in arguments.only_budgets
            for seed in arguments.seeds
            for data in sets
            for model in arguments.models
        ]
        for data, *run in wanted:
            if not is_done(ROWS, data.name, *run):
                measure(ROWS, data, *run)
    rows = read_rows(ROWS)
    write_section(PAGE, ROWS.stem, section(rows))
    if rows:
        plot(rows, PLOT)
    say(f"{PAGE}: {len(rows)} rows")


if __name__ == "__main__":
    sys.exit(report_errors(main))
