"""Whether several ways to take steps are tried; the ways themselves are in test_step.py."""

from types import SimpleNamespace

import pytest
import torch

from finetune.training import step_plan
from finetune.training.step_plan import TRIED, ChosenSteps, choose_steps


def steps_on(device, processes=1):
    return SimpleNamespace(
        device=torch.device(device),
        accelerator=SimpleNamespace(num_processes=processes),
        job=SimpleNamespace(loss_sum=lambda model, tensors: None),
    )


@pytest.mark.parametrize(
    ("device", "processes", "steps", "tried"),
    [
        ("cuda", 1, 4 * TRIED, False),  # too few to make up for the trial
        ("cuda", 1, 4 * TRIED + 1, True),
        ("cuda", 2, 1000, False),
        ("cpu", 1, 1000, False),
    ],
)
def test_ways_are_tried_on_one_gpu_for_more_than_a_few_steps(monkeypatch, device, processes, steps, tried):
    monkeypatch.setattr(step_plan, "why_not", lambda eager: "the rows do not fit")
    eager = steps_on(device, processes)
    found = choose_steps(eager, "auto", steps)
    if not tried:
        assert found is eager
        return
    assert isinstance(found, ChosenSteps) and [way.name for way in found.ways] == ["eager", "compiled"]
    assert found.ways[1].least_seconds == pytest.approx(300 / steps)


def test_what_is_asked_for_is_taken(monkeypatch, capsys):
    monkeypatch.setattr(step_plan, "CompiledSteps", lambda eager: ("compiled", eager))
    monkeypatch.setattr(step_plan, "why_not", lambda eager: "the rows do not fit")
    eager = steps_on("cuda")
    assert choose_steps(eager, "eager", 1000) is eager and choose_steps(eager, "captured", 1000) is eager
    assert choose_steps(eager, "compiled", 1000) == ("compiled", eager)
    assert capsys.readouterr().out.splitlines() == [
        "  step: eager; it cannot be captured: the rows do not fit",
        "  step: compiled",
    ]
