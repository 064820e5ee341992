"""Build a run's report from the run's files: report/index.html and report/report.md."""

import csv
import heapq
import json
import math
import re
import shlex
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from finetune.console import clean
from finetune.errors import RunError
from finetune.files import atomic_write, read_json
from finetune.report import provenance
from finetune.report.page import Files
from finetune.tables.cells import undefuse

_ERRORS = 30
_TEXT_LIMIT = 300  # characters of a text in the list of errors
_LOG_POINTS = 600  # points of a training curve; longer logs are averaged


def build_report(run_dir: Path, pages: Mapping[str, Callable[[Files], dict]]) -> Path:
    """Write report/index.html and report/report.md and return the path of the former.

    pages: for each task that eval.json may name what stands on its page (see ``page.make_page``).
    Reads recipe.json and eval.json, or comparison.json; predictions.csv, attention.json, data/card.json, train.jsonl
    and stages/*.json where they are. RunError if one of them is missing, damaged or not what a run writes.
    """
    run_dir = Path(run_dir)
    measured = next((run_dir / name for name in ("eval.json", "comparison.json") if (run_dir / name).is_file()), None)
    if measured is None:
        raise RunError(f"{run_dir}: no eval.json, so there is nothing to report yet",
                       do=f"Run: {_command(run_dir)}")
    recipe, evaluation = read_json(run_dir / "recipe.json"), read_json(measured)
    card, attention = (read_json(path) if path.is_file() else empty for path, empty in (
        (run_dir / "data" / "card.json", {}), (run_dir / "attention.json", [])))
    stages = [read_json(path) for path in sorted((run_dir / "stages").glob("*.json"))]
    try:
        page = pages[evaluation.get("task", "classify")](
            Files(run_dir.resolve().name, recipe, evaluation, card, stages, read_training_log(run_dir / "train.jsonl"),
                  read_errors(run_dir / "predictions.csv"), attention))
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise RunError(f"{run_dir}: its files are not what a run of this version writes",
                       got=f"{type(error).__name__}: {error}",
                       do=f"Build {measured.name} again: {_command(run_dir)} --from "
                       + ("evaluate" if measured.name == "eval.json" else evaluation.get("task"))) from error
    for template, name in (("template.md.jinja", "report.md"), ("template.html.jinja", "index.html")):
        text = render(template, page)
        with atomic_write(run_dir / "report" / name) as file:
            file.write(text)
    return run_dir / "report" / "index.html"


def _command(run_dir: Path) -> str:
    """What to type to go on with this run; without its name another run would begin."""
    return shlex.join(["finetune", "run", str(run_dir / "recipe.json"), "--name", run_dir.resolve().name])


def read_errors(path: Path, limit: int = _ERRORS) -> dict | None:
    """{"total", "wrong", "rows"} of predictions.csv: the wrong rows with the highest probability.

    Memory does not grow with the file. None where there is no file.
    """
    if not path.is_file():
        return None
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    total = wrong = 0
    kept: list = []
    try:
        with open(path, encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file, strict=True):
                total += 1
                if row["label"] == row["predicted"]:
                    continue
                wrong += 1
                heapq.heappush(kept, (float(row["probability"]), -total, {
                    "row": row["row"], "text": _shorten(undefuse(row["text"])),
                    "label": undefuse(row["label"]), "predicted": undefuse(row["predicted"]),
                    "probability": float(row["probability"])}))
                if len(kept) > limit:
                    heapq.heappop(kept)
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise RunError(f"cannot read {path}", got=f"{type(error).__name__}: {error}") from error
    return {"total": total, "wrong": wrong, "rows": [row for *_, row in sorted(kept, reverse=True)]}


def _shorten(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _TEXT_LIMIT else text[:_TEXT_LIMIT - 1] + "\N{HORIZONTAL ELLIPSIS}"


def read_training_log(path: Path) -> dict:
    """The curves of train.jsonl: steps, losses, rate_steps, rates, and validation (a list of points).

    A line that a killed run left half-written is passed over; of a step done twice the later line counts.
    """
    steps, rates, points = {}, {}, {}
    if path.is_file():
        with open(path, encoding="utf-8", errors="replace") as file:
            for text in file:
                try:
                    line = json.loads(text)
                    step = int(line["step"])
                except (ValueError, KeyError, TypeError, RecursionError):
                    continue
                if "validation" in line:
                    values = line["validation"] or {}
                    points[step] = {"step": step, "epoch": line.get("epoch"), "best": bool(line.get("best")),
                                    **{name: _number(values.get(name)) for name in provenance.VALIDATION}}
                else:
                    if (loss := _number(line.get("loss"))) is not None:
                        steps[step] = loss
                    if (rate := _number(line.get("lr"))) is not None:
                        rates[step] = rate
    where, losses = _thin(sorted(steps.items()))
    rate_steps, rate_values = _thin(sorted(rates.items()))
    return {"steps": where, "losses": losses, "rate_steps": rate_steps, "rates": rate_values,
            "validation": [points[step] for step in sorted(points)]}


def _number(value) -> float | None:
    """A finite number, or None."""
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None


def _thin(pairs: list[tuple[int, float]]) -> tuple[list[float], list[float]]:
    """Steps and values, averaged over equal stretches where there are too many to draw."""
    width = -(-len(pairs) // _LOG_POINTS) or 1
    stretches = [pairs[start:start + width] for start in range(0, len(pairs), width)]
    return ([sum(step for step, _ in stretch) / len(stretch) for stretch in stretches],
            [sum(value for _, value in stretch) / len(stretch) for stretch in stretches])


def render(template: str, page: dict) -> str:
    """A template filled in; all text from data is escaped for its format."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True,
                              lstrip_blocks=True, undefined=StrictUndefined, keep_trailing_newline=True,
                              finalize=_markdown if ".md." in template else _plain)
    environment.filters |= {"code_lines": _code_lines, "breakable": _breakable}
    return environment.get_template(template).render(**page)


def _plain(value):
    """Text without control characters and without halves of surrogate pairs; escaping follows."""
    if not isinstance(value, str) or hasattr(value, "__html__"):
        return value
    return clean(value.replace("\r\n", "\n").encode("utf-8", "replace").decode())


def _breakable(text: str):
    """Escaped text that a narrow cell breaks after the dots, slashes and underscores of a name, not within a word."""
    from markupsafe import Markup, escape

    return Markup(re.sub(r"(?<=\w)([._/])(?=[^\W\d])", r"\1<wbr>", str(escape(_plain(text)))))


def _markdown(value):
    """Text that Markdown shows as it is: no HTML, no emphasis, no links, no end of a table cell."""
    from markupsafe import Markup

    value = _plain(value)
    if not isinstance(value, str) or hasattr(value, "__html__"):
        return value
    for character in "\\`*_[]#|~!":
        value = value.replace(character, "\\" + character)
    value = value.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return Markup(" ".join(value.split("\n")))


def _code_lines(text: str):
    """Text as an indented code block, which nothing inside it can end."""
    from markupsafe import Markup

    return Markup("\n".join("    " + line for line in _plain(text).splitlines()))
