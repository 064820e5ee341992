"""Pipelines: from a name to a recipe, what a run reads of it, and what is refused because nothing reads it."""

import tomllib

import pytest

from finetune.config import field_names, under
from finetune.errors import RecipeError
from finetune.files import write_json
from finetune.pipeline import as_toml, describe, describe_pipelines, load_pipeline, make_recipe, stage_names
from finetune.recipe import Recipe


def test_every_pipeline_loads_and_is_described():
    found = describe_pipelines()
    assert {"spam-classifier", "classify"} <= set(found)
    for name, line in found.items():
        pipeline = load_pipeline(name)
        assert pipeline.recipe.pipeline == name and stage_names(pipeline.stages)[0] == "download"
        assert 10 < len(line) < 120
    assert load_pipeline("spam_classifier") is load_pipeline("spam-classifier")  # its file is executed once
    with pytest.raises(RecipeError, match="did you mean 'classify'"):
        load_pipeline("clasify")


def test_a_recipe_from_a_toml_file_and_from_json(tmp_path):
    (tmp_path / "mine.toml").write_text(
        'pipeline = "spam_classifier"\nmax_length = 9\n[train]\nlr = 1e-3\nepochs = 4\n'
    )
    recipe = make_recipe(str(tmp_path / "mine.toml"), ["train.epochs=5", "train.lr=2e-3"])
    assert (recipe.pipeline, recipe.max_length, recipe.train.lr, recipe.train.epochs) == ("spam-classifier", 9, 2e-3, 5)
    assert recipe.evaluate.metric == "auto"  # the pipeline's own
    write_json(tmp_path / "recipe.json", recipe.model_dump())
    assert make_recipe(str(tmp_path / "recipe.json")) == recipe
    assert make_recipe("classify", ["max_length=3"], {"max_length": 2, "data": "x"}).max_length == 3


@pytest.mark.parametrize(
    "text", ["plain", 'qu"ote\\', "new\nline\ttab", "\x00\x1b\x7f\x85", "é 東京 😀", "# = [x]", ""]
)
def test_a_recipe_s_toml_is_the_recipe(text):
    values = {"data": text, "train": {"lr": 1e-5, "epochs": 3}, "columns": {"label": text}}
    recipe = Recipe.model_validate(make_recipe("spam-classifier").model_dump() | values)
    values = tomllib.loads(as_toml(recipe))
    assert Recipe.model_validate(values) == recipe


def test_the_settings_that_a_run_reads_are_shown_those_that_differ_first():
    pipeline, recipe = load_pipeline("spam-classifier"), make_recipe("spam-classifier", ["train.lr=0.25"])
    lines = describe(recipe, pipeline.stages)
    assert lines[0].startswith("recipe: pipeline=spam-classifier") and "train: lr=0.25" in lines
    usual = next(line for line in lines if line.startswith("train, defaults: "))
    assert "batch_size=16" in usual and "class_weights=none" in usual and "lr=" not in usual
    shown = " ".join(lines)
    assert not any(section in shown for section in ("pretrain", "instruct", "seq2seq", "methods", "architectures"))
    assert "shape" not in shown and "layers=" not in shown
    scratch = make_recipe("pretrain", ["weights=scratch", "shape.layers=3"])
    assert "shape: layers=3" in describe(scratch, load_pipeline("pretrain").stages)


@pytest.mark.parametrize(
    ("pipeline", "setting", "owner"),
    [
        ("spam-classifier", "methods.seeds=9", "the comparison methods"),
        ("spam-classifier", "architectures.seeds=1", "the comparison architectures"),
        ("spam-classifier", "seq2seq.beams=4", r"the task seq2seq \(in evaluate, export\)"),
        ("spam-classifier", "instruct.loss_on=all", r"the task instruct \(in prepare, train, evaluate\)"),
        ("pretrain", "seq2seq.beams=4", "the task seq2seq"),
        ("pretrain", "columns.text=body", r"the task classify \(in download, prepare\)"),
        ("pretrain", "split.test_fraction=0.3", "classify.*instruct.*seq2seq"),
        ("pretrain", "evaluate.metric=f1", r"the task classify \(in evaluate\)"),
        ("instruct", "train.class_weights=balanced", r"the task classify \(in train\)"),
        ("seq2seq", "pretrain.val_blocks=3", "the task pretrain"),
        ("spam-methods", "train.method=lora", "every task that trains a single model"),
        ("spam-methods", "evaluate.aim=max-f1", r"the task classify \(in evaluate\)"),
        ("spam-methods", "train.last_blocks=3", "every task that trains a single model"),
        ("architectures", "train.patience=1", "every task that trains a single model, the comparison methods"),
        ("architectures", "train.lora_rank=4", "every task that trains a single model, the comparison methods"),
        ("architectures", "train.epochs=3", "every task that trains a single model, the comparison methods"),
    ],
)
def test_a_setting_that_nothing_reads_is_refused_with_its_owner(pipeline, setting, owner):
    with pytest.raises(RecipeError, match=f"{setting.partition('=')[0]} has no effect in {pipeline}.*{owner}"):
        make_recipe(pipeline, [setting])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["train.method=full", "train.last_blocks=3"], "train.last_blocks is used only by method last-blocks"),
        (["train.method=head", "train.lora_rank=3"], "train.lora_rank is used only by method lora"),
        (["train.decay_fraction=0.5"], "train.decay_fraction is used only by schedule constant"),
        (["pipeline=pretrain"], "the pipeline is not a setting"),
    ],
)
def test_a_setting_that_another_one_makes_useless_is_refused(settings, words):
    with pytest.raises(RecipeError, match=words):
        make_recipe("spam-classifier", settings)


def test_every_setting_is_read_by_some_pipeline():
    """No field of the schema is without an owner."""
    unread = set(field_names(Recipe)) - {
        key for name in describe_pipelines() for key in field_names(Recipe) if accepts(name, key)
    }
    assert not unread


def accepts(pipeline: str, key: str) -> bool:
    """Whether a run of the pipeline reads a field."""
    loaded = load_pipeline(pipeline)
    return under(key, loaded.reads(loaded.recipe.task))


def test_the_shape_is_that_of_new_weights():
    with pytest.raises(RecipeError, match="shape.layers is used only with weights=scratch"):
        make_recipe("spam-classifier", ["shape.layers=3"])
    assert make_recipe("pretrain", ["weights=scratch", "shape.layers=3"]).shape.layers == 3


def test_old_keys_are_errors_with_their_new_names(tmp_path):
    for text, words in (
        ("[compare]\nseeds = 3", "compare is called methods since version 0.1.0"),
        ("[seq2seq]\nsilent_cross = false", "is called zero_init_cross_attention since"),
    ):
        (tmp_path / "old.toml").write_text(f'pipeline = "spam-methods"\n{text}\n')
        with pytest.raises(RecipeError, match=words):
            make_recipe(str(tmp_path / "old.toml"))


def test_the_threshold_of_before_is_an_aim(tmp_path):
    with pytest.raises(RecipeError, match="unknown key 'evaluate.threshold'; known: threshold is called aim since"):
        make_recipe("spam-classifier", ["evaluate.threshold=max-f1"])
    (tmp_path / "old.toml").write_text('pipeline = "spam-classifier"\n[evaluate]\nthreshold = "max-f1"\n')
    with pytest.raises(RecipeError, match="threshold is called aim since"):
        make_recipe(str(tmp_path / "old.toml"))
    with pytest.raises(RecipeError, match=r"no aim 'precision:2'; known: half, .* such as precision:0\.95"):
        make_recipe("spam-classifier", ["evaluate.aim=precision:2"])
