"""Small faults that can be planted in a Python file: each one an edit of one expression or statement.

A comparison, `+` and `-`, `and` and `or`, `min` and `max` are swapped; a number is raised by one; a condition is negated, or
is never true; a branch of `a if c else b` is always taken; a call for its effect, `x += y`, or `continue` is left out. What
only words or rounds a number (the arguments of an exception, of `say` and of `warn`, f-strings, the digits of `round`),
annotations and decorators are left alone.
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass

OPERATORS: dict[type, type] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Div,
    ast.And: ast.Or,
    ast.Or: ast.And,
}
NAMES = {"min": "max", "max": "min", "any": "all", "all": "any", "minimum": "maximum", "maximum": "minimum"}
WORDS = ("say", "warn", "Field")  # calls whose arguments are read by people
TYPED = (ast.JoinedStr, ast.Raise, ast.Assert, ast.Import, ast.ImportFrom)  # words, or noticed by any import


@dataclass(frozen=True)
class Mutant:
    """One fault: the text from `start` to `end` of a file's source replaced by `new`."""

    function: str  # ``Class.method``, or "" at the module's level
    first_line: int  # of that function
    line: int
    start: int
    end: int
    old: str
    new: str

    def planted(self, source: str) -> str:
        """The source with the fault in it."""
        return source[: self.start] + self.new + source[self.end :]

    def change(self, source: str) -> tuple[str, str]:
        """The lines before and after, without their indentation."""
        begin = source.rfind("\n", 0, self.start) + 1
        after = source[self.end :].partition("\n")[0]
        lines = (source[begin : self.start] + text + after for text in (self.old, self.new))
        before, planted = (" ".join(text.split()) for text in lines)
        return before, planted


def mutants(source: str) -> list[Mutant]:
    """Every fault that can be planted in this source, in its order."""
    lines = source.splitlines(keepends=True)
    begins = [0]
    for line in lines:
        begins.append(begins[-1] + len(line))

    def offset(line: int, column: int) -> int:
        """Of a place that `ast` counts in bytes."""
        return begins[line - 1] + len(lines[line - 1].encode()[:column].decode())

    tree, found = ast.parse(source), []
    tests = {id(node.test) for node in ast.walk(tree) if isinstance(node, ast.If | ast.While)}
    for node, names, first in _nodes(tree, (), 0):
        start, end = offset(node.lineno, node.col_offset), offset(node.end_lineno or 0, node.end_col_offset or 0)
        changes = [*_changes(node), *(_conditions(node) if id(node) in tests else ())]
        found += [Mutant(".".join(names), first, node.lineno, start, end, source[start:end], new) for new in changes]
    return sorted(set(found), key=lambda own: (own.start, own.end, own.new))


def _nodes(node: ast.AST, names: tuple[str, ...], first: int) -> Iterator[tuple[ast.expr | ast.stmt, tuple, int]]:
    """Each expression and statement that may change, with the function it is in."""
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list", "bases"):
            continue
        rounds = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "round"
        for child in value[:1] if rounds and name == "args" else value if isinstance(value, list) else [value]:
            if not isinstance(child, ast.AST) or isinstance(child, TYPED) or _is_words(child):
                continue
            inner, line = names, first
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                inner = (*names, child.name)
                line = line if isinstance(child, ast.ClassDef) else child.lineno
            elif isinstance(child, ast.expr | ast.stmt):
                yield child, names, first
            yield from _nodes(child, inner, line)


def _is_words(node: ast.AST) -> bool:
    """Whether a node is a docstring, a call that says something, or is read by the type checker only."""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return True
    if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "__name__ == '__main__'"):
        return True
    call = node.value if isinstance(node, ast.Expr) else node
    return isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and _says(call.func.id)


def _says(name: str) -> bool:
    return name in WORDS or name.startswith("_say") or name.endswith(("Error", "TypeVar"))


def _changes(node: ast.expr | ast.stmt) -> Iterator[str]:
    """The texts that may stand in the place of a node."""
    match node:
        case ast.Compare(left, [operator], rest) if type(operator) in OPERATORS:
            yield ast.unparse(ast.Compare(left, [OPERATORS[type(operator)]()], rest))
        case ast.BinOp(left, operator, right) if type(operator) in OPERATORS and not _is_text(left, right):
            yield f"({ast.unparse(ast.BinOp(left, OPERATORS[type(operator)](), right))})"
        case ast.BoolOp(operator, values):
            yield f"({ast.unparse(ast.BoolOp(OPERATORS[type(operator)](), values))})"
        case ast.Constant(bool() as value):
            yield str(not value)
        case ast.Constant(int() | float() as value):
            yield repr(value + 1)
        case ast.UnaryOp(ast.Not(), operand):
            yield f"({ast.unparse(operand)})"
        case ast.IfExp(_, first, second):
            yield f"({ast.unparse(first)})"
            yield f"({ast.unparse(second)})"
        case ast.Call(ast.Name(name), _, _) if name in NAMES:
            yield ast.unparse(ast.Call(ast.Name(NAMES[name]), node.args, node.keywords))
        case ast.Call(ast.Attribute(value, name), _, _) if name in NAMES:
            yield ast.unparse(ast.Call(ast.Attribute(value, NAMES[name]), node.args, node.keywords))
        case ast.Expr(ast.Call()) | ast.AugAssign() | ast.Continue():
            yield "pass"


def _conditions(test: ast.expr) -> Iterator[str]:
    """The texts that may stand in the place of the condition of an `if` or `while`."""
    if not isinstance(test, ast.UnaryOp):
        yield f"not ({ast.unparse(test)})"
    yield "False"


def _is_text(*nodes: ast.expr) -> bool:
    """Whether these are texts, paths or lists, which have no other operator."""
    parts = [part for node in nodes for part in ast.walk(node)]
    texts = (isinstance(part, ast.Constant) and isinstance(part.value, str) for part in parts)
    return any(texts) or any(isinstance(node, ast.List | ast.Tuple) for node in nodes)
