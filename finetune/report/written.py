"""What the pages of models that write have in common: their texts beside other ways to write them."""

from collections.abc import Callable

from finetune.console import aligned
from finetune.report.blocks import NONE, Table, Text, metric_cell, percent
from finetune.report.metric_text import bracket_cell, metric_interval, metric_text, metric_value, p_text, points

LISTED = 20  # rows or problems that are named one by one
SPLITS = {"train": "training", "val": "validation", "test": "test"}
_SHOWN = 600  # characters of a text among the samples
_LOWER = {"log_loss", "perplexity", "repetition"}


def against(entry: dict, metric: str, name: str) -> str:
    """A baseline's figure, and whether the model is better, worse or neither."""
    difference, value = entry["differences"][metric], metric_value(metric, entry["metrics"][metric]["value"])
    size, p = points(metric, difference["value"]), p_text(difference["p_value"])
    if size == 0 or difference["p_value"] >= 0.05:
        return f"{name} {value} (no more than noise apart, {p})"
    return f"{name} {value} (the model is {'better' if size > 0 else 'worse'} by {abs(size):.1f} points, {p})"


def without_overlap(evaluation: dict, what: str) -> list[str]:
    """A sentence on test rows that stand in another split, where there are any."""
    headline, clean = evaluation["headline"]["metric"], evaluation["clean"]
    overlapping = max(entry["n"] for entry in evaluation["metrics"].values()) - clean["n"]
    if not overlapping:
        return []
    alone = clean["metrics"].get(headline)
    return [f"{overlapping:,} test {what} stand in train or validation too"
            + (f"; without them: {metric_text(alone, headline)}." if alone else ".")]


def tiles(evaluation: dict, names: list[str], name: Callable[[str], str], untuned: str) -> list[dict]:
    """The figures at the top; each defined metric once. untuned: the baseline that is the model before training."""
    metrics = evaluation["metrics"]
    before = next((entry["metrics"] for entry in evaluation["baselines"] if entry["name"] == untuned), {})
    return [{"name": name(metric), "value": metric_value(metric, metrics[metric]["value"]),
             "interval": metric_interval(metric, metrics[metric]),
             "note": f"test, n = {metrics[metric]['n']:,}"
             + (f"; before {metric_value(metric, before[metric]['value'])}" if metric in before else "")}
            for metric in dict.fromkeys(names) if metrics.get(metric, {"value": None})["value"] is not None]


def comparison_tables(evaluation: dict, compared: list[str], name: Callable[[str], str], columns: dict[str, str],
                      what: str) -> list:
    """Every metric of the model and of its baselines on the same rows, and the paired tests."""
    metrics, baselines = evaluation["metrics"], evaluation["baselines"]
    rows = [[name(metric) + _arrow(metric), _cell(metric, entry),
             *(_cell(metric, other["metrics"][metric]) if metric in other["metrics"] else NONE for other in baselines)]
            for metric, entry in metrics.items()]
    heads = ["This model", *(columns[entry["name"]] for entry in baselines)]
    tested = [[name(metric) + _arrow(metric),
               *(_difference(metric, entry["differences"].get(metric)) for entry in baselines)]
              for metric in compared if any(metric in entry["differences"] for entry in baselines)]
    minus = [f"Model minus\n{head.lower()}" for head in heads[1:]]
    return [Table(f"Test {what}, with 95 % intervals", ["Metric", *heads], rows, frozenset(range(1, 1 + len(heads)))),
            Table(f"Differences on the same {what}", ["Metric", *minus], tested, frozenset(range(1, 1 + len(minus)))),
            Text("Differences are in points, those of the loss in nats, with intervals and p of the paired bootstrap: "
                 "below 0.05 a difference is more than noise.", small=True)]


def loss_table(rows: list[tuple[str, dict]]) -> Table:
    """What a loss is of, and its {"before", "after"}."""
    cells = [[what, _loss_cell(row["before"]), f"{_loss_cell(row['after'])}\n"
              f"{percent(row['after']['value'], row['before']['value'])} of before"] for what, row in rows]
    return Table("Nats a token, with 95 % intervals", ["", "Before", "After"], cells, frozenset({1, 2}))


def row_list(count: int | None, rows: list[int] | None, what: str) -> str | None:
    """How many rows, and which."""
    if not count:
        return None if count is None else "0"
    if not rows:
        return f"{count:,}"
    listed = ", ".join(map(str, rows[:LISTED]))
    return f"{count:,} ({what} {listed}{' and more' if count > LISTED else ''}; the first of the file is 0)"


def shorten(text: str) -> str:
    """A text of bounded length, its line breaks kept."""
    text = text or "(nothing)"
    return text if len(text) <= _SHOWN else text[:_SHOWN - 1] + "\N{HORIZONTAL ELLIPSIS}"


def _arrow(metric: str) -> str:
    return "\u00a0\N{DOWNWARDS ARROW}" if metric in _LOWER else ""


def _cell(metric: str, entry: dict) -> str:
    """The value, and under it the interval; a perplexity in the digits that it deserves."""
    if metric != "perplexity":
        return metric_cell(metric, entry)
    value, low, high = (f"{entry[key]:,.{0 if entry[key] >= 100 else 1}f}" for key in ("value", "low", "high"))
    return f"{value}\n({low} to {high})"


def _difference(metric: str, entry: dict | None) -> str:
    """The difference with its interval, and p; in points but for the loss."""
    if entry is None:
        return NONE
    value, low, high = (f"{entry[key]:+.3f}" if points(metric, entry[key]) is None else
                        f"{points(metric, entry[key]):+.1f}" for key in ("value", "low", "high"))
    return f"{value}\n({low} to {high})\n{p_text(entry['p_value'])}"


def _loss_cell(entry: dict) -> str:
    return f"{entry['value']:.3f}\n({entry['low']:.3f} to {entry['high']:.3f})"


def beside_baselines(evaluation: dict, names: dict[str, str]) -> list[str]:
    """The model and its baselines, a line each. names: metric -> what its column is called."""
    rows = [["", *names.values(), "p"]]
    own = {"name": f"{evaluation['weights']['name']}, {evaluation['method']}", "metrics": evaluation["metrics"],
           "p_value": None}
    for entry in (own, *evaluation["baselines"]):
        rows.append([entry["name"], *(bracket_cell(entry["metrics"][name]) if name in entry["metrics"] else ""
                                      for name in names),
                     "" if entry["p_value"] is None else f"{entry['p_value']:.3g}"])
    return aligned(rows)
