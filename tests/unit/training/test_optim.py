"""Learning rate and AdamW against transformers and torch."""

import math

import pytest
import torch
from transformers import get_cosine_with_min_lr_schedule_with_warmup

from finetune.training.optim import FullPrecisionMuon, build_optimizers, decay_groups, learning_rate


def transformers_rates(steps, warmup, total, peak, minimum):
    """What transformers' scheduler gives at its steps 0 ... steps - 1."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=peak)
    scheduler = get_cosine_with_min_lr_schedule_with_warmup(optimizer, warmup, total, min_lr_rate=minimum)
    rates = []
    for _ in range(steps):
        rates.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize(
    "steps, warmup_fraction, minimum",
    [(100, 0.1, 0.1), (97, 0.13, 0.0), (10, 0.0, 0.1), (7, 1.0, 0.5), (33, 0.5, 1.0), (2, 0.1, 0.1), (3, 0.4, 0.0)],
)
def test_rate_is_transformers_without_the_step_at_rate_zero(steps, warmup_fraction, minimum):
    """transformers begins at 0 and ends a step before the minimum. We do neither, as no step is to be in vain: the
    warmup is one step ahead of theirs, and the cosine is theirs for one step less, so its end is the last step."""
    warmup = math.ceil(warmup_fraction * steps)
    ours = [learning_rate(step, steps, 3e-4, warmup_fraction, minimum) for step in range(steps)]
    rising = transformers_rates(warmup + 1, warmup, steps, 3e-4, minimum)
    falling = transformers_rates(steps, warmup, steps - 1, 3e-4, minimum)
    assert ours[:warmup] == pytest.approx(rising[1:], rel=1e-12)
    assert ours[warmup:] == pytest.approx(falling[warmup:], rel=1e-12)
    assert ours[0] > 0 and max(ours) == pytest.approx(3e-4)
    if steps > warmup + 1:
        assert ours[-1] == pytest.approx(3e-4 * minimum, abs=1e-18)


def test_rate_depends_on_the_step_alone():
    order = [17, 3, 99, 0, 3, 17]
    rates = [learning_rate(step, 100, 1e-3, 0.1, 0.1) for step in order]
    assert rates[0] == rates[5] and rates[1] == rates[4]
    assert learning_rate(0, 1, 1e-3, 0.1, 0.1) == 1e-3


def constant(steps, warmup_fraction, decay_fraction, minimum=0.0):
    return [
        learning_rate(step, steps, 1.0, warmup_fraction, minimum, "constant", decay_fraction) for step in range(steps)
    ]


def test_the_constant_rate_lasts_until_the_decay():
    rates = constant(100, 0.05, 0.2, 0.1)
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0]) and set(rates[5:80]) == {1.0}
    falling = [1 - 0.9 * math.sqrt((step + 1) / 20) for step in range(20)]
    assert rates[80:] == pytest.approx(falling) and rates[-1] == pytest.approx(0.1)


def test_the_constant_rate_without_a_decay_is_the_same_however_long_the_training():
    assert set(constant(50, 0.0, 0.0)) == {1.0}
    assert constant(1000, 0.001, 0.0)[:50] == constant(10_000, 0.0001, 0.1)[:50]


@pytest.mark.parametrize("steps, warmup, decay", [(1, 0.0, 1.0), (10, 0.5, 1.0), (10, 1.0, 1.0), (7, 0.9, 0.5)])
def test_a_decay_that_would_begin_in_the_warmup_begins_after_it(steps, warmup, decay):
    rates, rising = constant(steps, warmup, decay), math.ceil(warmup * steps)
    assert rates[:rising] == sorted(rates[:rising]) and rates[rising:] == sorted(rates[rising:], reverse=True)
    assert min(rates) >= 0 and (rising == steps or rates[-1] == pytest.approx(0.0))


@pytest.mark.parametrize("method", ["full", "last-blocks", "head", "lora"])
def test_each_moving_parameter_is_in_one_group_and_no_norm_or_bias_decays(toy_job, method):
    job, _ = toy_job(method)
    names = {p: name for name, p in job.model.named_parameters()}
    [optimizer] = build_optimizers(job.model, "adamw", 0.1, (0.9, 0.99))
    decayed, kept = ([names[p] for p in group["params"]] for group in optimizer.param_groups)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.0]
    moving = [name for name, p in job.model.named_parameters() if p.requires_grad]
    assert sorted(decayed + kept) == sorted(moving)
    assert not [name for name in decayed if "norm" in name or name.endswith("bias")]
    assert all("norm" in name or name.endswith("bias") for name in kept)
    assert "head.weight" in decayed and (method in ("head", "lora")) == (not kept)


def test_a_step_is_torchs_plain_adamw():
    torch.manual_seed(0)
    model, reference = (torch.nn.Sequential(torch.nn.Linear(7, 5), torch.nn.LayerNorm(5)) for _ in range(2))
    reference.load_state_dict(model.state_dict())
    [ours] = build_optimizers(model, "adamw", 0.1, (0.9, 0.99))
    plain = torch.optim.AdamW(
        [
            {"params": [reference[0].weight], "weight_decay": 0.1},
            {"params": [reference[0].bias, *reference[1].parameters()], "weight_decay": 0.0},
        ],
        betas=(0.9, 0.99),
        fused=False,
        foreach=False,
    )
    for rate in (0.1, 0.03, 0.2, 0.01):
        x = torch.randn(4, 7)
        for optimizer, network in ((ours, model), (plain, reference)):
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.zero_grad()
            network(x).square().mean().backward()
            optimizer.step()
        for one, other in zip(model.parameters(), reference.parameters(), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_groups_follow_the_shape():
    shapes = {"embedding": (4, 2), "matrix": (2, 3), "bias": (3,), "scalar": ()}
    decayed, kept = decay_groups([(name, torch.zeros(shape)) for name, shape in shapes.items()], 0.5)
    assert [tuple(p.shape) for p in decayed["params"]] == [(4, 2), (2, 3)]
    assert [tuple(p.shape) for p in kept["params"]] == [(3,), ()]


def test_muon_takes_the_matrices_of_the_blocks_and_adamw_the_rest(toy_job):
    job, _ = toy_job("full")
    names = {p: name for name, p in job.model.named_parameters()}
    muon, adamw = build_optimizers(job.model, "muon", 0.1, (0.9, 0.99))
    matrices, rest = (
        {names[p] for group in optimizer.param_groups for p in group["params"]} for optimizer in (muon, adamw)
    )
    assert matrices == {
        name
        for name in names.values()
        if ".blocks." in name and name.endswith(("qkv.weight", "out.weight", "up.weight", "down.weight"))
    }
    assert matrices | rest == set(names.values()) and not matrices & rest


def test_a_step_of_muon_moves_a_matrix_along_the_orthogonal_factor_of_its_gradient(toy_job):
    job, _ = toy_job("full")
    matrix = job.model.body.blocks[0].mlp.up.weight
    before = matrix.detach().clone()
    muon, _ = build_optimizers(job.model, "muon", 0.0, (0.9, 0.99))
    for group in muon.param_groups:
        group["lr"] = 1.0
    matrix.grad = torch.randn(matrix.shape, generator=torch.Generator().manual_seed(1))
    muon.step()
    left, _, right = torch.linalg.svd(matrix.grad, full_matrices=False)
    moved = (before - matrix.detach()) / (0.2 * max(matrix.shape) ** 0.5)
    sizes = torch.linalg.svdvals(moved)
    assert sizes.min() > 0.5 and sizes.max() < 1.3  # its iteration stops near 1 (Jordan et al. 2024)
    cosine = (moved * (left @ right)).sum() / moved.norm() / (left @ right).norm()
    assert cosine > 0.97


def test_muon_in_full_precision_moves_as_torchs_does_in_bf16():
    torch.manual_seed(0)
    ours, theirs = (torch.nn.ParameterList([torch.zeros(48, 16), torch.zeros(16, 48)]) for _ in range(2))
    pairs = [
        kind(list(one), lr=0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
        for kind, one in ((FullPrecisionMuon, ours), (torch.optim.Muon, theirs))
    ]
    for _ in range(4):
        for one, other in zip(ours, theirs, strict=True):
            one.grad = torch.randn(one.shape)
            other.grad = one.grad.clone()
        for optimizer in pairs:
            optimizer.step()
    for one, other in zip(ours, theirs, strict=True):
        assert (one - other).norm() < 0.02 * other.norm()
        assert pairs[0].state[one].keys() == pairs[1].state[other].keys()
