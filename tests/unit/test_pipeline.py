"""Pipelines: from a name to a recipe, and which stages run when. The stages here only count that they ran."""

import tomllib
from types import ModuleType, SimpleNamespace

import pytest

from finetune.errors import Interrupted, RecipeError, RunError, TrainingError
from finetune.files import write_json
from finetune.pipeline import (
    as_toml,
    describe,
    describe_pipelines,
    execute,
    load_pipeline,
    make_recipe,
    open_run,
    resolve,
    stage_names,
)
from finetune.recipe import Recipe, Train

REQUEST = Recipe(pipeline="classify", weights="random-bytes", data="spam-sample")


@pytest.fixture
def stages():
    """Three stages a, b and c that each write a file, and what they were called for."""
    calls, outside = [], {"content": 0}

    def stage(name: str, leaf: bool = False):
        def work(recipe, run):
            calls.append(name)
            run.path(f"{name}.txt").write_text(f"{name} {outside['content']}")
            if name in outside.get("fail", {}):
                raise outside["fail"][name]
            return {"name": name}
        module = ModuleType(f"finetune.stages.{name}")
        module.run, module.OUTPUTS = work, [f"{name}.txt"]
        if leaf:
            module.LEAF = True
        return module
    first = stage("a")
    first.outside = lambda recipe: {"file": outside.get("file", "0")}
    return SimpleNamespace(list=[first, stage("b", leaf=True), stage("c")], calls=calls, outside=outside)


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


def test_a_changed_recipe_runs_all(stages, run):
    called(stages, run)
    stages.calls.clear()
    execute(run, REQUEST.model_copy(update={"max_length": 3}), stages.list)
    assert stages.calls == ["a", "b", "c"]


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
    with pytest.raises(Interrupted, match=r"stopped at step 3\. Go on with: .*finetune run .*recipe\.json --name run$"):
        called(stages, run)


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("CUDA out of memory. Tried to allocate 2 GiB\nmore"),
                                   RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_memory_that_ran_out_says_what_to_lower(stages, run, error):
    stages.outside["fail"] = {"c": error}
    with pytest.raises(TrainingError, match="memory ran out.*train.micro_batch_tokens") as caught:
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
    run.finish(3, "prepare", "inputs", [], {}, 0.0)
    other, _ = open_run(changed, tmp_path, "x")
    assert other.directory == tmp_path / "x-2"
    assert "(max_length, train.lr): trying x-2" in capsys.readouterr().out
    assert open_run(REQUEST, tmp_path, None)[0].directory == tmp_path / "classify"


def test_a_run_that_stopped_before_its_data_were_read_takes_other_settings(tmp_path):
    """The command was mistyped, and is given again with the column's right name."""
    wrong = REQUEST.model_copy(update={"max_length": 7})
    open_run(wrong, tmp_path, "x")[0].finish(1, "download", "inputs", [], {}, 0.0)
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


def test_every_pipeline_loads_and_is_described():
    found = describe_pipelines()
    assert {"spam-classifier", "classify"} <= set(found)
    for name, line in found.items():
        recipe, stages = load_pipeline(name)
        assert recipe.pipeline == name and stage_names(stages)[0] == "download" and 10 < len(line) < 120
    assert load_pipeline("spam_classifier")[0] == load_pipeline("spam-classifier")[0]
    with pytest.raises(RecipeError, match="did you mean 'classify'"):
        load_pipeline("clasify")


def test_a_recipe_from_a_toml_file_and_from_json(tmp_path):
    (tmp_path / "mine.toml").write_text(
        'pipeline = "spam_classifier"\nmax_length = 9\n[train]\nlr = 1e-3\nepochs = 4\n')
    recipe = make_recipe(str(tmp_path / "mine.toml"), ["train.epochs=5", "train.lr=2e-3"])
    assert (recipe.pipeline, recipe.max_length, recipe.train.lr, recipe.train.epochs) == ("spam-classifier", 9, 2e-3, 5)
    assert recipe.evaluate.metric == "auto"  # the pipeline's own
    write_json(tmp_path / "recipe.json", recipe.model_dump())
    assert make_recipe(str(tmp_path / "recipe.json")) == recipe
    assert make_recipe("classify", ["max_length=3"], {"max_length": 2, "data": "x"}).max_length == 3


@pytest.mark.parametrize("text", [
    "plain", 'qu"ote\\', "new\nline\ttab", "\x00\x1b\x7f\x85", "é 東京 😀", "# = [x]", ""])
def test_a_recipe_s_toml_is_the_recipe(text):
    values = {"data": text, "train": {"lr": 1e-5, "epochs": 3}, "columns": {"label": text}}
    recipe = Recipe.model_validate(make_recipe("spam-classifier").model_dump() | values)
    values = tomllib.loads(as_toml(recipe))
    assert Recipe.model_validate(values) == recipe


def test_every_value_is_shown_but_those_of_other_tasks_that_nobody_set():
    recipe = make_recipe("spam-classifier", ["train.lr=0.25", "shape.layers=3"])
    shown = "\n".join(describe(recipe))
    tables = {name: part for name, part in recipe.model_dump().items() if isinstance(part, dict)}
    hidden = {"pretrain", "instruct", "seq2seq", "compare", "architectures"}
    for name, table in tables.items():
        assert (f"{name}: " in shown) == (name not in hidden)
        for key, value in table.items() if name not in hidden else ():
            assert f"{key}={'(open)' if value is None else value}" in shown
    for key, value in recipe.model_dump().items():
        assert isinstance(value, dict) or f"{key}={'(open)' if value is None else value}" in shown
    assert "val_blocks=256" in "\n".join(describe(make_recipe("pretrain", ["pretrain.eval_data=x"])))
