"""Stage ``evaluate``: the best checkpoint on rows it never saw, beside the baselines, in fp32."""

from dataclasses import replace

from finetune.console import say
from finetune.evaluation.results import Start, StartWeights
from finetune.files import write_json
from finetune.machine import timed
from finetune.recipe import Recipe
from finetune.run import Run
from finetune.tasks.base import task_named
from finetune.tasks.setup import best_model, describe_start
from finetune.training.precision import device_type

OUTPUTS = ["eval.json", "predictions.csv", "answers.csv", "targets.csv", "attention.json"]


def run(recipe: Recipe, run: Run) -> dict:
    """Write eval.json, and beside it what the task holds of single rows."""
    task = task_named(recipe.task)
    with timed() as seconds:
        model, tokenizer = best_model(recipe, run)
        weights = StartWeights(**describe_start(run.result("download")["weights"]))
        found = task.evaluate(recipe, run, model.to(device_type()), tokenizer,
                              Start(run.result("train")["method"], weights))
    evaluation = replace(found, seconds=round(seconds(), 3))
    write_json(run.path("eval.json"), evaluation.to_json())
    said = task.verdict(evaluation)
    say(said)
    return {"headline": evaluation.headline.to_json(), "verdict": said}
