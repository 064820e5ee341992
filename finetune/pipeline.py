"""Find pipelines by name and turn them into recipes and lists of stages."""

import ast
import importlib.util
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from finetune.comparisons import COMPARISONS
from finetune.config import (
    Settings,
    chosen_values,
    field_names,
    merge,
    nearest,
    parse_overrides,
    read_toml,
    under,
    validate,
    value_of,
)
from finetune.errors import RecipeError
from finetune.files import read_json
from finetune.hub.assets import asset
from finetune.recipe import Recipe, check_method, check_shape, task_settings
from finetune.tasks import TASKS

EVERYWHERE = ("pipeline", "task", "weights", "data", "report")  # settings of every run
RENAMED = {
    "compare": "methods",
    "silent_cross": "zero_init_cross_attention",
    "threshold": "aim",
}  # keys of the version before


@dataclass(frozen=True)
class Pipeline:
    """What a file in ``pipelines/`` defines: its default recipe and its stages in order."""

    recipe: Recipe
    stages: tuple[ModuleType, ...]

    def reads(self, task: str) -> tuple[str, ...]:
        """The settings that its stages read for a task, as keys or whole sections."""
        return (*EVERYWHERE, *(key for stage in self.stages for key in stage_reads(stage, task) or ()))


def stage_name(stage: ModuleType) -> str:
    """A stage's NAME, or its module's name."""
    return getattr(stage, "NAME", stage.__name__.rpartition(".")[2])


def stage_reads(stage: ModuleType, task: str) -> tuple[str, ...] | None:
    """The settings that determine a stage's outputs, including the task's; None: all."""
    own = task_settings(task).READS.get(stage_name(stage), ())
    return (*stage.READS, *own) if stage.READS is not None else own or None


def pipeline_files() -> dict[str, Path]:
    """Every pipeline's file by its name on the command line (``spam-classifier``)."""
    return {path.stem.replace("_", "-"): path for path in sorted(asset("pipelines").glob("*.py"))}


def describe_pipelines() -> dict[str, str]:
    """Each pipeline's name and the first line of its docstring, without running it."""
    return {
        name: (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").split("\n")[0]
        for name, path in pipeline_files().items()
    }


@cache
def load_pipeline(name: str) -> Pipeline:
    """A pipeline's recipe and stages; its file is executed once. Raises RecipeError for an unknown name."""
    files = pipeline_files()
    key = name.replace("_", "-")
    if key not in files:
        raise RecipeError(
            f"no pipeline or recipe file {name!r}", known=", ".join(files) + _hint(key, files), do="See: finetune ls"
        )
    if key != name:
        return load_pipeline(key)
    spec = importlib.util.spec_from_file_location(f"pipeline_{files[key].stem}", files[key])
    assert spec is not None and spec.loader is not None, "a .py file has a loader"
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return Pipeline(module.recipe.model_copy(update={"pipeline": key}), tuple(module.stages))


def make_recipe(target: str, overrides: Sequence[str] = (), settings: dict | None = None) -> Recipe:
    """The recipe for a pipeline's name, a TOML file that overrides one, or a run's recipe.json.

    settings and then overrides (KEY=VALUE) are applied on top. Raises RecipeError for settings that are never read.
    """
    path = Path(target)
    if path.suffix in (".toml", ".json"):
        if not path.is_file():
            raise RecipeError(f"{target}: no such file", do="See: finetune cp PIPELINE FILE")
        values = read_toml(path) if path.suffix == ".toml" else read_json(path)
        if not isinstance(values, dict) or not isinstance(values.get("pipeline"), str):
            raise RecipeError(
                f"{target}: does not name a pipeline",
                known=", ".join(pipeline_files()),
                do='Add this first line: pipeline = "spam-classifier"',
            )
        pipeline = load_pipeline(values["pipeline"])
    else:
        values, pipeline = {}, load_pipeline(target)
    base = recipe = pipeline.recipe
    see = f"finetune show {base.pipeline}"
    if values:
        recipe = _validate(merge(base.model_dump(), values | {"pipeline": base.pipeline}), target, see)
    recipe = _validate(merge(recipe.model_dump(), settings or {}), "the command line", see)
    for pair in overrides:
        recipe = _validate(merge(recipe.model_dump(), parse_overrides([pair])), "--set", see)
    if recipe.pipeline != base.pipeline:
        raise RecipeError(
            "the pipeline is not a setting: the command names it",
            got=f"pipeline={recipe.pipeline}",
            do=f"Give it: finetune run {recipe.pipeline}",
        )
    check_method(recipe.train)
    check_shape(recipe)
    refuse_unread(recipe, pipeline)
    return recipe


def _validate(values: dict, source: str, see: str) -> Recipe:
    try:
        return validate(Recipe, values, source, see)
    except RecipeError as error:
        for old, new in RENAMED.items():
            if error.what.endswith(f"unknown key {old!r}") or f".{old}'" in error.what:
                raise RecipeError(
                    error.what, known=f"{old} is called {new} since version 0.1.0", do=f"See: {see}"
                ) from error
        raise


def refuse_unread(recipe: Recipe, pipeline: Pipeline) -> None:
    """Raise RecipeError for a changed setting that no stage of this run reads; the error names what reads it."""
    reads, usual, base = pipeline.reads(recipe.task), Recipe(), pipeline.recipe
    for key in field_names(Recipe):
        value = value_of(recipe, key)
        if value not in (value_of(usual, key), value_of(base, key)) and not under(key, reads):
            raise RecipeError(
                f"{key} has no effect in {recipe.pipeline} (task {recipe.task})",
                got=repr(value),
                known=_owners(key),
                do="Remove it.",
            )


def _owners(key: str) -> str:
    """What reads a setting, in words."""
    from finetune.stages import train

    tasks = ["every task that trains a single model"] if under(key, train.READS) else []
    tasks += [
        f"the task {name} (in {', '.join(stages)})"
        for name in TASKS
        if (stages := [stage for stage, keys in task_settings(name).READS.items() if under(key, keys)])
    ]
    tasks += [
        f"the comparison {name}"
        for name in COMPARISONS
        if under(key, import_module(f"finetune.comparisons.{name}.stage").READS)
    ]
    return f"it is read by {', '.join(tasks)}"


def classify_request(
    data: str | None,
    *,
    text: str | None = None,
    label: str | None = None,
    group: str | None = None,
    split: str | None = None,
    time: str | None = None,
    folds: int | None = None,
    learning_curve: bool = False,
    validation: str | None = None,
    test: str | None = None,
    weights: str | None = None,
    method: str | None = None,
    long_texts: str | None = None,
    encoding: str | None = None,
    ignore: Sequence[str] = (),
    overrides: Sequence[str] = (),
    settings: dict | None = None,
) -> Recipe:
    """The recipe of ``finetune classify``, with settings and then overrides (KEY=VALUE) on top."""
    chosen: dict[str, Any] = {
        "data": data,
        "columns": {"text": text, "label": label, "group": group, "split": split, "time": time},
        "validation": validation or "",
        "test": test or "",
        "encoding": encoding,
    }
    chosen |= {"split": {"protocol": "time"}} if time else {}
    chosen |= {"folds": {"count": folds}} if folds else {}
    chosen |= {"weights": weights} if weights else {}
    chosen |= {"train": {"method": method}} if method else {}
    chosen |= {"classify": {"long_texts": long_texts}} if long_texts else {}
    chosen |= {"ignore": tuple(ignore)} if ignore else {}
    if folds and learning_curve:
        raise RecipeError(
            "one run cannot both cross-validate and draw a learning curve", do="Leave --folds or --learning-curve out."
        )
    pipeline = "folds" if folds else "learning-curve" if learning_curve else "classify"
    return make_recipe(pipeline, overrides, merge(chosen, settings or {}))


def file_run_name(data: str, pipeline: str = "classify") -> str:
    """A run's name from a data file's: PIPELINE-NAME, with invalid characters replaced."""
    stem = "".join(c if c.isascii() and c.isalnum() else "-" for c in Path(data).stem).strip("-")
    return f"{pipeline}-{stem or 'data'}"[:60]


def stage_names(stages: Sequence[ModuleType], first: str | None = None, until: str | None = None) -> list[str]:
    """The stages' names in order. Raises RecipeError if `first` or `until` is unknown or out of order."""
    names = [stage_name(stage) for stage in stages]
    for asked in (first, until):
        if asked is not None and asked not in names:
            raise RecipeError(f"unknown stage {asked!r}", known=", ".join(names) + _hint(asked, names))
    if first and until and names.index(until) < names.index(first):
        raise RecipeError(f"--until {until} comes before --from {first}", known=", ".join(names))
    return names


def describe(recipe: Recipe, stages: Sequence[ModuleType]) -> list[str]:
    """The settings that a run reads, one line per section: first those that differ from the defaults."""
    reads, usual = Pipeline(recipe, tuple(stages)).reads(recipe.task), Recipe()
    if recipe.weights != "scratch":
        reads = tuple(key for key in reads if key != "shape")
    changed: dict[str, Any] = {}
    as_usual: dict[str, Any] = {}
    for key, value in chosen_values(recipe, reads).items():
        section, _, name = key.rpartition(".")
        lines = as_usual if value == value_of(usual, key) else changed
        shown = "not set" if value is None else ",".join(map(str, value)) if isinstance(value, list) else value
        lines.setdefault(section or "recipe", []).append(f"{name}={shown}")
    return [f"{section}: {'  '.join(values)}" for section, values in changed.items()] + [
        f"{section}, defaults: {'  '.join(values)}" for section, values in as_usual.items()
    ]


def as_toml(recipe: Recipe) -> str:
    """A recipe as a TOML file to edit, each key with its description; open values are commented out.

    It contains the settings that the pipeline's stages read.
    """
    pipeline = load_pipeline(recipe.pipeline)
    reads, lines = pipeline.reads(recipe.task), []

    def table(settings: Settings, heading: str = "") -> None:
        nested, prefix = [], f"{heading}." if heading else ""
        own = {
            key: field
            for key, field in type(settings).model_fields.items()
            if isinstance(getattr(settings, key), Settings) or under(prefix + key, reads)
        }
        if heading and any(not isinstance(getattr(settings, key), Settings) for key in own):
            lines.extend(["", f"[{heading}]"])
        for key, field in own.items():
            value = getattr(settings, key)
            if isinstance(value, Settings):
                nested.append((key, value))
                continue
            lines.append(f"# {field.description}")
            lines.append(f"# {key} =" if value is None else f"{key} = {_toml_value(value)}")
        for key, value in nested:
            table(value, f"{heading}.{key}" if heading else key)

    table(recipe)
    return "\n".join(lines) + "\n"


def _toml_value(value: object) -> str:
    """JSON, except where TOML differs: characters above U+FFFF, DEL, and tables on one line."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{json.dumps(key)} = {_toml_value(item)}" for key, item in value.items()) + " }"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _hint(word: str, known: Iterable[str]) -> str:
    hint = nearest(word, known)
    return f"; {hint}" if hint else ""
