"""What can be planted in a source, and that a planted fault is noticed or listed."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
SOURCE = '''"""A doc: 1 < 2."""

def f(a: int = 3, *, b: "1 < 2" = None) -> int:
    """Also a doc."""
    if not a or b is None:
        say(f"{a + 1}", 2)
        raise ValueError("x" + str(a), 5)
    for x in range(a):
        if x == "ü":
            continue
        a += min(x, 7)
    work(a)
    return a if a <= 9 else round(a * 2, 4)
'''
EXPECTED = [  # line, before, after
    (3, "3", "4"),
    (5, "not a", "(a)"),
    (5, "not a or b is None", "(not a and b is None)"),
    (5, "not a or b is None", "False"),
    (5, "not a or b is None", "not (not a or b is None)"),
    (5, "b is None", "b is not None"),
    (9, 'x == "ü"', "False"),
    (9, 'x == "ü"', "not (x == 'ü')"),
    (9, 'x == "ü"', "x != 'ü'"),
    (10, "continue", "pass"),
    (11, "a += min(x, 7)", "pass"),
    (11, "min(x, 7)", "max(x, 7)"),
    (11, "7", "8"),
    (12, "work(a)", "pass"),
    (13, "a if a <= 9 else round(a * 2, 4)", "(a)"),
    (13, "a if a <= 9 else round(a * 2, 4)", "(round(a * 2, 4))"),
    (13, "a <= 9", "a < 9"),
    (13, "9", "10"),
    (13, "a * 2", "(a / 2)"),
    (13, "2", "3"),
]


def loaded(name, monkeypatch):
    spec = importlib.util.spec_from_file_location(name, HERE / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def planting(monkeypatch):
    return loaded("planting", monkeypatch)


@pytest.fixture
def mutate(planting, monkeypatch):
    return loaded("mutate", monkeypatch)


def test_every_kind_of_fault_is_planted_and_words_are_left_alone(planting):
    found = [(own.line, own.old, own.new) for own in planting.mutants(SOURCE)]
    assert sorted(found) == sorted(EXPECTED)


def test_a_planted_source_differs_in_one_place_and_parses(planting):
    for mutant in planting.mutants(SOURCE):
        planted = mutant.planted(SOURCE)
        changed = [pair for pair in zip(SOURCE.splitlines(), planted.splitlines(), strict=True) if pair[0] != pair[1]]
        compile(planted, "planted", "exec")
        assert [(one.strip(), other.strip()) for one, other in changed] == [mutant.change(SOURCE)]
        assert mutant.function == "f"


def test_operators_of_numbers_are_swapped_and_those_of_texts_left(planting):
    assert [own.new for own in planting.mutants("x = a - b")] == ["(a + b)"]
    assert [own.new for own in planting.mutants("x = a / b")] == ["(a * b)"]
    assert [own.new for own in planting.mutants("x = p / 'name' / n")] == []
    assert [own.new for own in planting.mutants("x = True")] == ["False"]
    assert [own.new for own in planting.mutants("x = any(y)")] == ["all(y)"]
    assert [own.new for own in planting.mutants("x = np.maximum(y, z)")] == ["np.minimum(y, z)"]


@pytest.mark.parametrize(
    ("noticed", "judged", "survivors", "said", "reached"),
    [
        (19, 0, 1, "noticed 19 of 20 (95.0%), and 95.0% of the 20 that", False),  # one is not judged
        (19, 1, 1, "noticed 19 of 20 (95.0%), and 100.0% of the 19 that", True),
        (17, 3, 3, "noticed 17 of 20 (85.0%), and 100.0% of the 17 that", True),
        (17, 1, 3, "noticed 17 of 20 (85.0%), and 89.5% of the 19 that", False),
    ],
)
def test_the_score_leaves_out_what_is_equal_in_effect(
    mutate, tmp_path, monkeypatch, capsys, noticed, judged, survivors, said, reached
):
    drawn = [mutate.Drawn("a.py", None, f"a.py, f{number}", "x < 1", "x <= 1") for number in range(20)]
    assert noticed + survivors == len(drawn)
    results = {fault.key: {"noticed": "test_a.py" if at < noticed else ""} for at, fault in enumerate(drawn)}
    entries = [{"fault": json.loads(fault.key), "judged": "nothing"} for fault in drawn[noticed : noticed + judged]]
    monkeypatch.setattr(mutate, "JUDGED", tmp_path / "judged.json")
    mutate.write(mutate.JUDGED, {"survivors": entries})
    assert mutate.finish(drawn, results) is reached
    assert said in capsys.readouterr().out


def test_heavy_tests_come_last_of_those_that_are_as_near(mutate, monkeypatch):
    nearness, module = mutate.Nearness.__new__(mutate.Nearness), "finetune.training.loop"
    named, importing, starting, new = (
        "unit/training/test_loop.py",
        "unit/a/test_b.py",
        "faults/test_c.py",
        "unit/test_d.py",
    )
    files = {name: mutate.ROOT / "tests" / name for name in (starting, importing, named, new)}
    nearness.of_modules = {}
    nearness.of_tests = dict.fromkeys(files.values(), {module})
    seconds = {named: 90.0, importing: 25.0}
    nearness.measured = {f"tests/{name}": own for name, own in seconds.items()}
    ordered = [f"tests/{name}" for name in (named, new, starting, importing)]
    assert nearness.tests("finetune/training/loop.py") == ordered
    nearness.measured |= {f"tests/{starting}": 1.0}
    assert nearness.tests("finetune/training/loop.py") == [ordered[0], ordered[2], ordered[1], ordered[3]]
