"""A stage reads the settings that it declares and no others: what it declares decides whether it is done again.

What no stage of a pipeline declares is refused unless it is a default, so that reading it changes nothing. A check
that stops a run early reads what it likes; it leaves nothing.
"""

from importlib import import_module

import pytest

from finetune.config import Settings, under
from finetune.pipeline import load_pipeline, stage_name, stage_reads
from finetune.recipe import Recipe
from finetune.tasks.classify.task import ClassifyTask

SHORT = ["train.threads=1", "train.max_steps=2", "evaluate.resamples=100"]
RUNS = {
    "spam-classifier": ["data=spam-sample", "weights=random-bytes", "train.method=last-blocks"],
    "instruct": ["weights=random-bytes", "instruct.max_new_tokens=2"],
    "seq2seq": ["data=pairs.tsv", "weights=random-bytes", "seq2seq.max_new_tokens=2", "seq2seq.beams=2"],
    "translate": ["data=pairs.tsv", "weights=random-bytes", "seq2seq.max_new_tokens=2", "seq2seq.family=decoder"],
    "pretrain": ["weights=scratch", "shape.layers=1", "shape.width=16", "shape.context=32"],
    "spam-methods": ["data=spam-sample", "weights=random-bytes", "methods.seeds=1", 'methods.candidates=["head"]'],
}


@pytest.fixture
def reads(monkeypatch):
    """Stage -> the dotted keys that it has read, while its ``run`` was at work."""
    sections = {
        info.annotation: name
        for name, info in Recipe.model_fields.items()
        if isinstance(info.annotation, type) and issubclass(info.annotation, Settings)
    }
    sections[Recipe] = ""
    found, at_work, checks = {}, [], []

    def noted(self, name):
        kind = type(self)
        if (
            at_work
            and not checks
            and kind in sections
            and name in kind.model_fields
            and kind.model_fields[name].annotation not in sections
        ):
            found[at_work[-1]].add(f"{sections[kind]}.{name}".removeprefix("."))
        return object.__getattribute__(self, name)

    def watch(stage):
        original = stage.run

        def run(recipe, run, **more):
            at_work.append(stage_name(stage))
            found[at_work[-1]] = set()
            try:
                return original(recipe, run, **more)
            finally:
                at_work.pop()

        monkeypatch.setattr(stage, "run", run)

    def checking(self, recipe, check=ClassifyTask.check_data):
        checks.append(check)
        check(self, recipe)
        checks.pop()

    monkeypatch.setattr(ClassifyTask, "check_data", checking)
    monkeypatch.setattr(Settings, "__getattribute__", noted)
    for name in ("download", "verify", "prepare", "train", "evaluate", "audit", "report", "export"):
        watch(import_module(f"finetune.stages.{name}"))
    watch(import_module("finetune.comparisons.methods.stage"))
    return found


@pytest.mark.parametrize("pipeline", RUNS)
def test_a_stage_reads_what_it_declares(finetune, tmp_path, reads, pipeline):
    lines = [f"{n}\tnumber {n % 7} of {n}" for n in range(60)]
    (tmp_path / "pairs.tsv").write_text("source\ttarget\n" + "\n".join(lines) + "\n")
    settings = [part for setting in [*RUNS[pipeline], *SHORT] for part in ("--set", setting)]
    done = finetune("run", pipeline, *settings)
    assert done.status == 0, done.err
    loaded = load_pipeline(pipeline)
    declared = {
        stage_name(stage): stage_reads(stage, loaded.recipe.task) for stage in loaded.stages if stage.READS is not None
    }
    wrong = {
        stage: sorted(
            key for key in reads[stage] if not under(key, keys) and under(key, loaded.reads(loaded.recipe.task))
        )
        for stage, keys in declared.items()
    }
    assert reads["prepare"] and len(declared) > 3 and not any(wrong.values()), wrong
