"""What a tracker is sent: the numbers of the training log, and nothing else."""

import json
import shutil
from dataclasses import replace

import pytest
from accelerate import tracking as accelerates

from finetune.errors import RecipeError
from finetune.recipe import Train
from finetune.training.tracking import check_tracker, numbers_of


class Recorder(accelerates.GeneralTracker):
    """A tracker that keeps what it is sent."""

    name, requires_logging_directory = "trackio", False
    made: list["Recorder"] = []

    def __init__(self, run_name, **more):
        self.run_name, self.more, self.sent, self.settings, self.finished = run_name, more, [], {}, 0
        self.made.append(self)

    tracker = None

    def start(self):
        pass

    def store_init_configuration(self, values):
        self.settings |= values

    def log(self, values, step=None, **more):
        self.sent.append((step, values))

    def finish(self):
        self.finished += 1


@pytest.fixture
def recorder(monkeypatch):
    monkeypatch.setattr(Recorder, "made", [])
    monkeypatch.setitem(accelerates.LOGGER_TYPE_TO_CLASS, "trackio", Recorder)
    return Recorder.made


def test_a_tracker_gets_the_numbers_of_the_log_and_no_text(toy_job, run_training, recorder):
    job, settings = toy_job("full", tracker="trackio", epochs=2)
    _, steps, validations, folder = run_training(job, settings, "named")
    [tracker] = recorder
    assert tracker.finished == 1 and tracker.more == {"name": "named"}
    assert [step for step, _ in tracker.sent] == [
        json.loads(line)["step"] for line in (folder / "train.jsonl").read_text().splitlines()
    ]
    sent = [values for _, values in tracker.sent]
    assert [own["loss"] for own in sent if "loss" in own] == [own["loss"] for own in steps]
    shown = [own["validation/log_loss"] for own in sent if "validation/log_loss" in own]
    assert shown == [own["validation"]["log_loss"] for own in validations]
    kept = [*tracker.settings.values(), *(value for own in sent for value in own.values())]
    assert all(type(value) in (int, float, bool) for value in kept) and tracker.settings["epochs"] == 2


def test_a_stopped_training_closes_its_tracker(toy_job, run_training, recorder):
    job, settings = toy_job("full", tracker="trackio", epochs=2)
    job = replace(job, validate=lambda model: {"log_loss": float("nan"), "accuracy": 0.0, "f1_macro": 0.0})
    with pytest.raises(Exception, match="not finite"):
        run_training(job, settings)
    assert recorder[0].finished == 1


def test_without_a_tracker_nothing_is_sent(toy_job, run_training, recorder):
    run_training(*toy_job("full", epochs=1))
    assert recorder == []


def test_tensorboards_files_hold_the_losses(toy_job, run_training):
    pytest.importorskip("tensorboard", reason="the extra tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    job, settings = toy_job("full", tracker="tensorboard", epochs=2)
    for _ in range(2):  # trained again from the first step, the old curve is gone
        _, steps, _, folder = run_training(job, settings)
        for path in (folder / "checkpoints").iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    read = EventAccumulator(str(folder / "tracker" / "finetune")).Reload()
    found = read.Scalars("loss")
    assert [event.step for event in found] == [own["step"] for own in steps]
    assert [event.value for event in found] == pytest.approx([own["loss"] for own in steps], rel=1e-6)
    assert "validation/log_loss" in read.Tags()["scalars"]


def test_a_missing_package_is_an_error_that_names_the_extra(monkeypatch):
    monkeypatch.setattr("finetune.training.tracking.find_spec", lambda name: None)
    with pytest.raises(RecipeError, match=r"pip install 'gpt2-finetune\[trackio\]'"):
        check_tracker(Train(tracker="trackio"))
    check_tracker(Train())


def test_only_finite_numbers_are_sent():
    values = {"a": 1, "b": "text", "c": None, "d": {"e": 0.5, "f": "text", "g": float("nan")}, "h": True, "i": (1, 2)}
    assert numbers_of(values) == {"a": 1, "d/e": 0.5, "h": True}
