"""Who may import whom: from left to right alone, and within a group only the neighbours that are named here."""

import ast
import re
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter

# A module may import from the groups below its own; of its own group what NEIGHBOURS says.
GROUPS = [
    ["__main__"],
    ["cli", "api", "estimator", "serve"],
    ["execution"],
    ["pipeline"],
    ["stages", "commands"],
    ["a comparison"],  # the folders in comparisons/
    ["comparisons.results"],
    ["a task"],  # the folders in tasks/
    ["tasks.base", "tasks.setup", "tasks.writing"],
    ["training", "export", "report", "pictures"],
    ["checkpoints", "adapters", "tables", "evaluation", "hub"],
    ["models", "tokenizer"],
    ["the lists", "settings", "recipe", "run", "config", "console", "files", "machine", "pages", "records", "errors"],
    [""],  # finetune/__init__.py, which loads what it offers only when it is named
]
NEIGHBOURS = {
    "__main__": [],
    "cli": ["serve"],
    "api": [],
    "estimator": [],
    "serve": [],
    "execution": [],
    "pipeline": [],
    "stages": [],
    "a comparison": [],
    "comparisons.results": [],
    "commands": ["stages"],  # a dry run tries them
    "a task": [],  # one task never imports another
    "tasks.base": [],
    "tasks.setup": ["tasks.base"],
    "tasks.writing": ["tasks.base"],
    "training": [],
    "report": [],
    "export": ["training"],
    "pictures": ["report", "training"],
    "checkpoints": ["hub"],
    "tables": ["hub", "evaluation"],
    "adapters": [],
    "evaluation": [],
    "hub": [],
    "models": ["tokenizer"],
    "tokenizer": [],
    "the lists": [],
    "settings": ["config"],
    "recipe": ["the lists", "config", "errors"],
    "run": ["recipe", "config", "files", "machine", "records", "errors"],
    "config": ["errors"],
    "console": ["files", "errors"],
    "files": ["errors"],
    "records": ["errors"],
    "machine": [],
    "pages": [],
    "errors": [],
    "": [],
}
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


def room_of(module: str) -> str:
    """The name in GROUPS that a module goes by."""
    parts = module.split(".")[1:] or [""]
    if module in ("finetune.tasks", "finetune.comparisons"):
        return "the lists"
    if parts[-1] == "settings" and parts[0] in ("tasks", "comparisons"):
        return "settings"
    if parts[0] == "tasks":
        return ".".join(parts[:2]) if parts[1] in ("base", "setup", "writing") else "a task"
    if parts[0] == "comparisons":
        return "comparisons.results" if parts[1] == "results" else "a comparison"
    return parts[0]


def group_of(room: str) -> int:
    found = [number for number, group in enumerate(GROUPS) if room in group]
    assert found, f"{room} has no place in GROUPS: decide who may import it"
    return found[0]


def same_folder(module: str, name: str) -> bool:
    """Whether two modules are of one folder: modules of one package, or of one task or comparison."""
    depth = 3 if module.split(".")[1:2] in (["tasks"], ["comparisons"]) else 2
    return module.split(".")[1:depth] == name.split(".")[1:depth]


def under(name: str, *packages: str) -> bool:
    return any(name == package or name.startswith(package + ".") for package in packages)


def at_run_time(tree: ast.Module) -> ast.Module:
    """The module without what stands under ``if TYPE_CHECKING:``."""
    body = [
        node.orelse if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING" else [node]
        for node in tree.body
    ]
    return ast.Module([node for part in body for node in part], [])


def edges(modules, types=True):
    for module, tree in modules.items():
        types_too = types and module != "finetune"  # which names the types of what it loads when asked
        for name in imported(tree if types_too else at_run_time(tree), modules):
            if under(name, "finetune"):
                yield module, name


def test_imports_go_from_left_to_right(modules):
    wrong = [
        f"{module} imports {name}"
        for module, name in edges(modules)
        if group_of(room_of(name)) < group_of(room_of(module))
    ]
    assert len(modules) > 100 and not wrong, wrong


def test_within_a_group_only_neighbours_are_imported(modules):
    wrong = [
        f"{module} imports {name}"
        for module, name in edges(modules)
        if group_of(room_of(name)) == group_of(room_of(module))
        and not same_folder(module, name)
        and room_of(name) not in NEIGHBOURS[room_of(module)]
    ]
    assert not wrong, wrong


def test_a_list_of_tasks_imports_nothing(modules):
    assert [module for module in ("finetune.tasks", "finetune.comparisons") if imported(modules[module])] == []


def test_scores_pages_and_settings_need_no_torch(modules):
    light = [
        module
        for module in modules
        if under(module, "finetune.report", "finetune.evaluation")
        or (
            module.split(".")[1:2] in (["tasks"], ["comparisons"])
            and ({"score", "page", "settings", "stage", "sections"} & {*module.split(".")[3:]})
        )
    ]
    code = f"import sys, {', '.join(light)}; print(*{{'torch', 'accelerate', 'transformers'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert len(light) > 20 and done.returncode == 0 and not done.stdout.strip(), done.stdout + done.stderr


def test_what_serves_every_task_names_none(root, modules):
    """A task's name as a word of code or of text: its folder is the place for what is its own."""
    shared = [
        path
        for folder in ("stages", "training", "export", "report", "evaluation")
        for path in sorted((root / "finetune" / folder).glob("*"))
        if path.suffix in (".py", ".jinja")
    ]
    wrong = [
        f"{path.relative_to(root)}:{number}: {line.strip()}"
        for path in shared
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if re.search(r"\b(seq2seq|instruct)\b|[\"']classify[\"']|[\"']pretrain[\"']", line)
    ]
    assert len(shared) > 30 and not wrong, wrong


def test_every_import_names_a_module_that_exists(modules):
    missing = [f"{module} imports {name}" for module, name in edges(modules) if name not in modules]
    assert not missing, missing


def test_no_circle(modules):
    graph = {module: set() for module in modules}
    for module, name in edges(modules, types=False):
        graph[module].add(name)
    try:
        order = list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        order = error.args[1]
        raise AssertionError("modules import each other: " + " -> ".join(order)) from None
    assert len(order) >= len(modules)


def test_only_fetch_knows_the_network(modules):
    """The server listens, and asks for nothing."""
    wrong = [
        f"{module} imports {name}"
        for module, tree in modules.items()
        if not under(module, "finetune.hub")
        for name in imported(tree)
        if under(name, *NETWORK) and (module, name) != ("finetune.serve.server", "socket")
    ]
    assert not wrong, wrong


def test_adapters_know_only_torch_and_the_errors(modules):
    allowed = ("torch", "finetune.errors", "finetune.adapters", *sys.stdlib_module_names)
    wrong = [
        f"{module} imports {name}"
        for module, tree in modules.items()
        if under(module, "finetune.adapters")
        for name in imported(tree, modules)
        if not under(name, *allowed)
    ]
    assert not wrong, wrong


def test_pipelines_are_never_imported_and_start_fast(root):
    heavy = ("torch", "pandas", "sklearn", "scipy", "matplotlib", "transformers")
    paths = list((root / "pipelines").glob("*.py"))
    trees = {path.name: ast.parse(path.read_text(encoding="utf-8")) for path in paths}
    wrong = [
        f"{name} imports {module}" for name, tree in trees.items() for module in imported(tree) if under(module, *heavy)
    ]
    assert trees and not wrong, wrong


def test_gpt_2_is_a_page_of_its_own(modules):
    """Beside torch, gpt.py begins with the cache, texts side by side and the errors; what generates is imported later."""
    names = set()
    for node in modules["finetune.models.gpt"].body:
        names |= imported(ast.Module([node], [])) if isinstance(node, ast.Import | ast.ImportFrom) else set()
    expected = {"finetune.errors", "finetune.models.cache", "finetune.models.side_by_side"}
    assert {name for name in names if under(name, "finetune")} == expected
