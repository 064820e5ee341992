"""The inputs of a page, and the sections that every task's page has."""

import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from finetune.evaluation.explanations import Explanations
from finetune.evaluation.label_audit import LabelAudit
from finetune.evaluation.results import Evaluation, Measured
from finetune.records import DataOrigin, StageRecord, TrainResult
from finetune.report import provenance
from finetune.report.blocks import Code, Notice, PageContent, Section, Text, Tile
from finetune.report.inputs import AttentionMap, Errors, TrainingLog
from finetune.report.quotes import LEFT_OUT, quoting_note, sharing, without_quotes

E = TypeVar("E", bound=Measured)
C = TypeVar("C", bound=DataOrigin)


@dataclass(frozen=True)
class Files(Generic[E, C]):
    """The files of a run, parsed."""

    name: str  # of the run
    recipe: dict[str, Any]  # dotted key -> value of each setting
    evaluation: E  # the task's type
    card: C | None  # the data card, of the task's type; None if there is no data/card.json
    stages: list[StageRecord]
    train: TrainResult | None  # its seconds are those of the whole stage
    log: TrainingLog
    wrong: Errors | None
    attention: list[AttentionMap]
    explanations: Explanations | None = None
    labels: LabelAudit | None = None  # None without a search for wrong labels


@dataclass(frozen=True)
class Page(Generic[E, C]):
    """How to parse a task's files and build its page."""

    evaluation: type[E]  # the content of eval.json or comparison.json
    card: type[C]  # the content of data/card.json
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
    """The content of a page: the task's sections, then the settings of the run, its use and the licence.

    Without texts of the data if report.texts = false; else with a note that the page contains them.
    """
    evaluation, card = files.evaluation, files.card
    method = evaluation.method if isinstance(evaluation, Evaluation) else ""
    about = [card.name if card else "", evaluation.weights.name, method]
    run = provenance.what_was_run(
        files.name, _settings(files.recipe, evaluation.task), _descriptions(), files.stages, evaluation.weights
    )
    further = [*(use or []), *provenance.licence(card)]
    if not files.recipe.get("report.texts", True):
        note, sections = LEFT_OUT, [*map(without_quotes, sections), run, *map(without_quotes, further)]
    else:
        note = quoting_note([*sections, *further])
        begin, end = run.blocks[:2], run.blocks[2:]  # how to reproduce the run; the weights and all else
        run = replace(run, blocks=[*begin, *(sharing(files.name) if note else []), *end])
        sections = [*sections, run, *further]
    return PageContent(
        kind=kind,
        name=files.name,
        verdict=verdict,
        sections=sections,
        about=[part for part in about if part],
        tiles=tiles,
        notice=notice,
        quoting=note,
    )


def fallback_notice(files: Files[E, C]) -> Notice | None:
    """A notice with commands if the run started from the fallback instead of GPT-2."""
    weights, name = files.evaluation.weights, files.name
    if not weights.fallback:
        return None
    what, _, _ = weights.note.partition(". ")  # the rest of the note repeats the commands in words
    recipe = shlex.quote(f"runs/{name}/recipe.json")
    card, data = files.card, ""
    if card and card.name.endswith("-sample"):
        data = f" The data are a small sample bundled with this project, {card.name}."
    return Notice(
        f"{what.rstrip('.')}.{data} To use GPT-2, connect to the internet and run:",
        f"finetune weights get gpt2\nfinetune run {recipe} --set weights=gpt2 --name {shlex.quote(name + '-gpt2')}",
    )


def look_closer(files: Files[E, C], inside: bool = True) -> Section:
    """The commands that show the model in a browser. inside: whether xray supports the model."""
    run, weights = shlex.quote(f"runs/{files.name}"), files.evaluation.weights
    blocks: list[Text | Code] = [
        Text("A page on this machine, and a REST API (needs the extra serve):"),
        Code(f"finetune serve {run}"),
    ]
    if inside:
        against = f" --against {shlex.quote(weights.name)}" if weights.licence else ""  # weights with a name to load
        blocks += [
            Text("What each layer predicts for a text, its attention, and what training changed, as one HTML file:"),
            Code(f'finetune xray {run} --text "some text"{against}'),
        ]
    return Section("look", "Try it, and look inside", blocks)


def _settings(recipe: dict[str, Any], measured: str) -> dict[str, Any]:
    """The settings without those of other tasks and comparisons, and without the shape unless the weights are new."""
    from finetune.recipe import COMPARISONS, TASKS

    others = {*TASKS, *COMPARISONS} - {measured, recipe.get("task")}
    others |= {"shape"} if recipe.get("weights") != "scratch" else set()
    kept = {key: value for key, value in recipe.items() if key.partition(".")[0] not in others}
    return {key: "not set" if value is None or value == "" else value for key, value in kept.items()}


def _descriptions() -> dict[str, str]:
    """Dotted key -> description of the setting, from the recipe schema."""
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
