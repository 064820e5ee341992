"""Build a run's report from the run's files: report/index.html and report/report.md."""

import base64
import hashlib
import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from finetune.console import clean, escape_markdown
from finetune.errors import RunError
from finetune.evaluation.explanations import Explanations
from finetune.evaluation.label_audit import LabelAudit
from finetune.evaluation.results import Measured
from finetune.files import atomic_write, read_json
from finetune.records import Record, StageRecord, TrainResult
from finetune.report.blocks import PageContent, flatten
from finetune.report.inputs import AttentionMap, read_errors, read_training_log
from finetune.report.page import C, E, Files, Page

if TYPE_CHECKING:
    from markupsafe import Markup

_HERE = Path(__file__).parent
AnyRecord = TypeVar("AnyRecord", bound=Record)


def build_report(run_dir: Path, pages: Mapping[str, Page]) -> Path:
    """Write report/index.html and report/report.md and return the path of the former.

    pages: for each task that eval.json or comparison.json may name, how to parse its files and build its page.
    Reads recipe.json and eval.json or comparison.json, and if they exist predictions.csv, attention.json, explanations.json,
    label_audit.json, data/card.json, train.jsonl and stages/*.json. Raises RunError if a file is missing or damaged.
    """
    run_dir = Path(run_dir)
    measured = next((run_dir / name for name in ("eval.json", "comparison.json") if (run_dir / name).is_file()), None)
    if measured is None:
        raise RunError(f"{run_dir}: no eval.json, so there is nothing to report yet", do=f"Run: {_command(run_dir)}")
    again = f"Write it again: {_command(run_dir)}" + (" --from evaluate" if measured.name == "eval.json" else "")
    task = _parse(Measured, measured, again).task
    if task not in pages:
        raise RunError(
            f"{measured}: not in this version's format", got=f"task {task!r}", known=", ".join(pages), do=again
        )
    files = _read(run_dir, pages[task], measured, "evaluate" if measured.name == "eval.json" else task)
    page = pages[task].make(files)
    for template, name in (("template.md.jinja", "report.md"), ("template.html.jinja", "index.html")):
        text = render(template, page)
        with atomic_write(run_dir / "report" / name) as file:
            file.write(text)
    return run_dir / "report" / "index.html"


def _read(run_dir: Path, page: Page[E, C], measured: Path, stage: str) -> Files[E, C]:
    """Every file of a run, parsed. stage: the stage that wrote the results."""

    def again(stage: str) -> str:
        return f"Write it again: {_command(run_dir)} --from {stage}"

    recipe = read_json(run_dir / "recipe.json")
    if not isinstance(recipe, dict):
        raise RunError(f"{run_dir / 'recipe.json'}: not in this version's format", got=json.dumps(recipe)[:80])
    card, attention = run_dir / "data" / "card.json", run_dir / "attention.json"
    audit = run_dir / "label_audit.json"
    stages, train = [], None
    for path in sorted((run_dir / "stages").glob("*.json")):
        name = path.stem.partition("-")[2]
        stages.append(_parse(StageRecord, path, again(name)))
        if stages[-1].stage == "train":
            train = _parse(TrainResult, path, again(name), stages[-1].result)
            train = replace(train, seconds=max(train.seconds, stages[-1].seconds))
    maps = read_json(attention) if attention.is_file() else []
    if not isinstance(maps, list):
        raise RunError(f"{attention}: not in this version's format", got=json.dumps(maps)[:80], do=again("evaluate"))
    explained = run_dir / "explanations.json"
    return Files(
        name=run_dir.resolve().name,
        recipe=dict(flatten(recipe)),
        evaluation=_parse(page.evaluation, measured, again(stage)),
        card=_parse(page.card, card, again("prepare")) if card.is_file() else None,
        stages=stages,
        train=train,
        log=read_training_log(run_dir / "train.jsonl"),
        wrong=read_errors(run_dir / "predictions.csv"),
        attention=[_parse(AttentionMap, attention, again("evaluate"), value) for value in maps],
        explanations=_parse(Explanations, explained, again("evaluate")) if explained.is_file() else None,
        labels=_parse(LabelAudit, audit, again("audit")) if audit.is_file() else None,
    )


def _parse(kind: type[AnyRecord], path: Path, again: str, value: Any = ...) -> AnyRecord:
    """Parse a file, or a part of it that was read already. again: the command that writes the file again."""
    try:
        return kind.from_json(read_json(path) if value is ... else value, path)
    except RunError as error:
        raise RunError(error.what, got=error.got, known=error.known, do=again) from error


def _command(run_dir: Path) -> str:
    """The command that continues this run; without --name it would start another run."""
    return shlex.join(["finetune", "run", str(run_dir / "recipe.json"), "--name", run_dir.resolve().name])


def render(template: str, page: PageContent) -> str:
    """Fill in a template; all text from data is escaped for the template's format."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    script = (_HERE / "page.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    environment = Environment(
        loader=FileSystemLoader(_HERE),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        finalize=_markdown if ".md." in template else _plain,
    )
    environment.filters |= {"code_lines": _code_lines, "breakable": _breakable}
    return environment.get_template(template).render(
        vars(page) | {"script": Markup(script), "script_hash": f"sha256-{digest}"}
    )


def _plain(value: object) -> object:
    """Text without control characters and lone surrogates; it is escaped later."""
    if not isinstance(value, str) or hasattr(value, "__html__"):
        return value
    return clean(value.replace("\r\n", "\n").encode("utf-8", "replace").decode())


def _breakable(text: str) -> "Markup":
    """Escaped text that a narrow cell may break after dots, slashes and underscores, but not within a word."""
    from markupsafe import Markup, escape

    return Markup(re.sub(r"(?<=\w)([._/])(?=[^\W\d])", r"\1<wbr>", str(escape(_plain(text)))))


def _markdown(value: object) -> object:
    """Text that Markdown shows as it is."""
    from markupsafe import Markup

    value = _plain(value)
    return Markup(escape_markdown(value)) if isinstance(value, str) and not hasattr(value, "__html__") else value


def _code_lines(text: str) -> "Markup":
    """Text as an indented code block, which its content cannot close."""
    from markupsafe import Markup

    return Markup("\n".join("    " + line for line in str(_plain(text)).splitlines()))
