"""The command ``evaluate`` with a tagger: its metrics on a file of tagged sentences."""

from pathlib import Path

from finetune.errors import DataError, counted, listed
from finetune.report.metric_text import metric_text
from finetune.tasks.tag.bundle import TagBundle
from finetune.tasks.tag.score import entity_counts, measure, per_kind
from finetune.tasks.tag.sentences import locate_sentences, read_sentences
from finetune.tasks.tag.settings import Tag


def score_file(
    directory: Path, data: Path, text: str | None, label: str | None, encoding: str | None = None
) -> list[str]:
    """The metrics of a bundle, as lines. text, label: the columns of words and of tags, for a table.

    Raises DataError for a kind of name that the model does not know.
    """
    bundle = TagBundle.load(directory)
    settings = Tag(words=text, tags=label)
    found = read_sentences(locate_sentences(str(data), encoding), settings, encoding, fewest=1)
    unknown = {tag for own in found.sentences for tag in own.tags} - set(bundle.tags)
    if unknown:
        raise DataError(
            f"{data}: entity types that the model never saw",
            got=listed(sorted({tag[2:] for tag in unknown})),
            known=listed(sorted({tag[2:] for tag in bundle.tags[1:]})),
            do="Rename the types, or leave them out.",
        )
    predicted = [tags for tags, _ in bundle.tag([own.words for own in found.sentences])]
    counts = entity_counts(found.sentences, predicted, bundle.tags)
    metrics = measure(counts, resamples=1000, seed=0)
    names = [
        f"{own.kind}: F1 {metric_text(own.f1, 'f1')}, {counted(own.names, 'entity', 'entities')}"
        for own in per_kind(counts, 1000, 0)
    ]
    return [
        counted(len(found.sentences), "sentence"),
        *(f"{name:18} {metric_text(entry, name)}" for name, entry in metrics.items()),
        *names,
        *(f"note: {note}" for note in found.notes),
        *(f"note: left out {count:,} times: {why}" for why, count in found.dropped.items()),
    ]
