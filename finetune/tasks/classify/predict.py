"""``finetune predict`` with a classifier: a label for each text, or for each row of a table."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from finetune.errors import counted
from finetune.tasks.classify.bundle import open_bundle
from finetune.tasks.classify.bundle import predict_table as fill_table
from finetune.tasks.classify.predictor import Predictor
from finetune.training.sharing import follow


def predict_texts(directory: Path, texts: list[str], adapters: Sequence[Path] = ()) -> Iterator[str]:
    """A label and its probability for each text; with several adapters, a line for each, which begins with its directory."""
    for where, ready in _predictors(directory, adapters):
        for label, sure in ready.shown(texts):
            line = f"{' '.join(label.split())}\t{sure}"
            yield f"{where}\t{line}" if len(adapters) > 1 else line


def predict_table(
    directory: Path,
    source: Path,
    target: Path,
    text: str | None,
    encoding: str | None,
    header: bool,
    overwrite: bool = False,
    adapters: Sequence[Path] = (),
) -> Iterator[str]:
    """Fill a table, and report what was read. adapters: one at most, since each would overwrite the table."""
    [(_, ready)] = _predictors(directory, adapters)
    work = ("predict", str(directory), *map(str, adapters))
    counts = fill_table(ready, source, target, text, encoding, header, overwrite, work)
    yield from (f"note: {note}" for note in counts["notes"])
    yield (
        f"{target}: {counted(counts['rows'], 'row')}, text {counts['text_column']!r}"
        + (f", {counts['without_text']:,} of them without text" if counts["without_text"] else "")
    )


def help_predict(directory: Path, *adapters: Path) -> None:
    """Predict this process's part of the table that the first process fills."""
    [(_, ready)] = _predictors(directory, adapters)
    follow(ready.any_logits)


def _predictors(directory: Path, adapters: Sequence[Path]) -> Iterable[tuple[str, Predictor]]:
    """The bundle in a directory, or each of the adapters on the base weights there."""
    if not adapters:
        return [(str(directory), open_bundle(directory, mapped=True))]
    from finetune.tasks.classify.adapters import adapted_bundles

    return adapted_bundles(str(directory), adapters)
