"""Stage ``verify``: the checkpoint fits the from-scratch GPT, every tensor accounted for."""

from finetune.console import say
from finetune.errors import WeightsError
from finetune.models.encoder_decoder import EncoderDecoder
from finetune.models.heads import Classifier
from finetune.recipe import Recipe
from finetune.run import Run
from finetune.tasks.setup import base_weights, write_new_weights

OUTPUTS = ["base/*"]


def run(recipe: Recipe, run: Run) -> dict:
    """Load the checkpoint once to verify it; nothing is written but new weights."""
    write_new_weights(recipe, run.path("base"))
    loaded = base_weights(recipe, run).load()
    gpt = loaded.model.gpt if isinstance(loaded.model, Classifier) else loaded.model
    if gpt is not loaded.model:
        say("these weights are a classifier's: its head is left out, its blocks are used")
    if isinstance(gpt, EncoderDecoder) and recipe.task != "seq2seq":
        raise WeightsError(f"{recipe.weights}: an encoder-decoder's weights", got=f"task {recipe.task}",
                           known="task seq2seq", do="Give a GPT-2's.")
    shape, report = gpt.config, loaded.report
    say(f"model: {report.parameters:,} parameters in {report.loaded} tensors ({', '.join(report.dtypes)}), "
        f"{shape.layers} layers, width {shape.width}, context {shape.context}, {shape.vocab_size:,} tokens"
        + (f"; {len(report.skipped)} buffers or tied copies skipped" if report.skipped else ""))
    return {"parameters": report.parameters, "tensors": report.loaded, "transposed": report.transposed,
            "skipped": report.skipped, "dtypes": report.dtypes, "layers": shape.layers, "width": shape.width,
            "heads": shape.heads, "context": shape.context, "vocab_size": shape.vocab_size,
            "tokenizer_sha256": loaded.tokenizer.fingerprint()}
