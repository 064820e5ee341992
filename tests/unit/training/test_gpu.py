"""What only an NVIDIA GPU can show: steps wait for nothing, graphs equal eager steps, resumed runs go on, bf16 trains."""

import signal
from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from finetune.errors import Interrupted
from finetune.models.gpt import GPT, IGNORE, GPTConfig
from finetune.models.varlen import PackedLoss, document_bounds, why_not_varlen
from finetune.tasks.pretrain.packing import document_layout
from finetune.training.batching import epoch_batches
from finetune.training.captured import CapturedSteps, why_not
from finetune.training.optim import build_optimizers
from finetune.training.step import EagerSteps, keep_rows

pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def fresh_accelerator():
    """accelerate keeps the device of the first Accelerator of a process, which another test may have made for the CPU."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def eager_steps(made):
    job, settings = made
    accelerator = Accelerator()
    job.model.to(accelerator.device)
    optimizers = build_optimizers(job.model, "adamw", 0.1, (0.9, 0.99))
    return EagerSteps(accelerator, job.model, optimizers, job, settings, keep_rows(job, accelerator.device))


def batches(job, epochs=3):
    return [rows for epoch in range(epochs) for rows in epoch_batches(job.lengths, 8, 1, epoch)]


@pytest.mark.parametrize("way", ["eager", "captured"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_step_waits_for_nothing(toy_job, precision, way):
    eager = eager_steps(toy_job("full", precision=precision, micro_batch_tokens=512))
    steps = CapturedSteps(eager) if way == "captured" else eager
    for number, rows in enumerate(batches(eager.job, 2)):  # libraries and graphs are set up
        steps.take(rows, number, 0, 1e-3)
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = [steps.take(rows, number, 0, 1e-3) for number, rows in enumerate(batches(eager.job, 2))]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.stack(found).isfinite().all()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("method", ["full", "last-blocks", "lora"])
def test_captured_steps_are_the_eager_ones(toy_job, method, precision):
    """Up to the order of atomic additions in the embedding's gradient."""
    found = []
    for captured in (False, True):
        eager = eager_steps(toy_job(method, precision=precision, micro_batch_tokens=512))
        assert why_not(eager) == ""
        steps = CapturedSteps(eager) if captured else eager
        taken = [steps.take(rows, n, 0, 1e-3 / (n + 1)) for n, rows in enumerate(batches(eager.job))]
        found.append((torch.stack(taken).cpu(), [p.detach().cpu().clone() for p in eager.job.model.parameters()]))
        assert not captured or (len(steps.replays) >= 2 and not steps.failed)
    (losses, weights), (others, those) = found
    torch.testing.assert_close(others, losses, rtol=1e-6 if precision == "fp32" else 1e-3, atol=1e-6)
    for one, other in zip(weights, those, strict=True):
        torch.testing.assert_close(other, one, rtol=0, atol=1e-5 if precision == "fp32" else 1e-3)


def test_a_captured_step_without_finite_numbers_changes_no_weight(toy_job):
    job, settings = toy_job("full", micro_batch_tokens=512)
    poison = torch.ones((), device="cuda")
    eager = eager_steps((replace(job, loss_sum=lambda *a: job.loss_sum(*a) * poison), settings))
    steps = CapturedSteps(eager)
    for number, rows in enumerate(batches(job, 2)):
        steps.take(rows, number, 0, 1e-3)
    before = [p.clone() for p in job.model.parameters()]
    poison.fill_(float("nan"))
    for number, rows in enumerate(batches(job, 1)):
        assert not steps.take(rows, number, 0, 1e-3).isfinite().any()
    assert all(torch.equal(*pair) for pair in zip(before, job.model.parameters(), strict=True))


@pytest.mark.parametrize("step", ["eager", "captured"])
def test_a_resumed_run_goes_on(toy_job, run_training, step):
    job, settings = toy_job("full", step=step, epochs=4)
    _, whole, _, _ = run_training(job, settings, name="whole")
    job, settings = toy_job("full", step=step, epochs=4)
    checks = iter(range(100))

    def validate(model):
        if next(checks) == 1:
            signal.raise_signal(signal.SIGTERM)
        return job.validate(model)

    with pytest.raises(Interrupted):
        run_training(replace(job, validate=validate), settings)
    job, settings = toy_job("full", step=step, epochs=4)
    result, parts, _, _ = run_training(job, settings)
    assert result.device == "cuda" and len(parts) == len(whole) == result.steps
    assert [line["loss"] for line in parts] == pytest.approx([line["loss"] for line in whole], rel=1e-4)


def test_bf16_learns_as_fp32_does_and_keeps_fp32_weights(toy_job, run_training):
    losses = {}
    for precision in ("fp32", "bf16"):
        job, settings = toy_job("full", precision=precision, epochs=4)
        _, steps, _, _ = run_training(job, settings, name=precision)
        losses[precision] = [line["loss"] for line in steps]
        assert {p.dtype for p in job.model.parameters()} == {torch.float32}
    assert losses["bf16"][0] == pytest.approx(losses["fp32"][0], rel=0.02)
    assert losses["bf16"] != losses["fp32"] and sum(losses["bf16"][-6:]) < 0.9 * sum(losses["bf16"][:6])


def test_variable_length_attention_is_the_masked_one():
    model = GPT(GPTConfig(500, 128, 128, 2, 2)).initialise(1).to("cuda")
    if why := why_not_varlen(model, torch.device("cuda"), "bf16"):
        pytest.skip(why)
    ids = torch.randint(499, (2, 129), generator=torch.Generator().manual_seed(1))
    ids[torch.rand(ids.shape, generator=torch.Generator().manual_seed(2)) < 0.05] = 499
    inputs, targets = ids[:, :-1].contiguous(), ids[:, 1:].clone()
    targets[1, 100:] = IGNORE
    found = []
    for varlen in (False, True):
        model.zero_grad()
        more = document_bounds(inputs, 499) if varlen else document_layout(inputs, 499)
        tensors = [tensor.to("cuda") for tensor in (inputs, targets, *more)]
        with torch.autocast("cuda", dtype=torch.bfloat16):
            loss = (PackedLoss(model) if varlen else model.loss_sum)(*tensors)
        loss.backward()
        found.append((loss.item(), torch.cat([p.grad.flatten() for p in model.parameters()])))
    assert found[1][0] == pytest.approx(found[0][0], rel=2e-3)
    assert (found[1][1] - found[0][1]).norm() < 0.02 * found[0][1].norm()
