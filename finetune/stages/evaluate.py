"""Stage ``evaluate``: measure the best checkpoint and the baselines on held-out rows, in fp32."""

from dataclasses import dataclass

from finetune.evaluation.results import Evaluation, Headline
from finetune.recipe import Recipe
from finetune.records import Record
from finetune.run import Run
from finetune.stages.train import TRAIN

READS = ("task", "weights", "evaluate.resamples", *TRAIN)
OUTPUTS = ("eval.json",)


@dataclass(frozen=True)
class Evaluated(Record):
    """The result of this stage."""

    headline: Headline
    verdict: str


def outputs(recipe: Recipe) -> tuple[str, ...]:
    """eval.json, and the task's other evaluation files."""
    from finetune.tasks.base import task_of

    return (*OUTPUTS, *task_of(recipe).evaluation_files)


def run(recipe: Recipe, run: Run) -> Evaluated:
    """Write eval.json and the task's per-row results."""
    from dataclasses import replace

    from finetune.console import say
    from finetune.files import write_json
    from finetune.machine import timed
    from finetune.tasks.base import task_of
    from finetune.training.ranks import call_others

    task = task_of(recipe)
    call_others("evaluate", str(run.directory))
    with timed() as seconds:
        found = evaluate_here(recipe, run)
    evaluation = replace(found, seconds=round(seconds(), 3))
    write_json(run.path("eval.json"), evaluation.to_json())
    said = task.verdict(evaluation)
    say(said)
    return Evaluated(evaluation.headline, said)


def evaluate_here(recipe: Recipe, run: Run) -> Evaluation:
    """Evaluate in this process, which may be one of several: they share the forward passes, and all do the rest."""
    from finetune.recipe import FSDP
    from finetune.tasks.base import task_of
    from finetune.tasks.setup import best_model, started_from
    from finetune.training.precision import device_type
    from finetune.training.sharing import together

    with together(evenly=recipe.train.parallel == FSDP):
        model, tokenizer = best_model(recipe, run)
        start = started_from(recipe, run)
        return task_of(recipe).evaluate(recipe, run, model.to(device_type()), tokenizer, start)
