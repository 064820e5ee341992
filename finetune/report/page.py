"""What a page is made from, and the parts that every task's page has."""

import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from finetune.evaluation.results import Evaluation, Measured
from finetune.records import DataOrigin, StageRecord, TrainResult
from finetune.report import provenance
from finetune.report.blocks import Notice, PageContent, Section, Tile
from finetune.report.inputs import AttentionMap, Errors, TrainingLog

E = TypeVar("E", bound=Measured)
C = TypeVar("C", bound=DataOrigin)


@dataclass(frozen=True)
class Files(Generic[E, C]):
    """What a run left, as it was read."""

    name: str  # of the run
    recipe: dict[str, Any]  # dotted key -> value of each setting
    evaluation: E  # the task's own
    card: C | None  # of the data, the task's own; none where there is no data/card.json
    stages: list[StageRecord]
    train: TrainResult | None  # its seconds are the whole stage's
    log: TrainingLog
    wrong: Errors | None
    attention: list[AttentionMap]


@dataclass(frozen=True)
class Page(Generic[E, C]):
    """How the files of a task are parsed, and the page that is made of them."""

    evaluation: type[E]  # what eval.json holds, or comparison.json
    card: type[C]  # what data/card.json holds
    make: Callable[[Files[E, C]], PageContent]


def make_page(
    files: Files[E, C],
    kind: str,
    verdict: str,
    tiles: list[Tile],
    sections: list[Section],
    use: list[Section] | None = None,
    notice: Notice | None = None,
) -> PageContent:
    """The content of a page: the task's own sections, then how the run was made and may be used."""
    evaluation, card = files.evaluation, files.card
    method = evaluation.method if isinstance(evaluation, Evaluation) else ""
    about = [card.name if card else "", evaluation.weights.name, method]
    return PageContent(
        kind=kind,
        name=files.name,
        verdict=verdict,
        sections=[
            *sections,
            provenance.what_was_run(files.name, files.recipe, _descriptions(), files.stages, evaluation.weights),
            *(use or []),
            *provenance.licence(card),
        ],
        about=[part for part in about if part],
        tiles=tiles,
        notice=notice,
    )


def fallback_notice(files: Files[E, C]) -> Notice | None:
    """What to say, and what to type, where the run had to do without GPT-2."""
    weights, name = files.evaluation.weights, files.name
    if not weights.fallback:
        return None
    what, _, _ = weights.note.partition(". ")  # the rest says in words what the commands do
    recipe = shlex.quote(f"runs/{name}/recipe.json")
    return Notice(
        f"{what.rstrip('.')}. To use GPT-2, connect and run:",
        f"finetune weights get gpt2\nfinetune run {recipe} --set weights=gpt2 --name {shlex.quote(name + '-gpt2')}",
    )


def _descriptions() -> dict[str, str]:
    """Dotted key -> what the setting means, from the schema of recipes."""
    from finetune.config import Settings
    from finetune.recipe import Recipe

    def walk(schema: type[Settings], prefix: str = "") -> Iterator[tuple[str, str]]:
        for key, field in schema.model_fields.items():
            nested = field.annotation
            if isinstance(nested, type) and issubclass(nested, Settings):
                yield from walk(nested, f"{prefix}{key}.")
            else:
                yield prefix + key, field.description or ""

    return dict(walk(Recipe))
