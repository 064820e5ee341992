"""Stage ``verify``: check that the checkpoint fits our GPT and that every tensor is accounted for."""

from finetune.recipe import Recipe
from finetune.records import Verified
from finetune.run import Run

READS = ("task", "weights", "shape", "train.seed", "train.dropout")
OUTPUTS = ("base/*",)


def run(recipe: Recipe, run: Run) -> Verified:
    """Load the checkpoint and account for its tensors; later stages reuse it from memory."""
    from finetune.checkpoints.layouts import differences
    from finetune.console import say
    from finetune.tasks.base import task_named
    from finetune.tasks.setup import BASE, load_base, write_new_weights

    write_new_weights(recipe, run.path("base"))
    loaded = run.memory[BASE] = load_base(recipe, run)
    if loaded.body is not loaded.model:
        say("these are a classifier's weights: its blocks are used, and its head is discarded")
    task_named(recipe.task).check_start(recipe, type(loaded.body), loaded.body.config)
    shape, report = loaded.body.config, loaded.report
    say(
        f"model: {report.parameters:,} parameters in {report.loaded} tensors ({', '.join(report.dtypes)}), "
        f"{shape.layers} layers, width {shape.width}, context {shape.context}, {shape.vocab_size:,} tokens"
        + (f"; {len(report.skipped)} buffers or tied copies skipped" if report.skipped else "")
    )
    if said := differences(shape):
        say(f"options: {said}")
    return Verified(
        report.parameters,
        report.loaded,
        report.transposed,
        report.skipped,
        report.dtypes,
        shape.layers,
        shape.width,
        shape.heads,
        shape.context,
        shape.vocab_size,
        loaded.tokenizer.fingerprint(),
    )
