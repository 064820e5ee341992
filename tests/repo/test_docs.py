"""The pages and the help cannot name a command, an option, a target or a file that does not exist."""

import ast
import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    "README.md",
    "CONTRIBUTING.md",
    "pipelines/README.md",
    "data/README.md",
    "weights/README.md",
    "benchmarks/README.md",
    *sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md")),
]


def code_lines(text: str) -> list[str]:
    """The lines of fenced blocks and the spans between backticks, with continued lines joined."""
    fenced = re.findall(r"^ *```[^\n]*\n(.*?)^ *```", text, flags=re.M | re.S)
    prose = re.sub(r"^ *```.*?^ *```", "", text, flags=re.M | re.S)
    indented = [line.strip() for line in prose.splitlines() if line.startswith("    ")]
    spans = re.findall(r"`([^`\n]+)`", prose)
    blocks = [line for block in fenced for line in block.replace("\\\n", " ").splitlines()]
    return blocks + indented + spans


def words_after(command: str, line: str) -> list[list[str]]:
    """What follows each call of `command` in a line of code, comments and other commands cut off."""
    call = rf"(?:^|(?<!--rdzv-id)[\s;&|$(])(?:\S*bin/)?{command}((?: [^\n;&|)#]*)?)(?=$|[;&|)#])"
    found = []
    for rest in re.findall(call, line):
        try:
            found.append(shlex.split(rest))
        except ValueError:
            found.append(rest.split())
    return found


@pytest.fixture(scope="module")
def lines(root):
    return {page: code_lines((root / page).read_text(encoding="utf-8")) for page in PAGES}


@pytest.fixture(scope="module")
def commands():
    """The command line's tree: each command as words, with the set of its options."""
    from typer.main import get_command

    from finetune.cli import app

    found = {}

    def visit(command, path):
        found[path] = {
            option for parameter in command.params for option in [*parameter.opts, *parameter.secondary_opts]
        }
        for name, child in getattr(command, "commands", {}).items():
            visit(child, (*path, name))

    visit(get_command(app), ())
    return found


def problems_of(words: list[str], commands: dict) -> list[str]:
    """What is wrong with ``finetune WORDS``."""
    path = ()
    for word in words:
        if (*path, word) not in commands:
            break
        path = (*path, word)
    groups = {known[:-1] for known in commands if known}
    rest = words[len(path) :]
    if path in groups and rest and re.fullmatch(r"[a-z][a-z-]*", rest[0]):
        return [f"no command {' '.join((*path, rest[0]))!r}"]
    options = [word.partition("=")[0] for word in rest if re.match(r"--?[a-zA-Z]", word)]
    return [
        f"{' '.join(path) or 'finetune'} has no option {option}"
        for option in options
        if option not in commands[path] | {"--help"}
    ]


def test_commands_of_the_pages_exist(lines, commands):
    named, wrong = 0, []
    for page, code in lines.items():
        for line in code:
            for words in words_after("finetune", line):
                named += 1
                wrong += [f"{page}: {line.strip()}: {problem}" for problem in problems_of(words, commands)]
    assert named >= 3 and not wrong, wrong


def test_commands_of_the_messages_exist(modules, commands):
    first = "|".join(sorted({path[0] for path in commands if path}))
    named, wrong = 0, []
    for module, tree in modules.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.JoinedStr):
                text = "".join(part.value if isinstance(part, ast.Constant) else "X" for part in node.values)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                text = node.value
            else:
                continue
            for line in re.findall(rf"finetune ((?:{first})\b[^\n`;,()]*)", text):
                named += 1
                words = [word.rstrip(".") for word in line.split()]
                wrong += [f"{module}: {line}: {problem}" for problem in problems_of(words, commands)]
                if "recipe.json" in line and "--name" not in words:
                    wrong.append(f"{module}: {line}: without --name another run begins")
    assert named >= 10 and not wrong, wrong


def test_targets_of_the_pages_exist(root, lines):
    makefile = (root / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z0-9-]+):", makefile, flags=re.M))
    variables = {"PYTHON", "CSV", "TEXT", "DATA", "WEIGHTS", "METHOD", "NAME", "ARGS"}
    named, wrong = 0, []
    for page, code in lines.items():
        for line in code:
            for words in words_after("make", line):
                named += 1
                unknown = [
                    word
                    for word in words
                    if not word.startswith("-") and word not in targets and word.partition("=")[0] not in variables
                ]
                wrong += [f"{page}: {line.strip()}: {word}" for word in unknown]
    assert named >= 2 and not wrong, wrong


def test_help_names_every_target_once(root):
    makefile = (root / "Makefile").read_text(encoding="utf-8")
    phony = set(re.search(r"^\.PHONY: (.*)", makefile, flags=re.M)[1].split()) - {"setup", "setup-dev"}
    documented = re.findall(r"^([a-z0-9-]+):.*## \w", makefile, flags=re.M)
    assert sorted(documented) == sorted(phony)


def test_links_of_the_pages_lead_to_files_and_headings(root):
    links, wrong = 0, []
    for page in PAGES:
        text = (root / page).read_text(encoding="utf-8")
        prose = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
        for target, heading in re.findall(r"\]\(([^)#\s]*)(?:#([^)\s]+))?\)", prose):
            if re.match(r"\w+:", target):
                continue
            links += 1
            path = (root / page).parent / target if target else root / page
            if not path.exists():
                wrong.append(f"{page}: {target}")
            elif heading and heading not in headings(path):
                wrong.append(f"{page}: {target}#{heading}")
    assert links > 300 and not wrong, wrong


def headings(path: Path) -> set[str]:
    """The anchors of a page's headings, as the site and repositories' web pages make them."""
    found = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), flags=re.M)
    return {re.sub(r"[\s]+", "-", re.sub(r"[^\w\s-]", "", heading.lower()).strip()) for heading in found}


def test_pipelines_page_lists_every_pipeline(root):
    text = (root / "pipelines" / "README.md").read_text(encoding="utf-8")
    names = [path.stem.replace("_", "-") for path in (root / "pipelines").glob("*.py")]
    missing = [name for name in names if f"`{name}`" not in text]
    assert names and not missing, missing


def test_examples_of_contributing_are_lines_of_the_code(root, files):
    code = {
        line.strip()
        for name in files
        if name.endswith(".py")
        for line in (root / name).read_text(encoding="utf-8").splitlines()
    }
    text = (root / "CONTRIBUTING.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^ *```python\n(.*?)^ *```", text, flags=re.M | re.S)
    wrong = [line for block in blocks for line in block.splitlines() if line.strip() not in code | {""}]
    assert len(blocks) >= 5 and not wrong, wrong
