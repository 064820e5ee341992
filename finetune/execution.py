"""Open the run for a request and execute its stages in order, resuming where it stopped."""

import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from finetune import __version__
from finetune.config import chosen_values, field_names, value_of
from finetune.console import log_to, program, say
from finetune.errors import Interrupted, RunError, TrainingError, listed
from finetune.files import read_json, sha256_json, write_json
from finetune.machine import give_back_freed, keep_freed_memory, reset_peak_memory, timed
from finetune.pipeline import describe, load_pipeline, stage_name, stage_names, stage_reads
from finetune.recipe import Recipe
from finetune.run import Run, content, read_record
from finetune.training.out_of_memory import memory_errors


def resolve(request: Recipe) -> Recipe:
    """The request with `auto` weights resolved to what is available, and absolute paths; nothing is downloaded."""
    from finetune.checkpoints.sources import resolve_auto
    from finetune.tasks.base import task_of

    place = Path(request.weights).expanduser()
    weights = str(place.resolve()) if place.is_dir() else resolve_auto(request.weights)
    return task_of(request).resolve(request.model_copy(update={"weights": weights}), fetch=False)


def substitutions(request: Recipe, recipe: Recipe) -> list[str]:
    """One sentence for each data set or model that was not available."""
    from finetune.checkpoints.fallback import MINI, RANDOM_BYTES
    from finetune.tables.sources import samples

    said = []
    if request.weights == "auto" and recipe.weights in (MINI, RANDOM_BYTES):
        instead = "mini, the small bundled checkpoint," if recipe.weights == MINI else "small random weights over bytes"
        said.append(f"GPT-2 is not on this machine and cannot be downloaded: starting from {instead} instead.")
    for asked, used in ((getattr(request, key), getattr(recipe, key)) for key in ("data", "validation", "test")):
        if used != asked and used in samples():
            said.append(
                f"{asked} is not on this machine and cannot be downloaded: using the bundled sample, {used}, instead."
            )
    return said


def open_run(request: Recipe, root: Path, name: str | None, processes: int = 1) -> tuple[Run, Recipe]:
    """The run with these settings: an earlier one to resume, or a new one. If the name is taken, ``-2`` is appended.

    Raises RecipeError or WeightsError, before anything is written, for settings or weights that the task or a stage
    does not support.
    """
    check_settings(request, processes)
    name = request.pipeline if name is None else name
    others: list[str] = []  # runs with this name, and the settings that differ
    number = 1
    while number < 1000:
        run = Run.named(root, name if number == 1 else f"{name}-{number}")
        if not run.path("recipe.json").exists():
            there = run.directory.iterdir() if run.directory.exists() else []
            if any(path.name != "request.json" and not path.name.startswith(".") for path in there):
                raise RunError(
                    f"{run.directory}: exists and is not a run", do="Move it away, or choose another --name."
                )
            if others:
                say(f"settings differ from {listed(others)}: starting {run.directory.name}")
            if begun := _begin(run, request, None):
                return run, begun
            continue  # another process has begun it meanwhile: compare with what it wrote
        recipe = run.recipe()
        differ = _differences(request, recipe, run)
        if not differ:
            say(f"run {run.directory}: resuming")
            return run, recipe
        if not run.finished("prepare"):  # stopped early, for example by a typo: nothing to keep
            if begun := _begin(run, request, recipe):
                return run, begun
            continue
        others.append(f"{run.directory.name} ({', '.join(differ)})")
        number += 1
    raise RunError(f"{root}: already a thousand runs with this name", do="Give another --name.")


def check_settings(request: Recipe, processes: int) -> None:
    """Raise for settings, or weights on this machine, that the task or a stage does not support."""
    from finetune.tasks.base import task_of
    from finetune.tasks.setup import check_start

    task_of(request).check_settings(request)
    stages = load_pipeline(request.pipeline).stages
    for stage in stages:
        if hasattr(stage, "check"):
            stage.check(request, processes)
    check_start(request, any(getattr(stage, "GPT_ALONE", False) for stage in stages))


def _begin(run: Run, request: Recipe, seen: Recipe | None) -> Recipe | None:
    """Write a run's recipe and return it; None if its recipe is no longer the one `seen`.

    Another process may have started the run before this one locked it.
    """
    recipe = resolve(request)
    with run.locked():
        if (run.recipe() if run.path("recipe.json").exists() else None) != seen or run.finished("prepare"):
            return None
        run.forget(
            (number, stage_name(stage), ()) for number, stage in enumerate(load_pipeline(request.pipeline).stages, 1)
        )
        write_json(run.path("request.json"), request.model_dump())
        write_json(run.path("recipe.json"), recipe.model_dump())
    say(f"run {run.directory}: new")
    return recipe


def execute(
    run: Run,
    recipe: Recipe,
    stages: Sequence[ModuleType],
    *,
    first: str | None = None,
    until: str | None = None,
    processes: int = 1,
    fresh: bool = False,
) -> None:
    """Run the stages in order and skip finished ones; `first` and everything after it is rerun.

    If a sibling run has finished a stage with the same settings, inputs and package version, its outputs are
    reused. fresh: run every stage, finished or not, and reuse nothing.
    processes: how many share the work; all were started already (``finetune.cli.processes``), and this is the first.
    Raises TrainingError if another number of them was started.
    """
    names = stage_names(stages, first, until)
    from finetune.training import ranks
    from finetune.training.loop import set_threads

    if ranks.processes() != processes:
        raise TrainingError(
            "the processes that share the work were not started",
            got=str(ranks.processes()),
            known=str(processes),
            do="Start the command with --processes, torchrun or accelerate launch.",
        )

    with run.locked(), log_to(run.path("log.txt")), memory_errors(), _interrupts(run):
        if run.recipe().model_dump(mode="json") != recipe.model_dump(mode="json"):
            raise RunError(
                f"{run.directory}: another process has begun this run with other settings",
                do="Run the same command again, or choose another --name.",
            )
        set_threads(recipe.train.threads)  # for every stage: the thread count changes the last bits
        keep_freed_memory()
        for line in substitutions(run.recipe("request.json"), recipe):
            say(line)
        for line in describe(recipe, stages):
            say(f"  {line}")
        numbered = [
            (number, name, _outputs(stage, recipe))
            for (number, name), stage in zip(enumerate(names, 1), stages, strict=True)
        ]
        if first or fresh:
            run.forget(numbered[names.index(first) if first else 0 :])
        before, worked = "", False
        taken: dict[str, list[str]] = {}
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
                    _say_taken(taken)
                    begun = begun or _announce(number, name)
                    _run_stage(run, recipe, stage, (number, name, outputs), inputs, external, machine)
                if not leaf and earlier and content(run.record(name)) != earlier:  # later stages used the old outputs
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
    """A hash of all that a stage's result depends on: settings, earlier outputs, external files, this version."""
    reads = stage_reads(stage, recipe.task)
    values = recipe.model_dump(mode="json") if stage.READS is None else chosen_values(recipe, reads or ())
    return sha256_json([stage_name(stage), __version__, values, before, external])


def _announce(number: int, name: str) -> bool:
    say(f"[{number}] {name}")
    return True


def _say_taken(taken: dict[str, list[str]]) -> None:
    """Print which stages were reused from which run, and clear the list."""
    for donor, names in taken.items():
        say(f"{', '.join(names)}: reused from {donor}, which had the same inputs (--fresh reruns them)")
    taken.clear()


def _outputs(stage: ModuleType, recipe: Recipe) -> tuple[str, ...]:
    """Patterns of a stage's output files."""
    return stage.outputs(recipe) if hasattr(stage, "outputs") else tuple(stage.OUTPUTS)


def _resolved(run: Run, recipe: Recipe, stage: ModuleType) -> Recipe:
    """Resolve settings that are known only after downloading, and save the recipe."""
    found = stage.resolve(recipe)
    if found != recipe:
        write_json(run.path("recipe.json"), found.model_dump())
        for line in substitutions(recipe, found):
            say(line)
    return found


def dry_run(request: Recipe, stages: Sequence[ModuleType], processes: int = 1) -> None:
    """Print the plan of a run: settings, what is trained, rows and steps, time, memory. Saves nothing."""
    from finetune.commands import dry_run as measured
    from finetune.training.loop import set_threads

    check_settings(request, processes)
    recipe, names = resolve(request), stage_names(stages)
    for line in [*substitutions(request, recipe), *describe(recipe, stages)]:
        say(line)
    say("stages: " + ", ".join(names))
    plans, notes = [("", recipe)] if "train" in names else [], []
    for stage in stages:
        if hasattr(stage, "plans"):
            plans, notes = stage.plans(recipe)
    if plans:
        with memory_errors():
            set_threads(recipe.train.threads)
            keep_freed_memory()
            measured.dry_run(recipe, processes, plans)
    for note in notes:
        say(note)


def _differences(request: Recipe, recipe: Recipe, run: Run) -> list[str]:
    """The keys in which a request differs from this run's, both as requested and as resolved."""

    def keys(other: Recipe) -> list[str]:
        return [key for key in field_names(Recipe) if value_of(other, key) != value_of(request, key)]

    asked = run.recipe("request.json") if run.path("request.json").exists() else recipe
    differ = [] if not keys(recipe) else keys(asked)
    if not differ and run.finished("download"):
        from finetune.stages.download import external

        began, now = run.record("download").external, external(recipe)
        differ = [what for what in sorted({*began, *now}) if began.get(what) != now.get(what)]
    return differ


def _run_stage(
    run: Run,
    recipe: Recipe,
    stage: ModuleType,
    numbered: tuple[int, str, tuple[str, ...]],
    inputs: str,
    external: dict[str, str],
    machine: dict[str, str],
) -> None:
    number, name, outputs = numbered
    give_back_freed()
    reset_peak_memory()
    with timed() as seconds:
        result = stage.run(recipe, run)
        left = (
            stage.recorded(run)
            if hasattr(stage, "recorded")
            else sorted(path for pattern in outputs for path in run.directory.glob(pattern) if path.is_file())
        )
        run.finish(number, name, inputs, left, result, seconds(), external, machine)


def _summary(run: Run, recipe: Recipe, stages: Sequence[ModuleType]) -> None:
    """Print a finished run's result as a table, and the paths of its report and weights."""
    from finetune.tasks.base import task_of

    task, names = task_of(recipe), [stage_name(stage) for stage in stages]
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
    exported = run.path("export", "bundle" if run.path("export", "bundle").exists() else "hf")
    if exported.exists():
        say(f"{task.exported}: {exported}   (try: {program()} {task.next_command(run.directory)})")


@contextmanager
def _interrupts(run: Run) -> Iterator[None]:
    """Turn an interrupt into one that names the command to resume this run."""
    try:
        yield
    except (Interrupted, KeyboardInterrupt) as stop:
        command = f"{program()} {shlex.join(['run', str(run.path('recipe.json')), '--name', run.name])}"
        said = str(stop) or "interrupted; finished stages and saved files are intact"
        raise Interrupted(f"{said}. Resume with: {command}") from stop
