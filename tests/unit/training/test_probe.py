"""The estimate's arithmetic against numbers made by hand, and that measuring changes nothing."""

import contextlib
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from finetune.training import loop, probe
from finetune.training.batching import epoch_batches, micro_batches
from finetune.training.probe import FirstSteps, Plan, Size

CPU = torch.device("cpu")


def first_steps(sizes, seconds, **more) -> FirstSteps:
    """What was measured, by hand; the processor was there all the time."""
    threads = torch.get_num_threads()
    return FirstSteps(
        [], 0, CPU, [Size(*size) for size in sizes], list(seconds), **{"cpu_seconds": sum(seconds) * threads} | more
    )


@pytest.mark.parametrize(
    ("tokens", "seconds", "fixed", "per_token", "apart"),
    [
        ([100, 200, 400], [0.3, 0.5, 0.9], 0.1, 0.002, 0),  # on a line
        ([100, 200, 300], [0.1, 0.3, 0.5], 0, 0.9 / 600, 1 / 3),  # the line would begin below zero
        ([100, 200, 300], [0.4, 0.3, 0.2], 0.3, 0, 1 / 3),  # more tokens never cost less
        ([100, 100, 100], [0.2, 0.2, 0.5], 0, 0.003, 2 / 3),
    ],
)  # all blocks are full
def test_a_line_through_the_steps_with_no_negative_part(tokens, seconds, fixed, per_token, apart):
    with np.errstate(all="raise"):
        assert probe.fit_steps(tokens, seconds) == pytest.approx((fixed, per_token, apart), abs=1e-12)


def test_seconds_are_steps_and_validations_and_checkpoints_and_what_came_before():
    first = first_steps([(900, 900), (100, 100), (200, 200), (400, 400)], [9.0, 0.3, 0.5, 0.9], save_seconds=2.0)
    plan = Plan(
        [Size(100, 100), Size(300, 300)],
        steps=10,
        validations=2,
        validation_tokens=600,
        gradient_bytes=0,
        save_every_seconds=3.0,
        set_up_seconds=7.0,
    )
    steps = 10 * 0.1 + 0.002 * 200 * 10  # the first step, of 9 seconds, does not count
    training = steps + steps / 2000 / 3 * 600 * 2
    saves = 2 + 2  # two validations, and two times three seconds in 6
    found = probe.estimate(first, plan)
    assert training == pytest.approx(6.0) and found.steps == 3
    assert found.seconds == pytest.approx(7 + training + 2 * saves)
    assert found.seconds_low == pytest.approx(0.8 * found.seconds)
    assert found.seconds_high == pytest.approx(1.2 * found.seconds)


def test_no_pause_between_checkpoints_is_one_after_each_step():
    first = first_steps([(1, 1), (100, 100)], [1.0, 0.2], save_seconds=2.0)
    found = probe.estimate(first, Plan([Size(100, 100)], 10, 0, 0, 0, save_every_seconds=0.0))
    assert found.seconds == pytest.approx(10 * 0.2 + 10 * 2.0)


def test_the_range_is_as_wide_as_the_steps_are_apart():
    first = first_steps([(1, 1), (100, 100), (100, 100), (100, 100)], [1.0, 0.2, 0.2, 0.5])
    found = probe.estimate(first, Plan([Size(100, 100)], 10, 0, 0, 0, 60.0))
    assert found.seconds == pytest.approx(3.0)
    assert found.seconds_high == pytest.approx(3.0 * (1 + 2 / 3))


def test_a_busy_machine_is_reported_and_lowers_the_bottom_of_the_range():
    first = first_steps([(100, 100)] * 4, [1.0] * 4, cpu_seconds=4.0 * 0.1 * torch.get_num_threads())
    found = probe.estimate(first, Plan([Size(100, 100)], 10, 0, 0, 0, 60.0))
    assert found.seconds == 10 and found.seconds_low == pytest.approx(1.0)
    assert "10%" in probe.crowded(found)
    alone = first_steps([(100, 100)] * 4, [1.0] * 4)
    assert not probe.crowded(probe.estimate(alone, Plan([Size(1, 1)], 1, 0, 0, 0, 60.0)))


def test_one_step_is_better_than_none_and_none_gives_no_estimate():
    plan = Plan([Size(100, 100)], 10, 0, 0, 0, 60.0)
    assert probe.estimate(first_steps([(50, 50)], [0.5]), plan).seconds == pytest.approx(10.0)
    assert probe.estimate(first_steps([], []), plan) is None


@pytest.mark.parametrize(
    ("before", "largest", "kept", "expected"),
    [
        (0, 400, 0, 1000),  # the largest batch was among the steps
        (0, 800, 0, 600 + 100 + 2 * 300),  # weights, moments and gradients do not grow with the batch
        (5000, 800, 0, 5000),  # loading took more
        (0, 400, 70, 1070),
    ],
)
def test_peak_scales_what_the_tokens_need(before, largest, kept, expected):
    first = first_steps([(400, 400)], [1.0], peak_before=before, peak=1000, held=600)
    plan = Plan([Size(9, largest), Size(9, 9)], 2, 0, 0, gradient_bytes=100, save_every_seconds=60.0, kept_bytes=kept)
    found = probe.estimate(first, plan)
    assert found.peak_bytes == expected
    assert found.peak_bytes_low == max(before, 1000) <= expected  # what was seen so far
    assert found.peak_bytes_high == int(1.25 * expected)


def test_a_batch_is_as_large_as_its_tensors(toy_job):
    job, settings = toy_job(micro_batch_tokens=64)
    rows = epoch_batches(job.lengths, settings.batch_size, settings.seed, 0)[0]
    tensors = [job.batch(part)[0].numel() for part in micro_batches(rows, job.lengths, 64)]
    assert len(tensors) > 1
    assert probe.batch_size(rows, job.lengths, 64) == Size(sum(tensors), max(tensors))


def test_the_probe_takes_the_largest_batch_and_the_middle_of_each_third():
    lengths = list(range(1, 91))
    batches = [[row] for row in (*range(45, 90), *range(45))]
    assert probe.choose_batches(batches, lengths, 4096) == [[89], [15], [45], [75]]
    assert probe.choose_batches([[3]], lengths, 4096) == [[3]] * 4


@pytest.mark.parametrize("method", ["full", "last-blocks"])
def test_measuring_changes_no_bit_of_the_training(method, toy_job, run_training, monkeypatch):
    job, settings = toy_job(method, dropout=0.1)
    result, measured, *_ = run_training(job, settings, "measured")
    weights = {name: tensor.clone() for name, tensor in job.model.state_dict().items()}
    monkeypatch.setattr(FirstSteps, "step", lambda self, rows: contextlib.nullcontext())
    job, settings = toy_job(method, dropout=0.1)
    without, plain, *_ = run_training(job, settings, "plain")
    assert result.estimate.seconds > 0 and without.estimate is None
    assert [line["loss"] for line in measured] == [line["loss"] for line in plain]
    assert all(torch.equal(tensor, weights[name]) for name, tensor in job.model.state_dict().items())


def test_tried_steps_are_real_ones(toy_job, tmp_path):
    job, settings = toy_job("last-blocks")
    before = {name: tensor.clone() for name, tensor in job.model.state_dict().items()}
    chosen = probe.choose_batches(epoch_batches(job.lengths, 8, settings.seed, 0), job.lengths, 128)
    first = loop.try_steps(job, settings, chosen, tmp_path)
    assert len(first.seconds) == 4 and min(first.seconds) > 0 and first.save_seconds > 0
    assert first.peak >= first.held > 1e7 and (tmp_path / "step-00000000" / "weights.safetensors").exists()
    assert [size.tokens for size in first.sizes] == [probe.batch_size(rows, job.lengths, 128).tokens for rows in chosen]
    moved = {name for name, tensor in job.model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved == {name for name, p in job.model.named_parameters() if p.requires_grad}


def test_the_plan_counts_what_the_loop_then_does(toy_job, run_training):
    job, settings = toy_job(max_steps=9, evaluations_per_epoch=2)
    plan = loop.make_plan(job, settings, 60.0, 1.5)
    result, steps, validations, _ = run_training(job, settings)
    assert plan.steps == len(steps) == result.planned_steps == 9 and plan.validations == len(validations) == 3
    assert plan.gradient_bytes == 4 * sum(p.numel() for p in job.model.parameters())
    assert plan.validation_tokens == job.validation_tokens > 0


def test_the_share_of_the_processor_is_of_steps_on_a_processor():
    threads = torch.get_num_threads()
    for device, cpu_seconds, share in ((CPU, 1.0 * threads, 0.25), (CPU, 9.0 * threads, 1.0), ("cuda", 1.0, 1.0)):
        first = FirstSteps([], 0, torch.device(device), seconds=[1.0, 3.0], cpu_seconds=cpu_seconds)
        assert first.cpu_share() == share


def test_the_peak_is_measured_anew_where_the_steps_run(monkeypatch):
    asked: list[object] = []
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", asked.append)
    monkeypatch.setattr(probe, "reset_peak_memory", lambda keep_bytes: asked.append(keep_bytes))
    for device in ("cuda", "cpu"):
        probe._restart_peak(torch.device(device), 7)
    assert asked == [torch.device("cuda"), 7]


def test_a_step_takes_the_time_between_its_start_and_its_end_and_only_the_first_few_are_timed(monkeypatch):
    clock, worked = iter([100.0, 103.0, 110.0, 110.5, 200.0, 201.0, 300.0, 301.0]), iter(range(0, 80, 10))
    monkeypatch.setattr(
        probe, "time", SimpleNamespace(monotonic=lambda: next(clock), process_time=lambda: float(next(worked)))
    )
    first = FirstSteps([5], 64, CPU)
    for _ in range(6):
        with first.step([0]):
            pass
    assert first.seconds == [3.0, 0.5, 1.0, 1.0] and first.cpu_seconds == 40.0 and first.sizes == [Size(5, 5)] * 4
