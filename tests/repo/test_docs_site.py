"""The site: its commands parse, its code prints what it says, and it loads nothing from elsewhere."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))
SLOW = {
    "lessons/12-classifier.md",
    "lessons/18-inverting-embeddings.md",
}  # pages whose code takes more than a few seconds


def module(name: str):
    """A script of docs/, loaded from its path."""
    spec = importlib.util.spec_from_file_location(f"docs_{name}", DOCS / f"{name}.py")
    found = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = found
    spec.loader.exec_module(found)
    return found


run_code = module("run_code")


def read(page: str) -> str:
    return (DOCS / page).read_text(encoding="utf-8")


def pages_with(pattern: re.Pattern) -> list:
    found = [
        page for page in PAGES if pattern.search(read(page)) and page != "deploying.md"
    ]  # it has a test of its own
    assert found
    return [pytest.param(page, marks=pytest.mark.slow) if page in SLOW else page for page in found]


@pytest.mark.parametrize("page", pages_with(run_code.PYTHON))
def test_code_of_a_page_prints_what_the_page_says(page):
    for ran in run_code.run_page(read(page)):
        assert ran.right(), f"docs/{page}:{ran.line}\n{ran.printed}"


@pytest.mark.parametrize("page", pages_with(run_code.CONSOLE))
def test_marked_commands_of_a_page_print_what_it_says(page):
    for ran in run_code.run_commands(read(page)):
        assert ran.right(), f"docs/{page}:{ran.line}\n{ran.printed}"


def test_comparison_of_outputs_sees_a_wrong_number_and_a_wrong_word():
    said = "loss 4.43, 8,192 tokens\n"
    assert run_code.same(said, "loss 4.44, 8,192 tokens\n")
    assert not run_code.same(said, "loss 4.93, 8,192 tokens\n")
    assert not run_code.same(said, "loss 4.43, 8,193 tokens\n")
    assert not run_code.same(said, "cost 4.43, 8,192 tokens\n")
    assert run_code.same("first\n...\nlast\n", "first\nany\nlines\nlast\n")
    assert not run_code.same("first\n...\nlast\n", "first\nany\nlines\n")
    trained = run_code.Ran("loss 0.20\n'a cat'\n", "loss 0.24\n'a dog'\n", 1, trained=True)
    assert trained.right() and not run_code.Ran("loss 0.20\n", "loss 0.24\n", 1).right()
    assert not run_code.Ran("loss 0.20\n", "loss 0.40\n", 1, trained=True).right()


def test_commands_of_the_pages_parse():
    """Every ``finetune ...`` in a block of sh or console goes through the real parser, settings through the recipe's."""
    from typer.main import get_command

    from finetune.cli import app
    from finetune.config import field_names
    from finetune.recipe import Recipe

    keys = set(field_names(Recipe))
    named, wrong = 0, []
    for page in PAGES:
        for block in re.findall(r"^```(?:sh|console)\n(.*?)^```", read(page), flags=re.M | re.S):
            for line in re.findall(r"^(?:\$ )?(finetune .*)$", block.replace("\\\n", ""), flags=re.M):
                named += 1
                words = run_code.split(line)[1:]
                command = get_command(app)
                try:
                    while getattr(command, "commands", None) and words and words[0] in command.commands:
                        command, words = command.commands[words[0]], words[1:]
                    context = command.make_context("finetune", list(words))
                except Exception as error:
                    wrong.append(f"{page}: {line}: {type(error).__name__}: {error}")
                    continue
                given = [value.partition("=")[0] for value in context.params.get("settings") or []]
                wrong += [f"{page}: {line}: no setting {key}" for key in given if key not in keys]
    assert named > 50 and not wrong, "\n".join(wrong)


def test_every_page_is_in_the_navigation():
    listed = re.findall(r"^ +- ([\w/-]+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), flags=re.M)
    assert sorted(listed) == PAGES


def test_reference_is_what_the_code_says():
    generate = module("generate")
    stale = [name for name, page in generate.PAGES.items() if read(f"reference/{name}") != generate.marked(page())]
    assert not stale, f"{stale}: run python docs/generate.py"


def test_recipes_of_the_domains_are_recipes(tmp_path):
    from finetune.pipeline import make_recipe

    blocks = re.findall(r"^```toml\n(.*?)^```", read("guides/domains.md"), flags=re.M | re.S)
    path = tmp_path / "mine.toml"
    for block in blocks:
        path.write_text(block, encoding="utf-8")
        assert make_recipe(str(path), []).data
    assert len(blocks) >= 4


def test_messages_of_the_troubleshooting_page_exist(modules):
    import ast

    text = " ".join(
        node.value
        for tree in modules.values()
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    )
    page = read("guides/troubleshooting.md")
    cells = [cell for line in re.findall(r"^\| (`.*?) \|", page, flags=re.M) for cell in re.findall(r"`([^`]+)`", line)]
    quoted = [
        words for words in re.findall(r"`([a-z][^`]* [^`]*)`", page) if not re.match(r"(finetune|hf|make) |\S+=", words)
    ]
    messages = [re.sub(r" N$", "", words) for words in {*cells, *quoted}]
    missing = [words for words in messages if words not in text]
    assert len(messages) > 10 and not missing, missing


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The built site."""
    if importlib.util.find_spec("mkdocs") is None:
        pytest.skip("mkdocs is not installed: pip install -e .[docs]")
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and "WARNING" not in done.stderr, done.stderr
    return folder


def test_site_loads_nothing_from_another_host(site):
    loads = re.compile(r"<(?:script|img|iframe|source|link)\b[^>]*?(?:src|href)=[\"']?((?:https?:)?//[^\"'\s>]+)")
    styles = re.compile(r"(?:url\(|@import )[\"']?((?:https?:)?//[^\"')\s]+)")
    pages = list(site.rglob("*.html"))
    found = {found for page in pages for found in loads.findall(page.read_text(encoding="utf-8"))}
    found |= {found for sheet in site.rglob("*.css") for found in styles.findall(sheet.read_text(encoding="utf-8"))}
    drawn = [page.name for page in pages if 'class="mermaid"' in page.read_text(encoding="utf-8")]
    assert len(pages) >= len(PAGES) and not found and not drawn, (found, drawn)


def test_site_has_the_docstrings_of_the_python_api(site):
    page = (site / "reference" / "python.html").read_text(encoding="utf-8")
    assert 'id="finetune.TextClassifier"' in page and 'id="finetune.models.gpt.GPT"' in page


def test_pictures_come_from_the_script(tmp_path):
    script = module("draw_pictures")
    made = {name for names in script.DRAWN.values() for name in names} | set(script.PLOTTED)
    assert made == {path.stem for path in (DOCS / "pictures").iterdir()}
    script.draw_into(tmp_path, ["masks", "lora", "classifier"])
    drawn = {path.name: path.read_text(encoding="utf-8") for path in tmp_path.iterdir()}
    assert set(drawn) == {"masks-causal.svg", "lora.svg", "classifier.svg"}
    assert all(text.lstrip().startswith("<") and "</svg>" in text for text in drawn.values())


def test_pictures_of_the_docs_are_small_and_used():
    pictures = [path for path in DOCS.rglob("*") if path.suffix in (".png", ".svg")]
    text = "".join(map(read, PAGES)) + (ROOT / "README.md").read_text(encoding="utf-8")
    unused = [path.name for path in pictures if path.name not in text]
    assert pictures and not unused and sum(path.stat().st_size for path in pictures) < 2_000_000, unused
