"""Pipelines: found by name, turned into a recipe, and run stage by stage in a run directory."""

import ast
import importlib.util
import json
from contextlib import contextmanager
from pathlib import Path

from finetune.assets import asset
from finetune.config import Settings, field_names, merge, nearest, parse_overrides, read_toml, validate
from finetune.console import log_to, program, say, warn
from finetune.errors import Interrupted, RecipeError, RunError, TrainingError
from finetune.files import read_json, sha256_json, write_json
from finetune.recipe import Recipe, check_method
from finetune.run import Run, fingerprint, reset_peak_memory, timed


def pipeline_files() -> dict[str, Path]:
    """Every pipeline's file by its name on the command line (``spam-classifier``)."""
    return {path.stem.replace("_", "-"): path for path in sorted(asset("pipelines").glob("*.py"))}


def describe_pipelines() -> dict[str, str]:
    """Each pipeline's name and the first line of its docstring, without running it."""
    return {name: (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").split("\n")[0]
            for name, path in pipeline_files().items()}


def load_pipeline(name: str):
    """A pipeline's recipe and stages: the module's ``recipe`` and ``stages``. RecipeError for an unknown name."""
    files = pipeline_files()
    key = name.replace("_", "-")
    if key not in files:
        raise RecipeError(f"no pipeline or recipe file {name!r}",
                          known=", ".join(files) + _hint(key, files),
                          do="See: finetune ls")
    spec = importlib.util.spec_from_file_location(f"pipeline_{files[key].stem}", files[key])
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.recipe.model_copy(update={"pipeline": key}), module.stages


def make_recipe(target: str, overrides: list[str] = (), settings: dict | None = None) -> Recipe:
    """The recipe of a pipeline's name, a TOML file that overrides one, or a run's recipe.json.

    settings and then overrides (KEY=VALUE) come on top.
    """
    path = Path(target)
    if path.suffix in (".toml", ".json"):
        if not path.is_file():
            raise RecipeError(f"{target}: no such file", do="See: finetune cp PIPELINE FILE")
        values = read_toml(path) if path.suffix == ".toml" else read_json(path)
        if not isinstance(values, dict) or not isinstance(values.get("pipeline"), str):
            raise RecipeError(f"{target}: says no pipeline", known=", ".join(pipeline_files()),
                              do='Begin it with: pipeline = "spam-classifier"')
        base, _ = load_pipeline(values["pipeline"])
    else:
        values, (base, _) = {}, load_pipeline(target)
    see = f"finetune show {base.pipeline}"
    if values:
        base = validate(Recipe, merge(base.model_dump(), values | {"pipeline": base.pipeline}), target, see)
    recipe = validate(Recipe, merge(base.model_dump(), settings or {}), "the command line", see)
    for pair in overrides:
        recipe = validate(Recipe, merge(recipe.model_dump(), parse_overrides([pair])), "--set", see)
    check_method(recipe.train)
    return recipe


def classify_request(data: str, *, text: str | None = None, label: str | None = None, group: str | None = None,
                     split: str | None = None, validation: str | None = None, test: str | None = None,
                     weights: str | None = None, method: str | None = None, encoding: str | None = None,
                     overrides: list[str] = (), settings: dict | None = None) -> Recipe:
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


def resolve(request: Recipe, fetch: bool = True) -> Recipe:
    """The request with `auto` weights and unreachable data replaced by what is at hand, and whole paths.

    fetch: without it no data are downloaded.
    """
    from finetune.checkpoints.sources import resolve_auto
    from finetune.datasets.sources import resolve_data, resolve_text
    from finetune.stages.by_task import task_of
    data = task_of(request).resolve_data(request.data, fetch)
    weights = Path(request.weights).expanduser()
    weights = str(weights.resolve()) if weights.is_dir() else resolve_auto(request.weights)
    further = {key: resolve_data(name) for key in ("validation", "test") if (name := getattr(request, key))}
    whole = {"exclude": tuple(map(resolve_text, request.pretrain.exclude))}
    if request.pretrain.eval_data:
        whole["eval_data"] = resolve_text(request.pretrain.eval_data)
    further["pretrain"] = request.pretrain.model_copy(update=whole)
    return request.model_copy(update={"weights": weights, "data": data} | further)


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
    name = request.pipeline if name is None else name
    for number in range(1, 1000):
        run = Run.named(root, name if number == 1 else f"{name}-{number}")
        if not run.path("recipe.json").exists():
            others = run.directory.iterdir() if run.directory.exists() else []
            if any(path.name != "request.json" and not path.name.startswith(".") for path in others):
                raise RunError(f"{run.directory}: exists and is not a run", do="Move it away, or give another --name.")
            return run, _begin(run, request)
        recipe = read_recipe(run)
        differ = _differences(request, recipe, run)
        if not differ:
            say(f"run {run.directory}: going on")
            return run, recipe
        if not list(run.path("stages").glob("*-prepare.json")):  # stopped by a typo, say: nothing in it to keep
            return run, _begin(run, request)
        say(f"run {run.directory} has other settings ({', '.join(differ)}): trying {name}-{number + 1}")
    raise RunError(f"{root}: a thousand runs of this name", do="Give another --name.")


def _begin(run: Run, request: Recipe) -> Recipe:
    recipe = resolve(request)
    with run.locked():
        run.forget([(number, stage) for number, stage in enumerate(("download", "convert"), 1)])
        write_json(run.path("request.json"), request.model_dump())
        write_json(run.path("recipe.json"), recipe.model_dump())
    say(f"run {run.directory}: new")
    return recipe


def read_recipe(run: Run, file: str = "recipe.json") -> Recipe:
    """A run's recipe, or its request, as it was saved."""
    return validate(Recipe, read_json(run.path(file)), str(run.path(file)))


def stage_names(stages: list, first: str | None = None, until: str | None = None) -> list[str]:
    """The stages' names in order. Raises RecipeError where `first` or `until` is none of them, or out of order."""
    names = [stage.__name__.rpartition(".")[2] for stage in stages]
    for asked in (first, until):
        if asked is not None and asked not in names:
            raise RecipeError(f"no stage {asked!r}", known=", ".join(names) + _hint(asked, names))
    if first and until and names.index(until) < names.index(first):
        raise RecipeError(f"--until {until} comes before --from {first}", known=", ".join(names))
    return names


def execute(run: Run, recipe: Recipe, stages: list, *, first: str | None = None, until: str | None = None,
            processes: int = 1) -> None:
    """Run the stages in order, passing over those that are done; `first` is run again with all that follow it."""
    names = stage_names(stages, first, until)
    for stage in stages:
        if hasattr(stage, "check"):
            stage.check(recipe, processes)
    from finetune.training.loop import set_threads
    with run.locked(), log_to(run.path("log.txt")), _memory_errors():
        set_threads(recipe.train.threads)  # for every stage: another number gives other last bits
        for line in substitutions(read_recipe(run, "request.json"), recipe):
            say(line)
        for line in describe(recipe):
            say(f"  {line}")
        numbered = list(enumerate(names, 1))
        if first:
            run.forget(numbered[names.index(first):])
        before, worked = "", False
        for (number, name), stage in zip(numbered, stages, strict=True):
            outside = stage.outside(recipe) if hasattr(stage, "outside") else {}
            inputs = sha256_json([recipe.model_dump(), before, outside])
            leaf = getattr(stage, "LEAF", False)
            if not run.is_current(number, name, inputs, sizes=not leaf):
                worked = True
                found = run.record_path(number, name)
                earlier = fingerprint(read_json(found)) if found.exists() else ""
                _run_stage(run, recipe, stage, (number, name), inputs, processes)
                if not leaf and fingerprint(run.record(name)) != earlier:  # what follows has read something else
                    run.forget([later for later in numbered[number:] if later[1] != "train"])
            before = before if leaf else fingerprint(run.record(name))
            if name == until:
                break
        if not worked:
            say("nothing left to do")
        _summary(run, recipe)


def dry_run(request: Recipe, stages: list[str], processes: int = 1) -> None:
    """Say what a run would do and take: settings, what moves, rows and steps, time and memory. Leaves nothing."""
    from finetune.stages import dry_run as measured
    from finetune.training.loop import set_threads
    recipe = resolve(request, fetch=False)
    for line in [*substitutions(request, recipe), *describe(recipe)]:
        say(line)
    say("stages: " + ", ".join(stages))
    plans = [("", recipe)] if "train" in stages else []
    if "compare" in stages:
        from finetune.stages import compare
        compare.check(recipe, processes)
        plans = compare.plans(recipe)
    if plans:
        with _memory_errors():
            set_threads(recipe.train.threads)
            measured.dry_run(recipe, processes, plans)
    if "compare" in stages:
        say(f"each of these {recipe.compare.seeds} times, by seed; the other candidates, which start at random or read "
            "their texts otherwise, are not tried")


def describe(recipe: Recipe) -> list[str]:
    """The values of a recipe, a line for each table; not those of a table for other tasks that was left as it is."""
    lines, values = [], recipe.model_dump()
    for_others = {"pretrain", "instruct", "seq2seq", "compare", "architectures", "shape"} - {recipe.task}
    tables = {key: part for key, part in values.items() if isinstance(part, dict)
              and not (key in for_others and part == type(getattr(recipe, key))().model_dump())}
    top = {key: value for key, value in values.items() if not isinstance(value, dict)}
    for table, part in [("recipe", top), *tables.items()]:
        lines.append(f"{table}: " + "  ".join(f"{key}={'(open)' if value is None else value}"
                                              for key, value in part.items()))
    return lines


def as_toml(recipe: Recipe) -> str:
    """A recipe as a TOML file to edit, each key with its description; open values are commented out."""
    lines = []

    def table(settings, heading: str = "") -> None:
        nested = []
        if heading:
            lines.extend(["", f"[{heading}]"])
        for key, field in type(settings).model_fields.items():
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
    """JSON but for what TOML writes otherwise: characters above U+FFFF, and DEL."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _hint(word: str, known) -> str:
    hint = nearest(word, known)
    return f"; {hint}" if hint else ""


def _differences(request: Recipe, recipe: Recipe, run: Run) -> list[str]:
    """The keys by which a request is not this run's; neither as it was asked for nor as it was resolved."""
    def keys(other: Recipe) -> list[str]:
        return [key for key in field_names(Recipe) if _value(other, key) != _value(request, key)]
    asked = read_recipe(run, "request.json") if run.path("request.json").exists() else recipe
    differ = [] if not keys(recipe) else keys(asked)
    if not differ and list(run.path("stages").glob("*-download.json")):
        from finetune.stages.download import outside
        began, now = run.result("download")["outside"], outside(recipe)
        differ = [what for what in sorted({*began, *now}) if began.get(what) != now.get(what)]
    return differ


def _value(recipe: Recipe, key: str):
    value = recipe
    for part in key.split("."):
        value = getattr(value, part)
    return value


def _run_stage(run: Run, recipe: Recipe, stage, numbered: tuple[int, str], inputs: str, processes: int) -> None:
    number, name = numbered
    say(f"[{number}] {name}")
    reset_peak_memory()
    with timed() as seconds:
        try:
            more = {"processes": processes} if name == "train" else {}
            result = stage.run(recipe, run, **more)
        except Interrupted as stop:
            command = f"{program()} run {run.path('recipe.json')} --name {run.name}"
            raise Interrupted(f"{stop}. Go on with: {command}") from stop
        outputs = sorted(path for pattern in stage.OUTPUTS for path in run.directory.glob(pattern) if path.is_file())
        run.finish(number, name, inputs, outputs, result, seconds())


def _summary(run: Run, recipe: Recipe) -> None:
    from finetune.stages.by_task import task_of
    task = task_of(recipe)
    if run.path("eval.json").exists() and list(run.path("stages").glob("*-evaluate.json")):
        say()
        for line in task.summary(read_json(run.path("eval.json"))):
            say(line)
    for stage in ("compare", "architectures"):
        if run.path("comparison.json").exists() and list(run.path("stages").glob(f"*-{stage}.json")):
            from finetune.report import architectures, candidates
            page = candidates if stage == "compare" else architectures
            say()
            for line in page.screen_table(read_json(run.path("comparison.json"))):
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
