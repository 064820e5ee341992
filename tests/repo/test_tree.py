"""What the checkout must not grow: dumping grounds, giants, machine paths, pickles, swallowed errors."""

import ast
import re

MEGABYTE = 1024 * 1024
TEXT = (".py", ".md", ".toml", ".txt", ".jinja", ".yml", ".yaml", ".cfg", "Makefile", ".ci/run")
# An absolute path of somebody's machine; the same words inside an address or a relative path are fine.
MACHINE_PATH = re.compile(r"(?<![\w.:/~>}-])/(?:home|root|Users|work|mnt)/\w")
WINDOWS_PATH = re.compile(r"\b[A-Z]:\\{1,2}Users\b")


def called(node: ast.AST) -> str:
    """``torch.load`` for a call of it, nothing for anything else."""
    return ast.unparse(node.func) if isinstance(node, ast.Call) else ""


def test_no_module_is_a_dumping_ground(files):
    names = {"utils", "helpers", "common", "misc", "util", "helper"}
    wrong = [name for name in files if names & set(name.removesuffix(".py").lower().split("/"))]
    assert files and not wrong, wrong


def test_no_python_file_is_too_long(root, files):
    lengths = {
        name: len((root / name).read_text(encoding="utf-8").splitlines()) for name in files if name.endswith(".py")
    }
    wrong = {name: length for name, length in lengths.items() if length > 500}
    assert len(lengths) > 20 and not wrong, wrong


def test_no_file_is_too_big(root, files):
    wrong = [name for name in files if (root / name).stat().st_size > 16 * MEGABYTE]
    assert not wrong, wrong


def test_no_path_of_a_machine(root, files):
    read = [name for name in files if name.endswith(TEXT)]
    wrong = [
        f"{name}:{number}: {line.strip()}"
        for name in read
        for number, line in enumerate((root / name).read_text(encoding="utf-8").splitlines(), 1)
        if MACHINE_PATH.search(line) or WINDOWS_PATH.search(line)
    ]
    assert "Makefile" in read and not wrong, wrong


def test_nothing_is_unpickled(modules):
    forbidden = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
    calls = {"torch.load", "numpy.load", "np.load", "pandas.read_pickle", "pd.read_pickle", "torch.save"}
    wrong = []
    for module, tree in modules.items():
        for node in ast.walk(tree):
            names = (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [node.module]
                if isinstance(node, ast.ImportFrom)
                else []
            )
            if forbidden & {name.split(".")[0] for name in names} or called(node) in calls:
                wrong.append(f"{module}:{node.lineno}: {ast.unparse(node)[:80]}")
    assert not wrong, wrong


def test_no_error_is_swallowed(root, files):
    wrong = []
    for name in files:
        if not name.endswith(".py"):
            continue
        for node in ast.walk(ast.parse((root / name).read_text(encoding="utf-8"))):
            if isinstance(node, ast.ExceptHandler):
                bare = node.type is None
                anything = not bare and ast.unparse(node.type) in ("Exception", "BaseException")
                silent = all(isinstance(line, ast.Pass) for line in node.body)
                if bare or (anything and silent):
                    wrong.append(f"{name}:{node.lineno}")
    assert not wrong, wrong


def test_every_test_can_fail(root, files):
    wrong = []
    for name in files:
        if not re.fullmatch(r"tests/.*test_\w+\.py", name):
            continue
        for node in ast.walk(ast.parse((root / name).read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                checks = any(
                    isinstance(part, ast.Assert) or called(part) == "pytest.raises" or "assert_" in called(part)
                    for part in ast.walk(node)
                )
                if not checks:
                    wrong.append(f"{name}:{node.lineno} {node.name}")
    assert not wrong, wrong
