"""The command ``evaluate``: a bundle's metrics on a labelled file of any size."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from finetune.console import progress
from finetune.errors import DataError, counted, listed
from finetune.report.metric_text import metric_text
from finetune.tables.detect import detect_format
from finetune.tables.readers import HEADER_NAMES, LabelledTexts, labelled_chunks
from finetune.tables.tables import iterate_table, with_fields
from finetune.tasks.classify.bundle import CHUNK, open_bundle


def score_file(
    bundle_path: Path, data: Path, text: str | None, label: str | None, encoding: str | None = None
) -> list[str]:
    """The metrics of a bundle on a labelled file, as lines. Raises DataError for a label unknown to the bundle.

    The file is read twice, first for labels, then for texts; only numbers and the label of a row stay in memory.
    """
    bundle = open_bundle(bundle_path)
    layout = detect_format(data, encoding, HEADER_NAMES).layout
    layout = with_fields(data, layout, [text or bundle.columns.get("text"), label or bundle.columns.get("label")])
    names = next(iterate_table(data, layout), ([],))[0]
    text, label = bundle.column("text", text, names), bundle.column("label", label, names)

    def chunks() -> Iterator[LabelledTexts]:
        return labelled_chunks(data, text, label, layout, size=CHUNK, white_space=bundle.white_space)

    same: dict[str, str] = {}  # one string object per label
    cells: list[str] = []
    dropped: Counter[str] = Counter()
    for part in chunks():
        cells += [same.setdefault(own, own) for own in part.labels]
        dropped.update(part.dropped)
    labels, there = bundle.read_labels(cells, str(data))
    if unknown := there - set(bundle.labels):
        raise DataError(
            f"{data}: column {part.label_column!r} has labels that the model never saw",
            got=listed(sorted(unknown)),
            known=listed(bundle.labels),
            do="Is it the label column? Name another with --label NAME, or leave these rows out.",
        )
    if not labels:
        raise DataError(f"{data}: no row has a text and a label", do="Name the columns with --text and --label.")
    logits, done = np.empty((len(labels), len(bundle.labels)), dtype=np.float32), 0
    with progress("scoring", len(labels), unit="rows") as advance:
        for part in chunks():
            logits[done : done + len(part.texts)] = bundle.logits(part.texts)
            done += len(part.texts)
            advance(len(part.texts))
    metrics = bundle.measure(labels, logits, resamples=1000)
    lines = [f"{name:18} {metric_text(entry, name)}" for name, entry in metrics.items()]
    absent = [own for own in bundle.labels if own not in there]
    return [
        f"{counted(len(labels), 'row')}; text {part.text_column!r}, label {part.label_column!r}"
        + (f"; positive class {bundle.positive!r}" if bundle.positive else ""),
        *lines,
        *(
            [f"note: no row has the label {listed(absent)}; f1_macro averages over all {len(bundle.labels)}"]
            if absent
            else []
        ),
        *(f"note: {counted(count, 'row')} left out: {reason}" for reason, count in dropped.items()),
    ]
