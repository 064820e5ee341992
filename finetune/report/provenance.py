"""The sections on how the model came about: training, data, settings, machine, and how to use it."""

import shlex

from finetune.report import plots
from finetune.report.blocks import (
    NONE,
    Code,
    Figure,
    Section,
    Table,
    Text,
    bytes_text,
    facts,
    flatten,
    metric_name,
    percent,
    seconds_text,
    sentence,
    value_text,
)

VALIDATION = ("log_loss", "accuracy", "f1_macro", "bits_per_byte")  # of a line of train.jsonl
_LABELS = 20
_HASHES = 40


def training(log: dict, result: dict) -> Section:
    """What was trained and how the loss went. `log`: train.jsonl's columns; `result`: the stage's, with its time."""
    trainable = result.get("trainable") or {}
    share = trainable.get("share")
    moved = None
    if trainable.get("parameters") is not None:
        moved = f"{trainable['parameters']:,}" + (f" of {result['parameters']:,}" if "parameters" in result else "")
        moved += f" ({100 * share:.2f}\u00a0%)" if share is not None else ""
    names = trainable.get("places") or trainable.get("names") or []
    metric = metric_name(str(result.get("metric") or "metric"))
    metric = metric[:1].lower() + metric[1:]
    best = result.get("best_step")
    speed = result.get("tokens_per_second")
    pairs = [("Method", result.get("method")), ("Why", "; ".join(map(str, result.get("why") or []))),
             ("Parameters that moved", moved),
             ("Which", ", ".join(map(str, names[:8])) + (f" and {len(names) - 8} more" if len(names) > 8 else "")),
             ("Optimizer steps", _count(result.get("steps"))), ("Epochs", result.get("epochs")),
             ("Best checkpoint", f"step {best}: {metric} {value_text(result.get('best_value'))} on validation"
              if best is not None else None),
             ("Stopped early", result.get("stopped_early")), ("Peak learning rate", result.get("lr")),
             ("Precision", result.get("precision")), ("Threads", result.get("threads")),
             ("Processes", result.get("processes")),
             ("Tokens per second", None if speed is None else _count(round(speed))),
             ("Time", seconds_text(result["seconds"]) if result.get("seconds") is not None else None)]
    blocks = _training_figures(log, best, metric)
    if not blocks:
        blocks = [Text("The run has no log of its training steps.")]
    return Section("training", "Training", [*blocks, *facts("What was trained", pairs), *_estimates(result)])


def _estimates(result: dict) -> list:
    """What the first steps promised beside what the training took; nothing where no step was measured."""
    if result.get("estimate_seconds") is None:
        return []
    rows = [[name, show(result[key]), f"{show(result[key + '_low'])} to {show(result[key + '_high'])}", show(actual)]
            for name, show, key, actual in
            (("Time", seconds_text, "estimate_seconds", result.get("seconds")),
             ("Peak memory", bytes_text, "estimate_peak_bytes", result.get("peak_bytes")))]
    steps, planned = result.get("steps"), result.get("planned_steps")
    note = f"The estimate is made from the first steps, {result['estimate_steps']} of them without the very first."
    if steps != planned:
        note += f" It is for {planned:,} steps; training stopped after {steps:,}."
    if (share := result.get("estimate_cpu_share", 1.0)) < 1:
        note += f" They had {share:.0%} of the processor time of their threads."
    return [Table("Estimate and actual", ["", "Estimate", "Range", "Actual"], rows, frozenset({1, 2, 3})),
            Text(note, small=True)]


def _training_figures(log: dict, best: int | None, metric: str) -> list[Figure]:
    figures = []
    points = log["validation"]
    with_loss = [point for point in points if point["log_loss"] is not None]
    last = f" The last validation log loss is {with_loss[-1]['log_loss']:.4f}." if with_loss else ""
    known = [name for name in VALIDATION if any(point[name] is not None for point in points)]
    table = Table("Validation during training", ["Step", "Epoch", *map(metric_name, known), "Best"],
                  [[f"{point['step']:,}", value_text(point["epoch"]),
                    *(NONE if point[name] is None else f"{point[name]:.4f}" for name in known),
                    "best" if point["best"] else ""]
                   for point in points], frozenset(range(2 + len(known)))) if points else None
    if log["steps"] or with_loss:
        figures.append(Figure(
            plots.loss_picture(log, best), "Loss and learning rate",
            f"Training and validation loss over the optimizer steps, and the learning rate below.{last}",
            "Both losses should fall and level off. Validation that rises while train falls is overfitting. "
            f"The checkpoint that is kept is the best by {metric}, at the dashed line. Below, the learning rate: a "
            "warmup, then as train.schedule says.", table))
    columns = {metric_name(name): [point[name] for point in points] for name in ("accuracy", "f1_macro")
               if points and all(point[name] is not None for point in points)}
    if columns:
        figures.append(Figure(
            plots.validation_picture([point["step"] for point in points], columns, best), "Validation",
            f"Validation metrics at {len(points)} evaluations.",
            "Metrics on validation at each evaluation; the dashed line marks the checkpoint that was kept."))
    return figures


def data_card(card: dict) -> Section:
    """Where the rows come from, how they were divided, what the checks found."""
    pairs = [*origin(card), ("Rows", _count(card.get("rows"))), ("Protocol", card.get("protocol")),
             ("Split seed", card.get("seed")), ("Exact duplicates", _count(card.get("exact_duplicates"))),
             ("Groups of the same text", _count(card.get("groups")))]
    dropped = card.get("dropped") or {}
    pairs.append(("Left out", "; ".join(f"{value_text(count)} rows: {why}" for why, count in dropped.items())))
    tokens = card.get("tokens") or {}
    lengths = [f"{name} {value_text(tokens[key])}" for key, name in
               (("median", "median"), ("p95", "95 % have at most"), ("max", "longest")) if tokens.get(key) is not None]
    pairs.append(("Tokens in a text", ", ".join(lengths)))
    if tokens.get("max_length") is not None:
        pairs.append(("Cut at", f"{tokens['max_length']} tokens ({value_text(tokens.get('cut_rows', 0))} rows)"))
    blocks = [*facts("Source and checks", pairs), *_split_table(card)]
    blocks += [Text(sentence(str(note))) for note in card.get("notes") or []]
    return Section("data", "Data", blocks or [Text("The run has no data card.")])


def origin(card: dict) -> list[tuple[str, object]]:
    """Where the data come from, as pairs for a table."""
    return [(name, card.get(key)) for name, key in
            (("Name", "name"), ("Source", "source"), ("File", "file"), ("sha256", "sha256"))]


def overlap_table(overlap: dict, what: str) -> list[Table]:
    """How many rows of a split stand in another, from what ``evaluation.leakage.overlap`` counts; nothing from nothing.

    what: the part of a row that is looked at.
    """
    names, rows = {"val": "validation"}, []
    for key, counts in overlap.items():
        split, _, other = key.partition("_in_")
        rows.append([f"{names.get(split, split)} rows that stand in {names.get(other, other)}",
                     f"{counts['exact']:,}", f"{counts['normalised']:,}", f"{counts['n']:,}"])
    return [Table(f"Rows whose {what} stands in another split, too", ["", "Exactly", "Normalised", "of rows"], rows,
                  frozenset({1, 2, 3}))] if rows else []


def _split_table(card: dict) -> list:
    splits = {name: split for name, split in (card.get("splits") or {}).items() if isinstance(split, dict)}
    if not splits:
        return []
    counts = {name: split.get("labels") or {} for name, split in splits.items()}
    labels = list(dict.fromkeys([*(card.get("labels") or {}), *(label for c in counts.values() for label in c)]))
    shown = sorted(labels, key=lambda label: -sum(c.get(label, 0) for c in counts.values()))[:_LABELS]
    shown = [label for label in labels if label in shown]
    totals = {name: split.get("rows", sum(counts[name].values())) for name, split in splits.items()}
    rows = [[label, *(f"{c.get(label, 0):,} ({percent(c.get(label, 0), totals[name])})" for name, c in counts.items())]
            for label in shown]
    rows.append(["all", *(f"{total:,}" for total in totals.values())])
    names = {"val": "validation"}
    table = Table("Rows of each label in each split", ["Label", *(names.get(name, name) for name in splits)], rows,
                  frozenset(range(1, len(splits) + 1)), strong=frozenset({len(rows) - 1}))
    if len(shown) == len(labels):
        return [table]
    return [table, Text(f"The {len(shown)} most frequent of {len(labels)} labels are listed.", small=True)]


def what_was_run(name: str, recipe: dict, descriptions: dict[str, str], stages: list[dict], weights: dict) -> Section:
    """How to repeat the run, every setting, versions, machine, time and hashes."""
    run = shlex.quote(f"runs/{name}")
    blocks: list = [
        Text("The same settings again, as a run of another name:"),
        Code(f"finetune run {run}/recipe.json --name {shlex.quote(name + '-again')}"),
        *facts("Weights", [("Name", weights.get("name")), ("Source", weights.get("source")),
                           ("sha256", weights.get("sha256") or None)])]
    settings = flatten(recipe)
    if settings:
        blocks.append(Table("Settings", ["Setting", "Value", "Meaning"],
                            [[key, value_text(value), descriptions.get(key, "")] for key, value in settings], prose=2))
    if stages:
        blocks.append(Table("Stages", ["Stage", "Time", "Peak memory", "Finished"],
                            [[str(stage.get("stage", NONE)), seconds_text(stage.get("seconds")),
                              bytes_text(stage.get("peak_memory_bytes")), value_text(stage.get("finished", NONE))]
                             for stage in stages], frozenset({1, 2})))
    newest = {key: next((stage[key] for stage in reversed(stages) if stage.get(key)), None)
              for key in ("versions", "hardware", "git_commit")}
    seeds = [(key, value) for key, value in settings if key.rsplit(".", 1)[-1] == "seed"]
    blocks += facts("Seeds", seeds)
    blocks += facts("Versions", [*_pairs(newest["versions"]), ("git commit", newest["git_commit"])])
    blocks += facts("Hardware", _pairs(newest["hardware"]))
    hashes = [(f"{stage.get('stage', NONE)}: {key}", found) for stage in stages
              for key, value in flatten({side: stage.get(side) for side in ("inputs", "outputs")})
              for found in (value if isinstance(value, list) else [value]) if _is_hash(found)]
    blocks += facts("Hashes (sha256)", hashes[:_HASHES])
    if len(hashes) > _HASHES:
        blocks.append(Text(f"{len(hashes) - _HASHES} more stand in the stage records of the run.", small=True))
    return Section("run", "What was run", blocks)


def _pairs(value) -> list[tuple[str, object]]:
    return flatten(value) if isinstance(value, dict) else [("", value)] if value else []


def _count(value) -> str | None:
    return f"{value:,}" if isinstance(value, int) else None


def _is_hash(value) -> bool:
    return isinstance(value, str) and len(value) == 64 and set(value) <= set("0123456789abcdef")


def use(name: str, evaluation: dict) -> Section:
    """How to predict with the result, in this project and elsewhere."""
    run = f"runs/{name}"
    changed = [part for part, usual in (("temperature", 1.0), ("threshold", 0.5))
               if evaluation.get(part) not in (None, usual)]
    note = (f"transformers does not apply the {' and the '.join(changed)} above, so its results may differ a little "
            "from those of finetune predict." if changed else "")
    blocks = [Text("On the command line, for single texts or a whole file:"),
              Code(f'finetune predict {shlex.quote(run)} "some text"\n'
                   f"finetune predict {shlex.quote(run)} --csv in.csv --text text --out out.csv"),
              Text("In Python, with this project or with transformers alone:"),
              Code("from finetune.tasks.predict import Bundle\n\n"
                   f"labels, probabilities = Bundle.load({run!r}).predict([\"some text\"])"),
              Code("from transformers import pipeline\n\n"
                   f"classify = pipeline(\"text-classification\", model={run + '/export/hf'!r})\n"
                   'classify("some text", truncation=True)')]
    return Section("use", "How to use it", blocks + ([Text(note, small=True)] if note else []))


def licence(card: dict) -> list[Section]:
    """Licence and citation of the data, where they are known."""
    found = facts("The data", [("Licence", card.get("licence")), ("Citation", card.get("citation"))])
    return [Section("licence", "Licence and citation", found)] if found else []
