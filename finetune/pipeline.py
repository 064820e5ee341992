"""Pipelines: found by name, turned into a recipe, and run stage by stage in a run directory."""

import ast
import importlib.util
import json
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType

from finetune import __version__
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
from finetune.console import log_to, program, say, warn
from finetune.errors import Interrupted, RecipeError, RunError, TrainingError
from finetune.files import read_json, sha256_json, write_json
from finetune.hub.assets import asset
from finetune.machine import reset_peak_memory, timed
from finetune.recipe import Recipe, check_method, check_shape, comparison_settings, task_settings
from finetune.run import Run, content, read_record
from finetune.tasks import TASKS

EVERYWHERE = ("pipeline", "task", "weights", "data")  # settings of every run
RENAMED = {"compare": "methods", "silent_cross": "zero_init_cross_attention"}  # keys of the version before


@dataclass(frozen=True)
class Pipeline:
    """What a file in ``pipelines/`` says: the defaults of its recipe, and its stages in order."""

    recipe: Recipe
    stages: tuple[ModuleType, ...]

    def reads(self, task: str) -> tuple[str, ...]:
        """The settings that its stages read for a task, as keys or whole sections."""
        return (*EVERYWHERE, *(key for stage in self.stages for key in stage_reads(stage, task) or ()))


def stage_name(stage: ModuleType) -> str:
    """The name of a stage: its NAME, or its module's."""
    return getattr(stage, "NAME", stage.__name__.rpartition(".")[2])


def stage_reads(stage: ModuleType, task: str) -> tuple[str, ...] | None:
    """The settings that decide what a stage leaves, the task's own among them; none: all."""
    own = task_settings(task).READS.get(stage_name(stage), ())
    return (*stage.READS, *own) if stage.READS is not None else own or None


def pipeline_files() -> dict[str, Path]:
    """Every pipeline's file by its name on the command line (``spam-classifier``)."""
    return {path.stem.replace("_", "-"): path for path in sorted(asset("pipelines").glob("*.py"))}


def describe_pipelines() -> dict[str, str]:
    """Each pipeline's name and the first line of its docstring, without running it."""
    return {name: (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").split("\n")[0]
            for name, path in pipeline_files().items()}


@cache
def load_pipeline(name: str) -> Pipeline:
    """A pipeline's recipe and stages; its file is executed once. Raises RecipeError for an unknown name."""
    files = pipeline_files()
    key = name.replace("_", "-")
    if key not in files:
        raise RecipeError(f"no pipeline or recipe file {name!r}",
                          known=", ".join(files) + _hint(key, files),
                          do="See: finetune ls")
    if key != name:
        return load_pipeline(key)
    spec = importlib.util.spec_from_file_location(f"pipeline_{files[key].stem}", files[key])
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return Pipeline(module.recipe.model_copy(update={"pipeline": key}), tuple(module.stages))


def make_recipe(target: str, overrides: Sequence[str] = (), settings: dict | None = None) -> Recipe:
    """The recipe of a pipeline's name, a TOML file that overrides one, or a run's recipe.json.

    settings and then overrides (KEY=VALUE) come on top. Raises RecipeError for settings that nothing here reads.
    """
    path = Path(target)
    if path.suffix in (".toml", ".json"):
        if not path.is_file():
            raise RecipeError(f"{target}: no such file", do="See: finetune cp PIPELINE FILE")
        values = read_toml(path) if path.suffix == ".toml" else read_json(path)
        if not isinstance(values, dict) or not isinstance(values.get("pipeline"), str):
            raise RecipeError(f"{target}: says no pipeline", known=", ".join(pipeline_files()),
                              do='Begin it with: pipeline = "spam-classifier"')
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
                raise RecipeError(error.what, known=f"{old} is called {new} since version 0.1.0", do=f"See: {see}"
                                  ) from error
        raise


def refuse_unread(recipe: Recipe, pipeline: Pipeline) -> None:
    """Raise RecipeError for a setting that was changed and that no stage of this run reads; it names the owner."""
    reads, usual, base = pipeline.reads(recipe.task), Recipe(), pipeline.recipe
    for key in field_names(Recipe):
        value = value_of(recipe, key)
        if value not in (value_of(usual, key), value_of(base, key)) and not under(key, reads):
            raise RecipeError(f"{key} changes nothing in {recipe.pipeline} (task {recipe.task})", got=repr(value),
                              known=_owners(key), do="Leave it out.")


def _owners(key: str) -> str:
    """Who reads a setting, in words."""
    tasks = [f"the task {name} (in {', '.join(stages)})" for name in TASKS
             if (stages := [stage for stage, keys in task_settings(name).READS.items() if under(key, keys)])]
    tasks += [f"the comparison {name}" for name in COMPARISONS if under(key, comparison_settings(name).READS)]
    return "it is read by " + (", ".join(tasks) or "every task that trains a single model")


def classify_request(data: str, *, text: str | None = None, label: str | None = None, group: str | None = None,
                     split: str | None = None, validation: str | None = None, test: str | None = None,
                     weights: str | None = None, method: str | None = None, encoding: str | None = None,
                     overrides: Sequence[str] = (), settings: dict | None = None) -> Recipe:
    """The recipe of ``finetune classify``, with settings and then overrides (KEY=VALUE) on top."""
    chosen = {"data": data, "columns": {"text": text, "label": label, "group": group, "split": split},
              "validation": validation or "", "test": test or "", "encoding": encoding}
    chosen |= {"weights": weights} if weights else {}
    chosen |= {"train": {"method": method}} if method else {}
    return make_recipe("classify", overrides, merge(chosen, settings or {}))


def file_run_name(data: str) -> str:
    """A run's name after a data file: classify-NAME, with what a name cannot hold replaced."""
    stem = "".join(c if c.isascii() and c.isalnum() else "-" for c in Path(data).stem).strip("-")
    return f"classify-{stem or 'data'}"[:60]


def resolve(request: Recipe) -> Recipe:
    """The request with `auto` weights replaced by what is here or can be had, and whole paths; nothing is fetched."""
    from finetune.checkpoints.sources import resolve_auto
    from finetune.tasks.base import task_named
    weights = Path(request.weights).expanduser()
    weights = str(weights.resolve()) if weights.is_dir() else resolve_auto(request.weights)
    return task_named(request.task).resolve(request.model_copy(update={"weights": weights}), fetch=False)


def substitutions(request: Recipe, recipe: Recipe) -> list[str]:
    """What a run had to do without, a sentence each."""
    from finetune.checkpoints.fallback import MINI, RANDOM_BYTES
    said = []
    if request.weights == "auto" and recipe.weights in (MINI, RANDOM_BYTES):
        instead = "mini, the small bundled checkpoint," if recipe.weights == MINI else "small random weights over bytes"
        said.append(f"GPT-2 is neither on this machine nor reachable: starting from {instead} instead.")
    if recipe.data != request.data and not Path(recipe.data).exists():
        said.append(f"{request.data} is neither on this machine nor reachable: using the bundled sample, "
                    f"{recipe.data}, instead.")
    return said


def open_run(request: Recipe, root: Path, name: str | None) -> tuple[Run, Recipe]:
    """The run for a request: the one that it began, or a new one; other settings under a used name get ``-2``."""
    from finetune.tasks.base import task_named
    task_named(request.task).check_settings(request)
    name = request.pipeline if name is None else name
    for number in range(1, 1000):
        run = Run.named(root, name if number == 1 else f"{name}-{number}")
        if not run.path("recipe.json").exists():
            others = run.directory.iterdir() if run.directory.exists() else []
            if any(path.name != "request.json" and not path.name.startswith(".") for path in others):
                raise RunError(f"{run.directory}: exists and is not a run", do="Move it away, or give another --name.")
            return run, _begin(run, request)
        recipe = run.recipe()
        differ = _differences(request, recipe, run)
        if not differ:
            say(f"run {run.directory}: going on")
            return run, recipe
        if not run.finished("prepare"):  # stopped by a typo, say: nothing in it to keep
            return run, _begin(run, request)
        say(f"run {run.directory} has other settings ({', '.join(differ)}): trying {name}-{number + 1}")
    raise RunError(f"{root}: a thousand runs of this name", do="Give another --name.")


def _begin(run: Run, request: Recipe) -> Recipe:
    recipe = resolve(request)
    with run.locked():
        run.forget((number, stage_name(stage), ()) for number, stage in
                   enumerate(load_pipeline(request.pipeline).stages, 1))
        write_json(run.path("request.json"), request.model_dump())
        write_json(run.path("recipe.json"), recipe.model_dump())
    say(f"run {run.directory}: new")
    return recipe


def stage_names(stages: Sequence[ModuleType], first: str | None = None, until: str | None = None) -> list[str]:
    """The stages' names in order. Raises RecipeError where `first` or `until` is none of them, or out of order."""
    names = [stage_name(stage) for stage in stages]
    for asked in (first, until):
        if asked is not None and asked not in names:
            raise RecipeError(f"no stage {asked!r}", known=", ".join(names) + _hint(asked, names))
    if first and until and names.index(until) < names.index(first):
        raise RecipeError(f"--until {until} comes before --from {first}", known=", ".join(names))
    return names


def execute(run: Run, recipe: Recipe, stages: Sequence[ModuleType], *, first: str | None = None,
            until: str | None = None, processes: int = 1, fresh: bool = False) -> None:
    """Run the stages in order, passing over those that are done; `first` is run again with all that follow it.

    A stage that another run beside this one has done with the same settings, inputs and code is taken over from there,
    unless `fresh`.
    """
    names = stage_names(stages, first, until)
    for stage in stages:
        if hasattr(stage, "check"):
            stage.check(recipe, processes)
    from finetune.training.loop import set_threads
    with run.locked(), log_to(run.path("log.txt")), _memory_errors():
        set_threads(recipe.train.threads)  # for every stage: another number gives other last bits
        for line in substitutions(run.recipe("request.json"), recipe):
            say(line)
        for line in describe(recipe, stages):
            say(f"  {line}")
        numbered = [(number, name, _outputs(stage, recipe)) for (number, name), stage in
                    zip(enumerate(names, 1), stages, strict=True)]
        if first:
            run.forget(numbered[names.index(first):])
        before, worked, taken = "", False, {}
        for (number, name, outputs), stage in zip(numbered, stages, strict=True):
            leaf = getattr(stage, "LEAF", False)
            path, begun = run.record_path(number, name), False
            if hasattr(stage, "resolve") and not path.exists():
                begun = _announce(number, name)
                recipe = _resolved(run, recipe, stage)
            external = stage.external(recipe) if hasattr(stage, "external") else {}
            inputs = fingerprint(stage, recipe, before, external)
            machine = stage.machine(recipe, processes) if hasattr(stage, "machine") else {}
            if not run.is_current(number, name, inputs, contents=not leaf):
                worked = True
                earlier = content(read_record(path)) if path.exists() else ""
                shared = not fresh and first is None and not leaf and not getattr(stage, "NAMES_RUN", False)
                donor = run.take_over(number, name, inputs, machine) if shared else ""
                if donor:
                    taken.setdefault(donor, []).append(name)
                else:
                    taken = _say_taken(taken)
                    begun = begun or _announce(number, name)
                    more = {"processes": processes} if name == "train" else {}
                    _run_stage(run, recipe, stage, (number, name, outputs), inputs, external, machine, more)
                if not leaf and earlier and content(run.record(name)) != earlier:  # what follows has read others
                    run.forget([later for later in numbered[number:] if later[1] != "train"])
            if hasattr(stage, "confirm"):
                stage.confirm(recipe, run)
            before = before if leaf else sha256_json([before, content(run.record(name))])
            if name == until:
                break
        _say_taken(taken)
        if not worked:
            say("nothing left to do")
        _summary(run, recipe, stages)


def fingerprint(stage: ModuleType, recipe: Recipe, before: str, external: dict[str, str]) -> str:
    """What a stage's result depends on: its settings, what the stages before it left, files outside, this version."""
    reads = stage_reads(stage, recipe.task)
    values = recipe.model_dump(mode="json") if stage.READS is None else chosen_values(recipe, reads)
    return sha256_json([stage_name(stage), __version__, values, before, external])


def _announce(number: int, name: str) -> bool:
    say(f"[{number}] {name}")
    return True


def _say_taken(taken: dict[str, list[str]]) -> dict:
    """Say which stages were taken over from which run; nothing is left to be said."""
    for donor, names in taken.items():
        say(f"taken over from the run {donor}, where nothing that they read differs: {', '.join(names)} "
            "(--fresh does them again)")
    return {}


def _outputs(stage: ModuleType, recipe: Recipe) -> tuple[str, ...]:
    """Patterns of what a stage leaves."""
    return stage.outputs(recipe) if hasattr(stage, "outputs") else tuple(stage.OUTPUTS)


def _resolved(run: Run, recipe: Recipe, stage: ModuleType) -> Recipe:
    """The recipe with what only fetching could tell, saved."""
    found = stage.resolve(recipe)
    if found != recipe:
        write_json(run.path("recipe.json"), found.model_dump())
        for line in substitutions(recipe, found):
            say(line)
    return found


def dry_run(request: Recipe, stages: Sequence[ModuleType], processes: int = 1) -> None:
    """Say what a run would do and take: settings, what is trained, rows and steps, time, memory. Leaves nothing."""
    from finetune.commands import dry_run as measured
    from finetune.tasks.base import task_named
    from finetune.training.loop import set_threads
    task_named(request.task).check_settings(request)
    recipe, names = resolve(request), stage_names(stages)
    for line in [*substitutions(request, recipe), *describe(recipe, stages)]:
        say(line)
    say("stages: " + ", ".join(names))
    plans, notes = [("", recipe)] if "train" in names else [], []
    for stage in stages:
        if hasattr(stage, "plans"):
            stage.check(recipe, processes)
            plans, notes = stage.plans(recipe)
    if plans:
        with _memory_errors():
            set_threads(recipe.train.threads)
            measured.dry_run(recipe, processes, plans)
    for note in notes:
        say(note)


def describe(recipe: Recipe, stages: Sequence[ModuleType]) -> list[str]:
    """The settings that a run reads, a line for each section: first those that differ from the defaults."""
    reads, usual = Pipeline(recipe, tuple(stages)).reads(recipe.task), Recipe()
    if recipe.weights != "scratch":
        reads = tuple(key for key in reads if key != "shape")
    changed, as_usual = {}, {}
    for key, value in chosen_values(recipe, reads).items():
        section, _, name = key.rpartition(".")
        lines = as_usual if value == value_of(usual, key) else changed
        shown = "(open)" if value is None else ",".join(map(str, value)) if isinstance(value, list) else value
        lines.setdefault(section or "recipe", []).append(f"{name}={shown}")
    return [f"{section}: {'  '.join(values)}" for section, values in changed.items()] + [
        f"{section}, as usual: {'  '.join(values)}" for section, values in as_usual.items()]


def as_toml(recipe: Recipe) -> str:
    """A recipe as a TOML file to edit, each key with its description; open values are commented out.

    It holds what the pipeline's stages read.
    """
    pipeline = load_pipeline(recipe.pipeline)
    reads, lines = pipeline.reads(recipe.task), []

    def table(settings, heading: str = "") -> None:
        nested, prefix = [], f"{heading}." if heading else ""
        own = {key: field for key, field in type(settings).model_fields.items()
               if isinstance(getattr(settings, key), Settings) or under(prefix + key, reads)}
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


def _toml_value(value) -> str:
    """JSON but for what TOML writes otherwise: characters above U+FFFF, and DEL; and tables on one line."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{json.dumps(key)} = {_toml_value(item)}" for key, item in value.items()) + " }"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _hint(word: str, known) -> str:
    hint = nearest(word, known)
    return f"; {hint}" if hint else ""


def _differences(request: Recipe, recipe: Recipe, run: Run) -> list[str]:
    """The keys by which a request is not this run's; neither as it was asked for nor as it was resolved."""
    def keys(other: Recipe) -> list[str]:
        return [key for key in field_names(Recipe) if value_of(other, key) != value_of(request, key)]
    asked = run.recipe("request.json") if run.path("request.json").exists() else recipe
    differ = [] if not keys(recipe) else keys(asked)
    if not differ and run.finished("download"):
        from finetune.stages.download import external
        began, now = run.record("download").external, external(recipe)
        differ = [what for what in sorted({*began, *now}) if began.get(what) != now.get(what)]
    return differ


def _run_stage(run: Run, recipe: Recipe, stage: ModuleType, numbered: tuple[int, str, tuple[str, ...]], inputs: str,
               external: dict[str, str], machine: dict[str, str], more: dict) -> None:
    number, name, outputs = numbered
    reset_peak_memory()
    with timed() as seconds:
        try:
            result = stage.run(recipe, run, **more)
        except Interrupted as stop:
            command = f"{program()} run {run.path('recipe.json')} --name {run.name}"
            raise Interrupted(f"{stop}. Go on with: {command}") from stop
        left = stage.recorded(run) if hasattr(stage, "recorded") else sorted(
            path for pattern in outputs for path in run.directory.glob(pattern) if path.is_file())
        run.finish(number, name, inputs, left, result, seconds(), external, machine)


def _summary(run: Run, recipe: Recipe, stages: Sequence[ModuleType]) -> None:
    """The result of a finished run as a table, and where its report and weights are."""
    from finetune.tasks.base import task_named
    task, names = task_named(recipe.task), [stage_name(stage) for stage in stages]
    tables = [stage.summary(run) for stage in stages if hasattr(stage, "summary") and run.finished(stage_name(stage))]
    if "evaluate" in names and run.finished("evaluate"):
        path = run.path("eval.json")
        tables.append(task.summary(task.page.evaluation.from_json(read_json(path), path)))
    for lines in tables:
        say()
        for line in lines:
            say(line)
    if run.path("report", "index.html").exists():
        say()
        say(f"report: {run.path('report', 'index.html')}")
    if run.path("export", "hf", "config.json").exists():
        say(f"{task.exported}: {run.path('export', 'hf')}   (try: {program()} {task.next_command(run.directory)})")


@contextmanager
def _memory_errors():
    """Memory that ran out, as an error that says what to change."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        text = str(error).lower()
        if not isinstance(error, MemoryError) and "out of memory" not in text and "can't allocate" not in text:
            raise
        warn("what was saved is intact")
        raise TrainingError("memory ran out", got=str(error).split("\n")[0][:120],
                            do="Lower train.micro_batch_tokens or max_length, then run the same command.") from error
