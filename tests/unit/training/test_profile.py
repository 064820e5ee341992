"""The parts of a step add up to it, and a profiled step moves the weights as the loop does."""

import copy

import pytest
import torch
from accelerate import Accelerator

from finetune.commands.profile import table
from finetune.training import profile
from finetune.training.optim import build_optimizers
from finetune.training.profile import PARTS, Profile, profile_steps
from finetune.training.step import EagerSteps


def test_a_profiled_step_is_the_loops(toy_job):
    job, settings = toy_job(dropout=0.0)
    other = copy.deepcopy(job.model)
    rows = list(range(8))
    found = profile_steps(job, settings, [rows], torch.device("cpu"))
    mine = {name: parameter.detach().clone() for name, parameter in job.model.named_parameters()}

    job.model.load_state_dict(other.state_dict())
    optimizers = build_optimizers(
        job.model, settings.optimizer, settings.weight_decay, (settings.beta_1, settings.beta_2)
    )
    EagerSteps(Accelerator(cpu=True), job.model, optimizers, job, settings).take(rows, 0, 0, settings.chosen_lr)
    for name, parameter in job.model.named_parameters():
        torch.testing.assert_close(mine[name], parameter.detach(), rtol=1e-5, atol=1e-6)
    assert found.steps == 1 and found.tokens >= sum(job.lengths[row] for row in rows)
    assert set(found.seconds) == set(PARTS) and min(found.seconds.values()) > 0 and found.peak_flops > 0
    trained = sum(
        p.numel()
        for n, p in job.model.named_parameters()
        if n.endswith("weight") and "embedding" not in n and "norm" not in n
    )
    assert found.flops == pytest.approx(6 * trained * found.tokens)


def test_the_first_batch_is_a_warm_up_and_hooks_are_taken_away(toy_job):
    job, settings = toy_job()
    found = profile_steps(job, settings, [[0, 1], [2, 3], [4, 5]], torch.device("cpu"))
    assert found.steps == 2
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in job.model.modules())


def test_shares_and_speed_are_of_the_measured_time():
    seconds = dict(zip(PARTS, (1.0, 2.0, 3.0, 0.0, 3.0, 1.0), strict=True))
    lines = table(Profile(seconds, steps=10, tokens=500, flops=2e10, peak_flops=4e9))
    assert [line.split()[-2:] for line in lines[1:4]] == [["100.0", "10.0%"], ["200.0", "20.0%"], ["300.0", "30.0%"]]
    assert lines[-2].startswith("50 tokens per second")
    assert lines[-1].startswith("2.0 GFLOP per second") and "50% of the 4 " in lines[-1]


def test_frozen_weights_cost_no_gradient_of_their_own(toy_job):
    job, settings = toy_job("head", dropout=0.0)
    found = profile_steps(job, settings, [[0, 1]], torch.device("cpu"))
    linear = [module.weight for module in job.model.modules() if isinstance(module, torch.nn.Linear)]
    costs = [(6 if weight is job.model.head.weight else 2) * weight.numel() for weight in linear]
    assert len(costs) == 9 and found.flops == pytest.approx(sum(costs) * found.tokens)


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_the_speed_of_the_machine_is_that_of_the_precision(monkeypatch, precision, dtype):
    asked = []
    monkeypatch.setattr(profile, "MATRIX", 8)
    monkeypatch.setattr(
        profile.torch, "randn", lambda *size, **options: asked.append((size, options["dtype"])) or torch.ones(size)
    )
    assert profile._matrix_speed(precision, torch.device("cpu")) > 0 and asked == [((8, 8), dtype)]
