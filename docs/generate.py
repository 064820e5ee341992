"""Write the pages of the reference that follow from the code: python docs/generate.py [--check]

Commands come from the command line's tree, settings from the recipe's schema, finding codes from the list of checks, and
the fields of a run's files from the records that write them. --check changes nothing and exits with 1 if a page is out
of date; tests/repo/test_docs_site.py does the same.
"""

import dataclasses
import inspect
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from typer.main import get_command

from finetune.cli import app
from finetune.config import Settings
from finetune.evaluation.aims import Decision
from finetune.evaluation.results import Difference, Headline, Metric, StartWeights
from finetune.evaluation.written import WrittenEvaluation
from finetune.recipe import Recipe, RunSettings, task_settings
from finetune.records import Record
from finetune.stages import train
from finetune.tables.codes import CHECKS
from finetune.tasks import TASKS
from finetune.tasks.classify.many.score import ManyEvaluation
from finetune.tasks.classify.score import Baseline, ClassifierEvaluation
from finetune.tasks.instruct.score import AnswersEvaluation
from finetune.tasks.pretrain.results import LanguageEvaluation
from finetune.tasks.seq2seq.score import TargetsEvaluation
from finetune.tasks.tag.score import TagEvaluation

REFERENCE = Path(__file__).resolve().parent / "reference"


def cell(text: object) -> str:
    """Text for a cell of a table: one line, and nothing that ends the cell or reads as a tag."""
    return " ".join(str(text).split()).replace("|", "\\|").replace("<", "&lt;")


def marked(page: str) -> str:
    """The page with a remark below its title that says how it is made."""
    title, rest = page.split("\n", 1)
    return f"{title}\n\n<!-- Made by docs/generate.py: change the code, then run it again. -->\n{rest}"


def table(head: tuple[str, ...], rows: list[tuple[object, ...]]) -> str:
    """A table in Markdown."""
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(cell(value) for value in line) + " |" for line in lines) + "\n"


def sentence(text: str) -> str:
    """The first paragraph of a docstring as one line."""
    return " ".join(inspect.cleandoc(text or "").split("\n\n")[0].split())


def commands() -> str:
    """Every command with its arguments and options."""
    parts = [
        "# Commands\n",
        "All commands, as `finetune COMMAND --help` describes them. Exit status: 0 done; 2 an error that you can fix, and the "
        "message says how; 130 interrupted, with the state saved; 1 a bug of ours.\n",
    ]
    for path, command in walk(get_command(app), ()):
        usage = " ".join(("finetune", *path, *usage_of(command)))
        parts += [f"## finetune {' '.join(path)}\n", f"{sentence(command.help or '')}\n", f"    {usage}\n"]
        hints = get_type_hints(command.callback)
        rows = [
            (f"`{name_of(parameter, hints)}`", getattr(parameter, "help", None) or "", default_of(parameter))
            for parameter in command.params
            if not getattr(parameter, "hidden", False) and parameter.name != "help"
        ]
        if rows:
            parts.append(table(("argument or option", "what it does", "default"), rows))
    return "\n".join(parts)


def walk(command: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """The commands below a group, in their order."""
    for name, child in getattr(command, "commands", {}).items():
        if getattr(child, "callback", None) and (not getattr(child, "commands", None) or child.invoke_without_command):
            yield (*path, name), child
        yield from walk(child, (*path, name))


def is_argument(parameter: Any) -> bool:
    """Whether it is given by its place and not by a name."""
    return not parameter.opts[0].startswith("-")


def usage_of(command: Any) -> list[str]:
    """The words after the command's name."""
    shown = {p.name: f"{name_of(p, {})}{' ...' if p.nargs == -1 else ''}" for p in command.params if is_argument(p)}
    words = [shown[p.name] if p.required else f"[{shown[p.name]}]" for p in command.params if is_argument(p)]
    return [*words, "[OPTIONS]"] if len(words) < len(command.params) else words


def name_of(parameter: Any, hints: dict[str, Any]) -> str:
    """``DATA``, or ``--top-k INT``. hints: the types of the function's parameters."""
    if is_argument(parameter):
        return parameter.metavar or parameter.name.upper()
    names = ", ".join([*parameter.opts, *parameter.secondary_opts])
    if parameter.is_flag:
        return names
    words = {int: "INT", float: "NUMBER"}
    kind = next(
        (words[part] for part in get_args(hints.get(parameter.name)) or [hints.get(parameter.name)] if part in words),
        "TEXT",
    )
    return f"{names} {parameter.metavar or kind}"


def default_of(parameter: Any) -> str:
    """The default as text; nothing for none."""
    value = parameter.default
    if callable(value) or value in (None, False, (), []) or type(value).__name__ == "Sentinel":
        return ""
    return f"`{value}`"


def settings() -> str:
    """Every setting with its type, default and meaning, and which tasks read it."""
    parts = [
        "# Settings\n",
        "Every setting of a recipe. Give one with `--set KEY=VALUE`, or write it into a TOML file (`finetune cp PIPELINE FILE` "
        "writes one with all of them). `finetune show PIPELINE` prints them as that pipeline sets them. A setting that a run "
        "would not use is an error.\n",
        "## Of the run\n",
        table(HEAD, [row for row in rows_of(RunSettings, "") if row]),
    ]
    for name, field in Recipe.model_fields.items():
        section = field.annotation
        if isinstance(section, type) and issubclass(section, Settings):
            readers = ["every task"] if has_key_of(train.READS, name) else [task for task in TASKS if reads(task, name)]
            note = f" Read by: {', '.join(readers)}." if readers and name not in TASKS else ""
            parts += [
                f"## {name}\n",
                f"{sentence(section.__doc__ or '')}{note}\n",
                table(HEAD, rows_of(section, f"{name}.")),
            ]
    return "\n".join(parts)


HEAD = ("key", "values", "default", "what it is")


def reads(task: str, section: str) -> bool:
    """Whether a task's stages read a key of this section themselves."""
    return has_key_of([key for keys in task_settings(task).READS.values() for key in keys], section)


def has_key_of(keys: Iterable[str], section: str) -> bool:
    """Whether one of the keys is the section or in it."""
    return any(key == section or key.startswith(f"{section}.") for key in keys)


def rows_of(schema: type[Settings], prefix: str) -> list[tuple[object, ...]]:
    """One row a field; sections are left to their own tables."""
    return [
        (f"`{prefix}{name}`", values_of(field), default_value(field.default), field.description or "")
        for name, field in schema.model_fields.items()
        if not (isinstance(field.annotation, type) and issubclass(field.annotation, Settings))
    ]


def values_of(field: Any) -> str:
    """The type in a reader's words, with its limits."""
    return ", ".join([kind_of(field.annotation), *limits(field.metadata)])


def limits(rules: Iterable[Any]) -> list[str]:
    """The limits of a number, in words."""
    return [
        f"{words} {getattr(rule, name)}"
        for rule in rules
        for name, words in (("ge", "at least"), ("gt", "above"), ("le", "at most"), ("lt", "below"))
        if getattr(rule, name, None) is not None
    ]


KINDS = {str: "text", int: "integer", float: "number", bool: "true or false", type(None): ""}


def kind_of(annotation: Any) -> str:
    """``int | None`` as "integer"."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " · ".join(f"`{value}`" for value in inner)
    if origin is Annotated:
        return ", ".join([kind_of(inner[0]), *limits(inner[1].metadata)])
    if origin in (Union, UnionType):
        return " or ".join(filter(None, map(kind_of, inner)))
    if origin is tuple:
        return f"list of {kind_of(inner[0])}"
    if origin is dict:
        return f"table of {kind_of(inner[1])}"
    return KINDS.get(annotation, getattr(annotation, "__name__", str(annotation)))


def default_value(value: object) -> str:
    """As TOML writes it; nothing for a default that depends on the run."""
    if value is None or value == "":
        return ""
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, tuple):
        return f"`{list(value)}`"
    return f"`{value}`"


def codes() -> str:
    """Every finding code with its meaning."""
    rows = [
        (
            f"[{check.code}](../findings.md#{check.code.lower()}-{check.name})",
            f"`{check.name}`",
            check.meaning,
            "stops training" if check.stops else "",
        )
        for check in CHECKS
    ]
    return (
        "# Finding codes\n\nEach code links to what it means, what to do, and two lines that cause it. A finding that "
        "does not stop training can be muted with `--ignore CODE`.\n\n" + table(("code", "name", "meaning", ""), rows)
    )


SHARED = (Metric, Headline, StartWeights, Difference)
EVALUATIONS = (
    ("classify", ClassifierEvaluation, (Baseline, Decision)),
    ("classify, several labels per row", ManyEvaluation, ()),
    ("instruct and seq2seq", WrittenEvaluation, ()),
    ("instruct", AnswersEvaluation, ()),
    ("seq2seq", TargetsEvaluation, ()),
    ("tag", TagEvaluation, ()),
    ("pretrain", LanguageEvaluation, ()),
)


def schema() -> str:
    """The fields of eval.json, task by task."""
    first = EVALUATIONS[0][1]
    base = next(kind for kind in first.__mro__ if kind.__name__ == "Evaluation")
    parts = [
        "# eval.json\n",
        "The file that `evaluate` writes, for other programs. A field at its default value is left out. Metrics are named as in "
        "scikit-learn; an undefined one has `null` as its value and says the reason.\n",
        "## Every task\n",
        fields(base, ()),
    ]
    parts += [f"### {kind.__name__}\n\n{sentence(kind.__doc__ or '')}\n\n{fields(kind, ())}" for kind in SHARED]
    for task, kind, more in EVALUATIONS:
        known = (base, WrittenEvaluation) if kind is not WrittenEvaluation else (base,)
        parts.append(f"## Of {task}\n\n{sentence(kind.__doc__ or '')}\n\n{fields(kind, known)}")
        parts += [f"### {part.__name__}\n\n{sentence(part.__doc__ or '')}\n\n{fields(part, ())}" for part in more]
    return "\n".join(parts)


def fields(kind: type[Record], without: tuple[type, ...]) -> str:
    """A record's fields with their types and the comments beside them in the source."""
    known = {field.name for other in without for field in dataclasses.fields(other)}
    notes = {
        name: note for base in reversed(kind.__mro__) if base is not object for name, note in comments(base).items()
    }
    rows = [
        (f"`{field.name}`", f"`{type_text(field.type)}`", notes.get(field.name, ""))
        for field in dataclasses.fields(kind)
        if field.name not in known
    ]
    return table(("field", "type", ""), rows)


def type_text(kind: Any) -> str:
    """``dict[str, Metric]``, without modules."""
    text = (
        kind if isinstance(kind, str) else kind.__name__ if isinstance(kind, type) and not get_args(kind) else str(kind)
    )
    return re.sub(r"\b[a-z_]+\.(?:[a-z_]+\.)*", "", text)


def comments(kind: type) -> dict[str, str]:
    """The comment on a field's line."""
    found = re.findall(r"^    (\w+): [^#\n]*#\s*(.+)$", inspect.getsource(kind), flags=re.M)
    return dict(found)


PAGES = {"commands.md": commands, "settings.md": settings, "finding-codes.md": codes, "eval-json.md": schema}


def main() -> int:
    """Write the pages, or say which are out of date."""
    stale = []
    for name, page in PAGES.items():
        path, text = REFERENCE / name, marked(page())
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            stale.append(name)
            if "--check" not in sys.argv[1:]:
                path.write_text(text, encoding="utf-8")
    print("\n".join(stale) or "nothing changed")
    return int(bool(stale) and "--check" in sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
