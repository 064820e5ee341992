"""The loop against plain autograd on single rows, and its rules for stopping, failing and choosing."""

import json
import math
import signal
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from torch.nn import functional as F

from finetune.adapters.lora import lora_tensors, merge
from finetune.errors import Interrupted, TrainingError
from finetune.tasks.classify import job as classify_job
from finetune.training import loop
from finetune.training.batching import epoch_batches, micro_batches
from finetune.training.step import EagerSteps

ROWS = [3, 40, 17, 8, 25, 0, 31, 12]  # ragged: from a few bytes to several dozen


class Recorder:
    """In the place of an optimizer: keeps the gradients that it should have applied."""

    def __init__(self, model):
        self.model, self.gradients, self.param_groups = model, None, []

    def step(self):
        self.gradients = {name: p.grad.clone() for name, p in self.model.named_parameters() if p.grad is not None}

    def zero_grad(self, set_to_none):
        self.model.zero_grad(set_to_none=set_to_none)


def one_step(job, settings):
    """(loss, norm, gradients by name) of one optimizer step over ROWS."""
    recorder = Recorder(job.model)
    steps = EagerSteps(Accelerator(cpu=True), job.model, [recorder], job, settings)
    loss, norm = steps.take(ROWS, step=0, epoch=0, rate=1e-3).tolist()
    return loss, norm, recorder.gradients


def plain_step(job, weights):
    """The same by autograd on each unpadded row alone: sum of weight * cross entropy, over the sum of weights."""
    model = job.model
    model.zero_grad()
    losses = []
    for row in ROWS:
        ids, _, target, _ = job.batch([row])
        assert ids.dtype == torch.long and ids.shape == (1, job.lengths[row])
        hidden = model.body.hidden_states(ids)[0, -1]
        losses.append(-torch.log_softmax(hidden @ model.head.weight.T, -1)[target.item()] * weights[row])
    loss = sum(losses) / sum(weights[row] for row in ROWS)
    loss.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return loss.item(), gradients


def distance(one, other):
    """The norm of the difference over the norm."""
    assert one.keys() == other.keys()
    difference = math.sqrt(sum((one[name] - other[name]).double().square().sum().item() for name in one))
    return difference / math.sqrt(sum(value.double().square().sum().item() for value in other.values()))


def stirred(made):
    """The job and its settings, the adapters as if they had learnt something: at B = 0, A has no gradient."""
    generator = torch.Generator().manual_seed(3)
    for tensor in lora_tensors(made[0].model).values():
        tensor.data.normal_(0.0, 0.1, generator=generator)
    return made


@pytest.mark.parametrize("weighting", ["none", "balanced"])
@pytest.mark.parametrize(
    "method, targets",
    [("full", None), ("last-blocks", None), ("head", None), ("lora", ("*",)), ("lora", ("blocks.1.mlp.*",))],
)
def test_a_step_is_the_mean_over_its_rows_however_it_is_cut(toy_job, monkeypatch, method, targets, weighting):
    lora = {"lora_targets": targets} if targets else {}
    with monkeypatch.context() as patch:
        patch.setattr(classify_job, "CACHE_LIMIT", 0)
        plain, _ = stirred(toy_job("lora" if lora else "full", class_weights=weighting, **lora))
    assert len({plain.lengths[row] for row in ROWS}) >= 6
    assert (len({plain.weights[row] for row in ROWS}) == 2) == (weighting == "balanced")
    expected_loss, expected = plain_step(plain, plain.weights)
    for budget, parts in ((10**6, 1), (90, 4), (1, 8)):
        job, settings = stirred(
            toy_job(method, class_weights=weighting, micro_batch_tokens=budget, clip_norm=1e9, **lora)
        )
        assert len(micro_batches(ROWS, job.lengths, budget)) == parts
        moving = {name for name, p in job.model.named_parameters() if p.requires_grad}
        loss, norm, gradients = one_step(job, settings)
        assert gradients.keys() == moving
        assert loss == pytest.approx(expected_loss, rel=1e-6)
        assert distance(gradients, {name: expected[name] for name in moving}) < 1e-6
        assert norm == pytest.approx(math.sqrt(sum(expected[name].square().sum().item() for name in moving)), rel=1e-6)


def test_clipping_is_torchs(toy_job):
    job, settings = toy_job("full", clip_norm=0.01)
    _, expected = plain_step(job, job.weights)
    parameters = dict(job.model.named_parameters())
    for name, value in expected.items():
        parameters[name].grad = value
    expected_norm = torch.nn.utils.clip_grad_norm_(job.model.parameters(), 0.01).item()
    expected = {name: p.grad.clone() for name, p in parameters.items()}
    job.model.zero_grad()
    _, norm, gradients = one_step(job, settings)
    assert norm == pytest.approx(expected_norm, rel=1e-6) and norm > 0.01
    assert distance(gradients, expected) < 1e-6


def test_loss_in_the_log_is_that_of_the_rows_of_the_step(toy_job, run_training):
    job, settings = toy_job("full", epochs=1, lr=1e-12, warmup_fraction=0.0, weight_decay=0.0)
    expected = []
    for rows in epoch_batches(job.lengths, settings.batch_size, settings.seed, 0):
        losses = [
            F.cross_entropy(job.model(*inputs), target).item()
            for *inputs, target, _ in (job.batch([row]) for row in rows)
        ]
        expected.append((sum(losses) / len(rows), len(rows), sum(job.lengths[row] for row in rows)))
    result, steps, validations, _ = run_training(job, settings)
    assert [line["loss"] for line in steps] == pytest.approx([loss for loss, _, _ in expected], rel=1e-6)
    assert [(line["rows"], line["tokens"]) for line in steps] == [(rows, tokens) for _, rows, tokens in expected]
    assert sorted(line["rows"] for line in steps) == [4, 8, 8, 8, 8, 8] and len(validations) == 1
    assert result.tokens == sum(job.lengths) and result.steps == result.planned_steps == 6


@pytest.mark.parametrize("poison", ["nan loss", "nan gradient"])
def test_a_non_finite_loss_stops_the_run_and_changes_nothing(toy_job, run_training, tmp_path, poison):
    job, settings = toy_job("full", micro_batch_tokens=10**6)
    steps_done = []

    def bad(model, tensors):
        steps_done.append(1)
        value = job.loss_sum(model, tensors)
        if len(steps_done) < 4:
            return value
        return value * math.nan if poison == "nan loss" else value + (model.head.weight.sum() * 0).abs().sqrt()

    with pytest.raises(TrainingError) as caught:
        run_training(replace(job, loss_sum=bad), settings, checkpoint_seconds=0)
    rows = epoch_batches(job.lengths, settings.batch_size, settings.seed, 0)[3]
    text = str(caught.value)
    assert "at step 4" in text and "learning rate 0.00" in text and "step-00000003" in text
    assert f"rows {', '.join(str(100 + row) for row in rows)}" in text
    kept = load_file(tmp_path / "run" / "checkpoints" / "step-00000003" / "weights.safetensors")
    assert all(torch.equal(kept[name], p) for name, p in job.model.named_parameters())


def test_a_validation_without_numbers_stops_the_run(toy_job, run_training):
    job, settings = toy_job("full", lr=1e30, batch_size=64, epochs=1)
    with pytest.raises(TrainingError, match="validation metrics are not finite after step 1.*none yet"):
        run_training(job, settings)


def test_the_next_batch_is_read_ahead_and_the_losses_stay_the_same(toy_job, run_training):
    job, settings = toy_job("full")
    _, plain, *_ = run_training(job, settings, name="plain")
    again, _ = toy_job("full")
    asked: list[list[int]] = []
    _, ahead, *_ = run_training(replace(again, read_ahead=asked.append), settings)
    assert [step["loss"] for step in ahead] == [step["loss"] for step in plain]
    orders = [epoch_batches(job.lengths, settings.batch_size, settings.seed, at) for at in range(settings.epochs)]
    assert asked == [batch for order in orders for batch in order][1:]


def test_frozen_weights_keep_their_bits_and_all_others_move(toy_job, run_training):
    for method in ("full", "last-blocks", "head", "lora"):
        job, settings = toy_job(method)
        before = {name: p.clone() for name, p in job.model.named_parameters()}
        *_, folder = run_training(job, settings, name=method)
        for name, p in job.model.named_parameters():
            assert torch.equal(p, before[name]) != p.requires_grad, (method, name)
        moving = {name: p for name, p in job.model.named_parameters() if p.requires_grad}
        checkpoint = folder / "checkpoints" / "step-00000012"
        written, moments = (load_file(checkpoint / f"{name}.safetensors") for name in ("weights", "optimizer"))
        assert written.keys() == moving.keys() == {name.rpartition("/")[0] for name in moments}
        assert all(torch.equal(written[name], p) for name, p in moving.items())


@torch.no_grad()
def test_trained_adapters_merge_into_the_same_model(toy_job, run_training):
    job, settings = toy_job("lora", lora_dropout=0.1, lr=1e-2)
    inputs, last, *_ = job.batch(ROWS)
    before = job.model.eval()(inputs, last)
    with torch.enable_grad():
        run_training(job, settings)
    after = job.model.eval()(inputs, last)
    assert (after - before).abs().max() > 0.5
    assert (merge(job.model)(inputs, last) - after).abs().max() < 1e-6 * after.abs().max()


def scripted(job, values):
    """The job with a validation that gives these (metric, log loss) in turn; one call too many is an error."""
    answers = iter(values)

    def validate(model):
        assert not model.training
        value, loss = next(answers)
        return {"log_loss": loss, "accuracy": value, "f1_macro": value}

    return replace(job, validate=validate)


@pytest.mark.parametrize(
    "metric, values, best_epoch, last_epoch",
    [
        ("f1_macro", [(0.5, 1), (0.7, 1), (0.6, 0.1), (0.6, 0.1), (0.9, 0.1)], 2, 4),  # two worse ones in turn: stopped
        ("f1_macro", [(0.5, 1), (0.4, 1), (0.6, 1), (0.5, 1), (0.5, 1)], 3, 5),  # a gain starts the count anew
        (
            "f1_macro",
            [(0.5, 1), (0.5, 0.9), (0.5, 0.95), (0.5, 0.9)],
            2,
            4,
        ),  # ties go to the lower log loss, then to the first
        ("f1_macro", [(0.5, 1), (0.6, 9), (0.5, 0.1), (0.5, 0.1)], 2, 4),  # the log loss decides ties only
        ("log_loss", [(0.9, 0.5), (0.1, 0.4), (0.9, 0.45), (0.9, 0.6)], 2, 4),  # minimised
        ("accuracy", [(0.1, 1), (0.2, 1), (0.3, 1), (0.4, 1), (0.5, 1)], 5, 5),
    ],
)
def test_the_best_validation_wins_and_patience_ends(toy_job, run_training, metric, values, best_epoch, last_epoch):
    job, settings = toy_job("head", epochs=5, patience=2, metric=metric)
    result, steps, validations, folder = run_training(scripted(job, values), settings)
    best = json.loads((folder / "checkpoints" / "best.json").read_text())
    value = values[best_epoch - 1][1 if metric == "log_loss" else 0]
    assert (best["step"], best["metric"], best["value"]) == (best_epoch * 6, metric, value)
    assert len(validations) == last_epoch and result.steps == len(steps) == last_epoch * 6
    assert result.stopped_early == (last_epoch < 5) and result.best_step == best["step"]
    assert [line["step"] for line in validations if line["best"]][-1] == best["step"]
    kept = sorted(path.name for path in (folder / "checkpoints").glob("step-*"))
    newest_two = [f"step-{epoch * 6:08d}" for epoch in (last_epoch - 1, last_epoch)]
    assert kept == sorted({*newest_two, f"step-{best['step']:08d}"})


def test_several_validations_in_an_epoch_end_with_it(toy_job, run_training):
    job, settings = toy_job("head", epochs=2, evaluations_per_epoch=4)
    _, steps, validations, _ = run_training(job, settings)
    assert [line["step"] for line in validations] == [round(6 * part / 4) for part in range(1, 9)]
    assert validations[-1]["epoch"] == 2
    assert [line["epoch"] for line in steps] == [round(line["step"] * 2 / len(steps), 4) for line in steps]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("step", [1, 7, 12])
def test_a_signal_ends_the_step_and_saves(toy_job, run_training, number, step):
    job, settings = toy_job("full", dropout=0.1, micro_batch_tokens=10**6)
    _, whole, _, _ = run_training(job, settings, name="whole")
    calls = []

    def signalled(model, tensors):
        calls.append(1)
        if len(calls) == step:
            signal.raise_signal(number)
        return job.loss_sum(model, tensors)

    job, settings = toy_job("full", dropout=0.1, micro_batch_tokens=10**6)
    before = signal.getsignal(number)
    with pytest.raises(Interrupted, match=f"step {step} of 12"):
        run_training(replace(job, loss_sum=signalled), settings)
    assert signal.getsignal(number) == before and len(calls) == step
    job, settings = toy_job("full", dropout=0.1, micro_batch_tokens=10**6)
    result, parts, _, _ = run_training(job, settings)
    assert [line["loss"] for line in parts] == [line["loss"] for line in whole] and result.steps == 12


def test_a_second_interrupt_ends_at_once(toy_job, run_training):
    job, settings = toy_job("head")

    def impatient(model, tensors):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        return job.loss_sum(model, tensors)

    with pytest.raises(KeyboardInterrupt):
        run_training(replace(job, loss_sum=impatient), settings)


def test_threads_are_as_asked_or_as_the_environment_says(monkeypatch):
    before = torch.get_num_threads()
    try:
        assert loop.set_threads(2) == 2 == torch.get_num_threads()
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
        assert loop.set_threads(0) == 1 == torch.get_num_threads()
        monkeypatch.setenv("OMP_NUM_THREADS", " 2 ,1")  # a list, one a nesting level, as OpenMP has it
        assert loop.set_threads(0) == 2 == torch.get_num_threads()
        for nothing in ("", "0", "many", "-1", ","):
            monkeypatch.setenv("OMP_NUM_THREADS", nothing)
            assert loop.set_threads(0) == len(loop._usable_cores())
        monkeypatch.delenv("OMP_NUM_THREADS")
        assert loop.set_threads(0) == len(loop._usable_cores())
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    "per_epoch, steps, evaluations, expected",
    [
        (43, 129, 1, {43, 86, 129}),
        (43, 6, 1, {6}),  # train.max_steps ends it within the first epoch
        (10, 25, 2, {5, 10, 15, 20, 25}),
        (10, 23, 2, {5, 10, 15, 20, 23}),
        (1, 2, 3, {1, 2}),
    ],
)
def test_validations_are_counted_in_epochs(per_epoch, steps, evaluations, expected):
    assert loop.validated_steps(per_epoch, steps, evaluations) == expected


def test_the_epoch_of_a_validation_is_rounded(toy_job, tmp_path, capsys):
    job, settings = toy_job(max_steps=5)
    loop.train(job, settings, tmp_path, {})
    assert "  epoch 0.833: validation" in capsys.readouterr().out


@pytest.mark.parametrize(("seconds", "said"), [(600.0, False), (600.5, True)])
def test_advice_is_said_for_a_training_of_more_than_ten_minutes(monkeypatch, capsys, seconds, said):
    monkeypatch.setattr(loop, "estimate", lambda first, plan: SimpleNamespace(seconds=seconds))
    loop._advise(SimpleNamespace(advice="take fewer rows"), None, None)
    assert ("about 10 minutes of training; take fewer rows" in capsys.readouterr().out) == said


def test_all_cores_are_those_that_this_process_may_use(monkeypatch):
    monkeypatch.setattr(loop.os, "sched_getaffinity", lambda process: {0, 5, 7}, raising=False)
    monkeypatch.setattr(loop.os, "cpu_count", lambda: 8)
    assert len(loop._usable_cores()) == 3
    monkeypatch.delattr(loop.os, "sched_getaffinity")
    assert len(loop._usable_cores()) == 8
