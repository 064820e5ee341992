"""The passes that `auto` finds: halved until one fits, by what the memory of the machine allows, and kept by a run."""

from types import SimpleNamespace

import psutil
import pytest
import torch

from finetune.errors import RecipeError, TrainingError
from finetune.recipe import MICRO_BATCH_TOKENS, Recipe, Train
from finetune.stages import train
from finetune.training.memory import halve_until, tokens_that_fit
from finetune.training.out_of_memory import memory_errors


def test_rows_are_halved_until_they_fit():
    asked = []

    def fits(rows):
        asked.append(rows)
        return rows <= 5

    assert halve_until(40, fits) == 5 and asked == [40, 20, 10, 5]
    assert halve_until(16, lambda rows: False) == 1 and halve_until(16, lambda rows: True) == 16


def free_bytes(monkeypatch, count):
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=count))


def test_what_fits_grows_with_the_free_memory_and_no_weight_moves(toy_job, monkeypatch):
    job, settings = toy_job("full", batch_size=16)
    before = [p.detach().clone() for p in job.model.parameters()]
    longest, found = max(job.lengths), []
    for free in (1, 10**12):
        free_bytes(monkeypatch, free)
        found.append(tokens_that_fit(job, settings, torch.device("cpu")))
    assert found == [longest, 16 * longest]
    assert all(torch.equal(one, other) for one, other in zip(before, job.model.parameters(), strict=True))
    assert all(p.grad is None for p in job.model.parameters())


def test_a_pass_is_measured_and_the_moments_are_counted(toy_job, monkeypatch):
    """Passes that take 100 bytes and 10 for each row, in 1,000 free bytes of which half may be used."""
    from finetune.training import memory

    job, settings = toy_job("full", batch_size=64)
    rows = []
    monkeypatch.setattr(memory.EagerSteps, "batch", lambda self, part, epoch: rows.append(len(part)) or (part,))
    monkeypatch.setattr(memory.EagerSteps, "backward", lambda *_: None)
    monkeypatch.setattr(memory, "_growth", lambda work: work() or 100 + 10 * rows[-1])
    moments = 2 * sum(p.numel() * p.element_size() for p in job.model.parameters())
    free_bytes(monkeypatch, 1000 + 2 * moments)
    assert tokens_that_fit(job, settings, torch.device("cpu")) == 32 * max(job.lengths)  # 100 + 32 x 10 <= 500
    free_bytes(monkeypatch, 600 + 2 * moments)
    assert tokens_that_fit(job, settings, torch.device("cpu")) == 16 * max(job.lengths)


@pytest.mark.gpu
def test_on_a_gpu_a_pass_that_runs_out_of_memory_is_halved(toy_job, monkeypatch):
    from finetune.training import memory

    job, settings = toy_job("full", batch_size=16)
    backward = memory.EagerSteps.backward

    def with_little_memory(self, tensors, scale):
        if len(tensors[0]) > 4:
            torch.empty(1 << 50, device="cuda")
        return backward(self, tensors, scale)

    monkeypatch.setattr(memory.EagerSteps, "backward", with_little_memory)
    assert tokens_that_fit(job, settings, torch.device("cuda")) == 4 * max(job.lengths)


def test_auto_is_a_setting_with_the_default_where_nothing_was_tried():
    assert Train(micro_batch_tokens="auto").tokens_per_pass == MICRO_BATCH_TOKENS
    assert Train(micro_batch_tokens=7).tokens_per_pass == 7
    for wrong in (0, -1, "many", 1.5):
        with pytest.raises(ValueError):
            Train(micro_batch_tokens=wrong)


def test_auto_and_several_processes_are_refused_before_the_run():
    recipe = Recipe(train=Train(micro_batch_tokens="auto"))
    train.check(recipe, processes=1)
    with pytest.raises(RecipeError, match="auto works in one process only"):
        train.check(recipe, processes=2)


def test_memory_that_ran_out_names_every_way_to_need_less():
    with pytest.raises(TrainingError) as caught, memory_errors():
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nmore")
    said = str(caught.value)
    for way in ("train.micro_batch_tokens", "auto", "max_length", "train.checkpoint_blocks=true", "train.method"):
        assert way in said
    with pytest.raises(RuntimeError, match="another"), memory_errors():
        raise RuntimeError("another")
