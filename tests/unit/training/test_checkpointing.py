"""Blocks that run again in the backward pass give the same gradients and keep less."""

import pytest
import torch
from accelerate import Accelerator

from finetune.checkpoints.scratch import new_model, shape_config
from finetune.models.heads import LossModule
from finetune.models.warm_start import warm_encoder_decoder
from finetune.recipe import Shape
from finetune.training.checkpointing import blocks_of, run_again
from finetune.training.step import EagerSteps

ROWS = [3, 40, 17, 8, 25, 0, 31, 12]


def gradient_of(job, settings):
    """(gradients by name, bytes kept for the backward pass) of one step."""
    kept, found = [], {}
    steps = EagerSteps(Accelerator(cpu=True), job.model, [], job, settings)

    def keep(tensor):
        kept.append(tensor.numel() * tensor.element_size())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        numbers = steps.take(ROWS, 0, 0, 1e-3)
    found = {name: p.grad.clone() for name, p in job.model.named_parameters() if p.grad is not None}
    return found, numbers.tolist(), sum(kept)


@pytest.mark.parametrize("dropout", [0.0, 0.2])
@pytest.mark.parametrize("method", ["full", "last-blocks", "lora"])
def test_the_gradients_are_the_same_bits(toy_job, method, dropout):
    lora = {"lora_dropout": dropout} if method == "lora" else {}
    plain, again = (
        gradient_of(*toy_job(method, dropout=dropout, checkpoint_blocks=on, micro_batch_tokens=10**6, **lora))
        for on in (False, True)
    )
    assert plain[0].keys() == again[0].keys() and plain[1] == again[1]
    assert all(torch.equal(plain[0][name], again[0][name]) for name in plain[0])
    assert again[2] < plain[2] / 2


@pytest.mark.parametrize("shape", [{}, {"preset": "llama"}, {"shared_blocks": True}])
def test_the_blocks_of_every_body_are_found_and_put_back(shape):
    """Each once, also where all layers share one; in an encoder-decoder those of both sides."""
    config = shape_config(Shape(layers=2, width=32, heads=2, context=32, **shape), "decoder", 257)
    body = new_model(config, "decoder", 1)
    bodies = [body] if shape else [body, warm_encoder_decoder(body, 1)[0]]
    for own in bodies:
        blocks = blocks_of(LossModule(own))
        assert len(blocks) == (1 if "shared_blocks" in shape else 2 * (1 + (own is not body)))
        with run_again(blocks, False):
            assert all("forward" in vars(block) for block in blocks)
        assert not any("forward" in vars(block) for block in blocks)
