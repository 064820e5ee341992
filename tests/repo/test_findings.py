"""docs/findings.md and the list of checks hold the same codes, and the guide says of each what the list says."""

import ast
import re

import pytest

from finetune.tables.codes import BY_NAME, CHECKS, GUIDE


@pytest.fixture(scope="module")
def sections(root) -> dict[str, str]:
    """Each heading of the guide with what stands under it."""
    parts = re.split(r"^## (.+)\n", (root / GUIDE).read_text(encoding="utf-8"), flags=re.M)
    assert len(set(parts[1::2])) == len(parts[1::2])
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_every_code_has_its_paragraph_and_no_paragraph_lacks_a_code(sections):
    assert list(sections) == [f"{check.code} {check.name}" for check in CHECKS]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.code)
def test_a_paragraph_says_what_the_check_means_and_shows_two_lines(check, sections):
    paragraph, example = sections[f"{check.code} {check.name}"].strip().split("\n\n")
    text = " ".join(paragraph.split())
    assert text.startswith(check.meaning) and len(re.findall(r"[.;]( |$)", text)) >= 3
    assert ("cannot be muted" in text) == check.stops
    assert [line[:4] for line in example.splitlines()] == ["    "] * 2


def test_every_finding_of_the_package_is_of_a_listed_check(modules):
    made = [
        node.args[0]
        for tree in modules.values()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "Finding"
    ]
    names = {name.value for name in made if isinstance(name, ast.Constant)}
    assert len(names) > 20 and not names - set(BY_NAME), names - set(BY_NAME)
