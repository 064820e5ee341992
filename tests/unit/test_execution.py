"""Which stages run when, what is passed over, and what is taken over. The stages here only count that they ran."""

from dataclasses import dataclass
from types import ModuleType, SimpleNamespace

import pytest

from finetune.errors import Interrupted, RecipeError, RunError, TrainingError
from finetune.execution import execute, open_run, resolve
from finetune.files import write_json
from finetune.pipeline import stage_names
from finetune.recipe import Evaluate, Recipe, Train
from finetune.records import Record

REQUEST = Recipe(pipeline="classify", weights="random-bytes", data="spam-sample")


@dataclass(frozen=True)
class Counted(Record):
    """What a stage of the tests returns."""

    name: str


@pytest.fixture
def stages():
    """Three stages a, b and c that each write a file, and what they were called for."""
    calls, outside = [], {"content": 0}

    def stage(name: str, leaf: bool = False, reads: tuple[str, ...] = ()):
        def work(recipe, run):
            calls.append(name)
            run.path(f"{name}.txt").write_text(f"{name} {outside['content']}")
            if name in outside.get("fail", {}):
                raise outside["fail"][name]
            return Counted(name)

        module = ModuleType(f"finetune.stages.{name}")
        module.run, module.OUTPUTS, module.READS = work, (f"{name}.txt",), reads
        if leaf:
            module.LEAF = True
        return module

    first = stage("a", reads=("max_length",))
    first.external = lambda recipe: {"file": outside.get("file", "0")}
    return SimpleNamespace(
        list=[first, stage("b", leaf=True), stage("c", reads=("evaluate",))], calls=calls, outside=outside
    )


@pytest.fixture
def run(tmp_path):
    return open_run(REQUEST, tmp_path, "run")[0]


def called(stages, run, **more) -> list[str]:
    """The stages that ran."""
    stages.calls.clear()
    execute(run, REQUEST, stages.list, **more)
    return list(stages.calls)


def test_what_is_done_is_passed_over(stages, run, capsys):
    assert called(stages, run) == ["a", "b", "c"]
    assert "nothing left to do" not in capsys.readouterr().out
    assert called(stages, run) == []
    assert "nothing left to do\n" in capsys.readouterr().out
    assert called(stages, run, fresh=True) == ["a", "b", "c"]


def test_a_lost_output_runs_its_stage_and_those_that_read_it(stages, run):
    called(stages, run)
    run.path("a.txt").unlink()
    assert called(stages, run) == ["a"]  # what it leaves is what the others have read
    run.path("a.txt").unlink()
    stages.outside["content"] = 1
    assert called(stages, run) == ["a", "b", "c"]
    run.path("b.txt").unlink()
    assert called(stages, run) == ["b"]  # a leaf
    run.path("b.txt").write_text("of another size")
    assert called(stages, run) == []
    run.path("c.txt").write_text("of another size")
    assert called(stages, run) == ["c"]


def test_what_changed_outside_runs_all_that_follows(stages, run):
    called(stages, run)
    stages.outside["file"] = "1"
    assert called(stages, run) == ["a", "b", "c"]


def test_a_changed_setting_runs_the_stages_that_read_it(stages, run):
    called(stages, run)
    stages.calls.clear()
    changed = REQUEST.model_copy(update={"max_length": 3})
    write_json(run.path("recipe.json"), changed.model_dump())
    execute(run, changed, stages.list)
    assert stages.calls == ["a"]  # and what it leaves is what it left before
    stages.calls.clear()
    changed = changed.model_copy(update={"evaluate": Evaluate(resamples=200)})
    write_json(run.path("recipe.json"), changed.model_dump())
    execute(run, changed, stages.list)
    assert stages.calls == ["c"]


def test_a_letter_changed_in_an_output_is_noticed(stages, run):
    called(stages, run)
    run.path("a.txt").write_text("a 1")  # as long as before
    assert called(stages, run) == ["a"]


def test_another_run_takes_over_what_reads_the_same(stages, run, tmp_path, capsys):
    called(stages, run)
    other = REQUEST.model_copy(update={"evaluate": Evaluate(resamples=200)})
    second, _ = open_run(other, tmp_path, "second")
    stages.calls.clear()
    capsys.readouterr()
    execute(second, other, stages.list)
    assert stages.calls == ["b", "c"]  # a leaf is made anew
    assert "a: reused from run, which had the same inputs (--fresh" in capsys.readouterr().out
    assert second.path("a.txt").read_text() == "a 0" and second.record("a").taken_from == "run"
    run.path("a.txt").write_text("scribbled over")  # the copy is the second run's own
    assert second.path("a.txt").read_text() == "a 0"


def test_nothing_is_taken_over_that_differs_or_is_damaged_or_not_wanted(stages, run, tmp_path):
    called(stages, run)

    def second(number: int, request=REQUEST, **more) -> list[str]:
        opened, _ = open_run(request, tmp_path, f"other-{number}")
        stages.calls.clear()
        execute(opened, request, stages.list, **more)
        return list(stages.calls)

    assert second(1) == ["b"]
    assert second(2, fresh=True) == ["a", "b", "c"]
    for name in ("run", "other-1", "other-2"):
        (tmp_path / name / "c.txt").write_text("c 9")  # no donor is left for c
    assert second(3) == ["b", "c"]
    stages.list[0].machine = lambda recipe, processes: {"torch": "another"}
    assert second(4) == ["a", "b"]  # c reads the same files as before
    stages.outside["file"] = "1"
    assert second(5) == ["a", "b", "c"]


def test_code_of_another_version_does_not_take_over(stages, run, tmp_path, monkeypatch):
    called(stages, run)
    monkeypatch.setattr("finetune.execution.__version__", "9.9")
    opened, _ = open_run(REQUEST, tmp_path, "second")
    execute(opened, REQUEST, stages.list)
    assert stages.calls == ["a", "b", "c"] * 2


def test_a_link_in_a_run_is_not_taken_for_its_output(stages, run, tmp_path):
    called(stages, run)
    (tmp_path / "elsewhere.txt").write_text("a 0")
    run.path("a.txt").unlink()
    run.path("a.txt").symlink_to(tmp_path / "elsewhere.txt")
    with pytest.raises(RunError, match="a symbolic link to .*elsewhere.txt"):
        called(stages, run)


def test_from_and_until(stages, run):
    assert called(stages, run, until="b") == ["a", "b"]
    assert called(stages, run) == ["c"]
    assert called(stages, run, first="b") == ["b", "c"]
    assert called(stages, run, first="a", until="a") == ["a"]
    assert stage_names(stages.list) == ["a", "b", "c"]
    for wrong in ({"first": "x"}, {"until": "x"}, {"first": "c", "until": "a"}):
        with pytest.raises(RecipeError, match="a, b, c"):
            called(stages, run, **wrong)


def test_a_stage_that_failed_is_not_done(stages, run):
    stages.outside["fail"] = {"b": RuntimeError("ours")}
    with pytest.raises(RuntimeError, match="ours"):
        called(stages, run)
    assert run.path("b.txt").exists()  # half done
    del stages.outside["fail"]
    assert called(stages, run) == ["b", "c"]


def test_an_interrupted_stage_says_how_to_go_on(stages, run):
    stages.outside["fail"] = {"b": Interrupted("stopped at step 3")}
    with pytest.raises(
        Interrupted, match=r"stopped at step 3\. Resume with: .*finetune run .*recipe\.json --name run$"
    ):
        called(stages, run)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("CUDA out of memory. Tried to allocate 2 GiB\nmore"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_memory_that_ran_out_says_what_to_lower(stages, run, error):
    stages.outside["fail"] = {"c": error}
    with pytest.raises(TrainingError, match="out of memory.*train.micro_batch_tokens") as caught:
        called(stages, run)
    assert "\n" not in str(caught.value) and called(SimpleNamespace(list=stages.list[:2], calls=[]), run) == []


def test_the_log_holds_the_screen(stages, run, capsys):
    capsys.readouterr()
    called(stages, run)
    assert run.path("log.txt").read_text(encoding="utf-8") == capsys.readouterr().out


def test_a_run_is_found_again_by_what_was_asked_and_by_what_was_resolved(tmp_path, capsys):
    asked = REQUEST.model_copy(update={"weights": "auto"})
    run, recipe = open_run(asked, tmp_path, "x")
    assert recipe.weights != "auto" and run.directory == tmp_path / "x"
    for request in (asked, recipe):
        again, found = open_run(request, tmp_path, "x")
        assert again.directory == run.directory and found == recipe
    changed = asked.model_copy(update={"train": Train(lr=0.5), "max_length": 7})
    run.finish(3, "prepare", "inputs", [], Counted("prepare"), 0.0)
    other, _ = open_run(changed, tmp_path, "x")
    assert other.directory == tmp_path / "x-2"
    assert "settings differ from x (max_length, train.lr): starting x-2" in capsys.readouterr().out
    assert open_run(REQUEST, tmp_path, None)[0].directory == tmp_path / "classify"


def test_a_run_that_stopped_before_its_data_were_read_takes_other_settings(tmp_path):
    """The command was mistyped, and is given again with the column's right name."""
    wrong = REQUEST.model_copy(update={"max_length": 7})
    open_run(wrong, tmp_path, "x")[0].finish(1, "download", "inputs", [], Counted("download"), 0.0)
    run, recipe = open_run(REQUEST, tmp_path, "x")
    assert run.directory == tmp_path / "x" and recipe == REQUEST
    assert not list(run.path("stages").glob("*"))


def test_a_run_whose_recipe_was_never_written_is_begun_anew(tmp_path):
    """Killed between the two files of a new run."""
    (tmp_path / "x").mkdir()
    write_json(tmp_path / "x" / "request.json", REQUEST.model_dump())
    (tmp_path / "x" / ".recipe.json.123.tmp").write_text("{")
    assert open_run(REQUEST, tmp_path, "x")[1] == REQUEST
    (tmp_path / "y").mkdir()
    (tmp_path / "y" / "thesis.txt").write_text("")
    with pytest.raises(RunError, match="exists and is not a run"):
        open_run(REQUEST, tmp_path, "y")


def test_a_file_is_resolved_to_its_whole_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("my.csv", "spam-sample", "sms-spam"):
        (tmp_path / name).write_text("text,label\n")
    assert resolve(REQUEST.model_copy(update={"data": "my.csv"})).data == str(tmp_path / "my.csv")
    assert resolve(REQUEST).data == "spam-sample"  # a name wins over a file of that name, as it does in `download`
