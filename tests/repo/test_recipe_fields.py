"""A setting that nobody reads is a promise not kept: every field of the schema is read outside of it."""

import ast

from finetune.config import Settings
from finetune.recipe import Recipe


def schema_classes() -> dict[str, type[Settings]]:
    """The classes of a recipe and its sections, by name."""
    sections = [info.annotation for info in Recipe.model_fields.values() if isinstance(info.annotation, type)]
    return {kind.__name__: kind for kind in [Recipe, *sections] if issubclass(kind, Settings)}


def sections(classes: dict) -> dict[str, set[str]]:
    """Under which attribute a class's settings are found: ``Train`` under ``train``."""
    owners = {name: {name.lower()} for name in classes}
    for schema in classes.values():
        for field, info in schema.model_fields.items():
            if getattr(info.annotation, "__name__", "") in owners:
                owners[info.annotation.__name__].add(field)
    return owners


def last_name(node: ast.AST) -> str:
    """``train`` of ``recipe.train`` and of ``train``."""
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def returned(modules: dict[str, ast.Module], classes: dict) -> dict[str, list[str]]:
    """What the package's functions return: ``choose -> tuple[Train, str]`` is {"choose": ["Train", "str"]}."""
    found = {}
    for tree in modules.values():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and node.returns is not None:
                parts = getattr(getattr(node.returns, "slice", None), "elts", [node.returns])
                types = [ast.unparse(part) for part in parts]
                if set(types) & set(classes):
                    found[node.name] = types
    return found


def read_fields(
    tree: ast.Module, classes: dict, owners: dict[str, set[str]], returns: dict[str, list[str]]
) -> set[tuple[str, str]]:
    """(class, field) for each setting read, as ``recipe.train.lr`` or through a name bound to a section."""
    local = {name: set(known) for name, known in owners.items()}
    for node in ast.walk(tree):
        if isinstance(node, ast.arg) and node.annotation is not None:
            words = ast.unparse(node.annotation).strip("'\"").split(" | ")
            for name in set(words) & set(classes):
                local[name].add(node.arg)
        elif isinstance(node, ast.Assign):
            targets = getattr(node.targets[0], "elts", node.targets)
            if isinstance(node.value, ast.Call):  # settings, why = choose_settings(...)
                types = returns.get(last_name(node.value.func), [])
                bound = [(target, {name} & set(classes)) for target, name in zip(targets, types, strict=False)]
            else:  # settings = recipe.train
                values = getattr(node.value, "elts", [node.value])
                bound = [
                    (target, {name for name in owners if last_name(value) in owners[name]})
                    for target, value in zip(targets, values, strict=False)
                ]
            for target, names in bound:
                for name in names:
                    local[name].add(last_name(target))
    return {
        (name, node.attr)
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)
        for name, known in local.items()
        if last_name(node.value) in known and node.attr in classes[name].model_fields
    }


def test_every_field_is_read(modules):
    classes = schema_classes()
    owners = sections(classes)
    returns = returned(modules, classes)
    read = set().union(
        *(
            read_fields(tree, classes, owners, returns)
            for module, tree in modules.items()
            if module != "finetune.recipe"
        )
    )
    fields = {(name, field) for name, schema in classes.items() for field in schema.model_fields}
    assert len(fields) > 20 and not fields - read, sorted(fields - read)


def test_every_field_says_what_it_is():
    wrong = [
        f"{name}.{field}"
        for name, schema in schema_classes().items()
        for field, info in schema.model_fields.items()
        if not info.description and not issubclass(type(info.default), Settings)
    ]
    assert not wrong, wrong
