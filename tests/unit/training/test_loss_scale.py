"""fp16: the loss is scaled as torch.amp.GradScaler does, and a step that overflows is skipped and nothing else."""

import json
from dataclasses import replace

import pytest
import torch

from finetune.errors import TrainingError
from finetune.training import loop, loss_scale, resume
from finetune.training.loss_scale import FIRST, LossScale, ScaleState
from finetune.training.step import EagerSteps


def test_scales_are_those_of_torch(monkeypatch):
    """The same steps overflow, and every scale that follows is equal."""
    monkeypatch.setattr(loss_scale, "INTERVAL", 3)
    weight = torch.nn.Parameter(torch.ones(4))
    optimizer = torch.optim.SGD([weight], lr=0.0)
    reference = torch.amp.GradScaler("cpu", growth_interval=3)
    own, random, seen = LossScale(torch.device("cpu")), torch.Generator().manual_seed(1), []
    for number in range(60):
        overflows = number < 2 or bool(torch.rand((), generator=random) < 0.15)
        weight.grad = None
        reference.scale(weight.sum()).backward()
        if overflows:
            weight.grad[2] = torch.inf
        mine = torch.nn.Parameter(weight.detach().clone())
        mine.grad = weight.grad.clone()
        reference.unscale_(optimizer)
        own.unscale([mine])
        torch.testing.assert_close(mine.grad, weight.grad, rtol=0, atol=0)
        reference.step(optimizer)
        reference.update()
        own.update(torch.tensor(float(overflows)))
        seen.append(float(own.scale))
        assert seen[-1] == reference.get_scale() and int(own.steps) == reference._growth_tracker.item()
    assert len(set(seen)) > 5 and max(seen) > FIRST > min(seen)


def test_a_scale_never_grows_to_infinity(monkeypatch):
    monkeypatch.setattr(loss_scale, "INTERVAL", 1)
    own = LossScale(torch.device("cpu"))
    own.load(ScaleState(2.0**127, 0))
    own.update(torch.zeros(()))
    assert float(own.scale) == 2.0**127 and own.state() == ScaleState(2.0**127, 0)


def overflowing(made, at):
    """The job, whose gradients are infinite in the steps with these numbers, counted from 0, and small in all others."""
    job, settings = made
    calls = []

    def loss_sum(module, tensors):
        if not module.training:
            return job.loss_sum(module, tensors)
        calls.append(1)
        return job.loss_sum(module, tensors) * (torch.inf if len(calls) - 1 in at else 1 / 64)

    return replace(job, loss_sum=loss_sum), settings


def steps_of(made):
    job, settings = made
    accelerator, optimizers, _ = loop._start(job, settings)
    return EagerSteps(accelerator, job.model, optimizers, job, settings)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("at", [0, 3])  # also the first, from which moments begin
def test_a_step_that_overflows_is_as_if_it_were_not(toy_job, optimizer, at):
    """Weights, moments and their count of steps; only the scale halves."""
    made = {"precision": "fp16", "optimizer": optimizer, "micro_batch_tokens": 4096}
    steps, plain = (steps_of(overflowing(toy_job(**made), numbers)) for numbers in ({at}, ()))
    for number in range(5):
        rows = [number, 20 + number, 40 - number]
        found = steps.take(rows, number, 0, 1e-3)
        assert bool(found[:2].isfinite().all()) == (number != at)
        assert float(found[2]) == (FIRST if number <= at else FIRST / 2)
        if number != at:
            plain.loss_scale.load(ScaleState(float(found[2])))
            plain.take(rows, number, 0, 1e-3)
    for own, other in zip(steps.job.model.parameters(), plain.job.model.parameters(), strict=True):
        torch.testing.assert_close(own, other, rtol=0, atol=0)
    for mine, others in zip(steps.optimizers, plain.optimizers, strict=True):
        for own, other in zip(mine.state.values(), others.state.values(), strict=True):
            assert {key: value.tolist() for key, value in own.items()} == {k: v.tolist() for k, v in other.items()}


def test_the_gradient_of_fp16_is_that_of_fp32_within_its_rounding(toy_job):
    norms = []
    for precision in ("fp32", "fp16"):
        steps = steps_of(toy_job(precision=precision))
        norms.append(steps.take(list(range(16)), 0, 0, 1e-3)[:2])
    torch.testing.assert_close(norms[1], norms[0], rtol=5e-3, atol=0)
    assert not torch.equal(norms[1], norms[0])  # it is fp16


def test_small_gradients_would_vanish_without_the_scale(toy_job):
    """Those of a loss of 1e-6 are below fp16's smallest number, and are not lost."""
    norms = []
    for scale in (1.0, FIRST):
        job, settings = toy_job(precision="fp16", clip_norm=1e9)
        tiny = replace(job, loss_sum=lambda *a, job=job: job.loss_sum(*a) * 1e-8)
        steps = steps_of((tiny, settings))
        steps.loss_scale.load(ScaleState(scale))
        norms.append(float(steps.take(list(range(16)), 0, 0, 1e-3)[1]))
    exact = steps_of((replace((made := toy_job())[0], loss_sum=lambda *a: made[0].loss_sum(*a) * 1e-8), made[1]))
    true = float(exact.take(list(range(16)), 0, 0, 1e-3)[1])
    assert norms[1] == pytest.approx(true, rel=0.02) and norms[0] < 0.5 * true


def test_skipped_steps_are_counted_and_said(toy_job, run_training, capsys):
    result, steps, validations, _ = run_training(
        *overflowing(toy_job(precision="fp16", micro_batch_tokens=4096), {0, 1, 5})
    )
    assert result.skipped_steps == 3 and result.steps == len(steps) == 12
    assert [line["step"] for line in steps if line["skipped"]] == [1, 2, 6]
    assert [line["loss_scale"] for line in steps[:3]] == [FIRST, FIRST / 2, FIRST / 4]
    assert all((line["loss"] is None) == line["skipped"] for line in steps) and validations
    said = capsys.readouterr().out
    assert "step 6: skipped, its gradients are not finite in fp16 with a loss scale of 16384" in said


def test_many_skipped_steps_in_a_row_stop_the_run_in_words(toy_job, run_training, monkeypatch):
    monkeypatch.setattr(loop, "MOST_SKIPPED", 4)
    made = toy_job(precision="fp16", micro_batch_tokens=4096)
    with pytest.raises(
        TrainingError, match="gradients of 4 steps in a row .* fp16, up to step 8; .* train.precision=fp32"
    ):
        run_training(*overflowing(made, {0, 1, 2, 4, 5, 6, 7}))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_in_other_precisions_the_first_such_step_stops_the_run(toy_job, run_training, precision):
    made = toy_job(precision=precision, micro_batch_tokens=4096)
    with pytest.raises(TrainingError, match="the loss is not finite at step 3; .*Lower train.lr"):
        run_training(*overflowing(made, {2}))


def test_a_resumed_run_goes_on_with_its_scale_to_the_same_bits(toy_job, run_training, monkeypatch):
    monkeypatch.setattr(loss_scale, "INTERVAL", 3)
    made = {"precision": "fp16", "micro_batch_tokens": 4096}
    _, whole, _, folder = run_training(*overflowing(toy_job(**made), {1, 2, 8}), name="whole")
    taken, take = [], EagerSteps.take

    def stops(self, *arguments):
        if len(taken) == 7:
            raise KeyboardInterrupt
        taken.append(1)
        return take(self, *arguments)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(EagerSteps, "take", stops)
        run_training(*overflowing(toy_job(**made), {1, 2}), name="own", checkpoint_seconds=0.0)
    state = json.loads((resume.newest(folder.parent / "own" / "checkpoints") / "state.json").read_text())
    assert state["skipped"] == 2 and state["loss_scale"]["scale"] != FIRST
    result, own, _, other = run_training(*overflowing(toy_job(**made), {1}), name="own")  # its second is the ninth
    assert result.skipped_steps == 3

    def shown(lines):
        return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]

    assert shown(own) == shown(whole)
    for name in ("weights.safetensors", "optimizer.safetensors"):
        last = [resume.step_directory(run / "checkpoints", 12) / name for run in (folder, other)]
        assert last[0].read_bytes() == last[1].read_bytes()
