"""Who may import whom: one direction through the package, no circles, the network in one place."""

import ast
import sys
from graphlib import CycleError, TopologicalSorter

# Left to right: a module may import from its own group and from those further down.
GROUPS = [
    {"__main__"},
    {"cli"},
    {"estimator", "api"},
    {"pipeline"},
    {"stages", "commands"},
    {"tasks"},
    {"training", "report", "export", "pictures"},
    {"checkpoints", "adapters", "tables", "evaluation", "hub"},
    {"models", "tokenizer"},
    {"run", "recipe", "config", "files", "console", "machine", "errors"},
    {""},  # finetune/__init__.py, which loads what it offers only when it is named
]
NETWORK = ("socket", "urllib.request", "http.client", "requests", "httpx", "huggingface_hub", "pooch")


def imported(tree: ast.Module, known=()) -> set[str]:
    """The dotted names a module imports, also inside functions; `known` tells modules from attributes."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide who imports whom"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                names.add(whole if whole in known or whole in NETWORK else node.module)
    return names


def group_of(module: str) -> int:
    part = (module.split(".") + [""])[1]
    found = [number for number, group in enumerate(GROUPS) if part in group]
    assert found, f"{module} has no place in GROUPS: decide who may import it"
    return found[0]


def under(name: str, *packages: str) -> bool:
    return any(name == package or name.startswith(package + ".") for package in packages)


def edges(modules):
    for module, tree in modules.items():
        for name in imported(tree, modules):
            if under(name, "finetune"):
                yield module, name


def test_imports_go_one_way(modules):
    wrong = [f"{module} imports {name}" for module, name in edges(modules)
             if group_of(name) < group_of(module)]
    assert len(modules) > 10 and not wrong, wrong


def test_every_import_names_a_module_that_exists(modules):
    missing = [f"{module} imports {name}" for module, name in edges(modules) if name not in modules]
    assert not missing, missing


def test_no_circle(modules):
    graph = {module: set() for module in modules}
    for module, name in edges(modules):
        graph[module].add(name)
    try:
        order = list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        order = error.args[1]
        raise AssertionError("modules import each other: " + " -> ".join(order)) from None
    assert len(order) >= len(modules)


def test_only_fetch_knows_the_network(modules):
    wrong = [f"{module} imports {name}" for module, tree in modules.items() if not under(module, "finetune.hub")
             for name in imported(tree) if under(name, *NETWORK)]
    assert not wrong, wrong


def test_reports_are_made_without_torch(modules):
    wrong = [module for module, tree in modules.items() if under(module, "finetune.report")
             for name in imported(tree) if under(name, "torch", "accelerate", "transformers")]
    assert not wrong, wrong


def test_adapters_know_only_torch_and_the_errors(modules):
    allowed = ("torch", "finetune.errors", "finetune.adapters", *sys.stdlib_module_names)
    wrong = [f"{module} imports {name}" for module, tree in modules.items()
             if under(module, "finetune.adapters")
             for name in imported(tree, modules) if not under(name, *allowed)]
    assert not wrong, wrong


def test_training_names_no_task(modules):
    wrong = [f"{module} imports {name}" for module, name in edges(modules)
             if under(module, "finetune.training") and under(name, "finetune.tasks")]
    assert not wrong, wrong


def test_pipelines_are_never_imported_and_start_fast(root):
    heavy = ("torch", "pandas", "sklearn", "scipy", "matplotlib", "transformers")
    paths = list((root / "pipelines").glob("*.py"))
    trees = {path.name: ast.parse(path.read_text(encoding="utf-8")) for path in paths}
    wrong = [f"{name} imports {module}" for name, tree in trees.items() for module in imported(tree)
             if under(module, *heavy)]
    assert trees and not wrong, wrong
