"""Stage ``evaluate``: the best checkpoint on rows it never saw, beside the baselines, in fp32."""

from finetune.console import say
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
        found = task.evaluate(recipe, run, model.to(device_type()), tokenizer)
    evaluation = {"schema_version": 1, "task": recipe.task, "method": run.result("train")["method"],
                  "weights": describe_start(run.result("download")["weights"]), **found, "seconds": round(seconds(), 3)}
    write_json(run.path("eval.json"), evaluation)
    said = task.verdict(evaluation)
    say(said)
    return {"headline": evaluation["headline"], "verdict": said}
