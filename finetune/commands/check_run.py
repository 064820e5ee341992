"""The command ``doctor RUN``: whether a run's files are intact."""

from collections.abc import Iterator
from pathlib import Path

from finetune.commands.doctor import Check
from finetune.errors import FinetuneError, listed
from finetune.files import damage, is_leftover, read_json
from finetune.records import BestStep
from finetune.run import Run, read_record


def examine_run(directory: Path) -> list[Check]:
    """The checks of a run: links, recipe, every stage's files by hash, checkpoints, exports, leftovers."""
    run = Run.at(directory)
    return [*_recipe(run), *_stages(run), *_checkpoints(run), *_exports(run), _leftovers(run), _next(run)]


def _recipe(run: Run) -> Iterator[Check]:
    for name in ("recipe.json", "request.json"):
        try:
            run.recipe(name)
            yield name, "can be read", True
        except FinetuneError as error:
            yield name, str(error), False


def _stages(run: Run) -> Iterator[Check]:
    for path in sorted(run.path("stages").glob("[0-9]*-*.json")):
        try:
            record = read_record(path)
        except FinetuneError as error:
            yield path.stem, str(error), False
            continue
        changed = run.changed(record)
        count = len(record.outputs)
        yield (
            path.stem,
            listed(changed) if changed else f"{count} files as recorded" if count else "finished",
            not changed,
        )


def _checkpoints(run: Run) -> Iterator[Check]:
    root = run.path("checkpoints")
    for step in sorted(root.glob("step-*")):
        why = damage(step)
        yield step.name, why or "as written", not why
    best = root / "best.json"
    if best.is_file():
        try:
            step = root / f"step-{BestStep.from_json(read_json(best), best).step:08d}"
            yield "best.json", f"names {step.name}" + ("" if step.is_dir() else ", which is missing"), step.is_dir()
        except FinetuneError as error:
            yield "best.json", str(error), False


def _exports(run: Run) -> Iterator[Check]:
    for export in sorted(path for path in run.path("export").glob("*") if path.is_dir() and path.name[0] != "."):
        why = damage(export)
        yield f"export/{export.name}", why or "as written", not why


def _leftovers(run: Run) -> Check:
    found = [path for path in run.entries() if is_leftover(path)]
    sizes = [file.stat().st_size for path in found for file in (path, *path.rglob("*")) if file.is_file()]
    said = f"{len(found)}, {sum(sizes) / 1e6:,.1f} MB; the next command that writes into the run deletes them"
    return "leftovers of killed processes", said if found else "none", None


def _next(run: Run) -> Check:
    """The command that finishes a run and repairs what is damaged in it."""
    return "to finish or repair it", f"finetune run {run.path('recipe.json')} --name {run.name}", None
