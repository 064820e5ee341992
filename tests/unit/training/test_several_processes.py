"""What the processes of one training tell each other, each rule by itself in a single process."""

import math
import os
import subprocess
import sys
from contextlib import contextmanager, nullcontext
from threading import Thread
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from accelerate import Accelerator
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from finetune.training import loop, parallel, ranks, sharing
from finetune.training.batching import micro_batches
from finetune.training.step import EagerSteps


@pytest.fixture
def store(monkeypatch):
    """The store in which two processes meet; a key that nobody sets is waited for in vain, and no longer than a moment."""
    held = dist.HashStore()
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(ranks, "_store", lambda: held)
    return held


def test_the_others_wait_for_each_work_in_turn_until_the_end(store, monkeypatch):
    work, ended = iter([("train", "a run"), ("evaluate", "a run"), ()]), []

    def first_process(seconds):
        ended.append(ranks.has_ended())
        ranks.call_others(*next(work))

    monkeypatch.setattr(ranks, "time", SimpleNamespace(sleep=first_process))
    store.set_timeout(ranks.timedelta(milliseconds=50))
    assert list(ranks.calls()) == [["train", "a run"], ["evaluate", "a run"]]
    assert ended == [False] * 3 and ranks.has_ended()


def test_a_process_alone_calls_nobody(store, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "1")
    ranks.call_others("train")
    ranks.call_others()
    assert not store.check(["work 0"]) and not ranks.has_ended()


@pytest.mark.parametrize("count, connected, ended", [(2, True, 1), (2, False, 0), (1, True, 0)])
def test_several_processes_that_are_connected_part_once(monkeypatch, count, connected, ended):
    parted = []
    monkeypatch.setenv("WORLD_SIZE", str(count))
    monkeypatch.setattr(dist, "is_initialized", lambda: connected)
    monkeypatch.setattr(dist, "destroy_process_group", lambda: parted.append("part"))
    ranks.part()
    assert len(parted) == ended


@pytest.mark.parametrize("count, torn_down", [("1", True), ("2", False)])
def test_one_of_several_processes_ends_with_all_said_and_without_tearing_python_down(count, torn_down):
    ends = """
import atexit
import sys
from finetune.training.ranks import end
class Thread:  # as gloo's, which is aborted where it needs an interpreter that is gone
    def __del__(self):
        print("torn down")
kept = Thread()
atexit.register(lambda: print("exit handlers"))
print("printed", end=" ")
end(3)
"""
    environment = os.environ | {"WORLD_SIZE": count}
    done = subprocess.run([sys.executable, "-c", ends], env=environment, capture_output=True, text=True)
    assert done.returncode == 3 and not done.stderr
    assert done.stdout == "printed exit handlers\n" + "torn down\n" * torn_down


@pytest.mark.parametrize("world", [2, 3])
def test_every_process_gets_every_result_in_order_and_computes_equally_many(monkeypatch, world):
    batches = list(range(7))

    def all_gather(everyone, mine):
        everyone[:] = [[batch**2 for batch in batches[other::world]] for other in range(world)]

    monkeypatch.setattr(dist, "all_gather_object", all_gather)
    for rank in range(world):
        own: list[int] = []
        with sharing._sharing(sharing.Group(world, rank, evenly=True)):
            assert sharing.share(batches, lambda batch, own=own: own.append(batch) or batch**2) == [
                batch**2 for batch in batches
            ]
        assert set(own) >= set(batches[rank::world]) and len(own) == math.ceil(7 / world)


def test_a_process_alone_computes_every_batch_once(monkeypatch):
    monkeypatch.setattr("accelerate.PartialState", lambda **options: pytest.fail("there is nobody to connect to"))
    own: list[int] = []
    with sharing.together():
        assert sharing.share([3, 1, 2], lambda batch: own.append(batch) or -batch) == [-3, -1, -2]
    assert own == [3, 1, 2]


def test_work_is_divided_inside_the_block_and_in_its_thread_alone(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr("accelerate.PartialState", lambda **how: SimpleNamespace(num_processes=2, process_index=1))
    monkeypatch.setattr(
        dist, "all_gather_object", lambda everyone, mine: everyone.__setitem__(slice(None), [[0], mine])
    )
    found = []
    with pytest.raises(ZeroDivisionError), sharing.together():
        found.append(sharing.share([1, 2], lambda batch: sharing.share([batch, batch], str)))
        thread = Thread(target=lambda: found.append(sharing.share([1, 2], str)))
        thread.start()
        thread.join()
        raise ZeroDivisionError
    assert found == [[0, ["2", "2"]], ["1", "2"]] and sharing.share([1, 2], str) == ["1", "2"]


@pytest.fixture
def mesh():
    """A group of one process."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


def test_a_divided_tensor_is_taken_apart_and_put_together(mesh):
    plain = torch.arange(6.0).view(3, 2)
    divided = distribute_tensor(plain, mesh, [Shard(0)])
    own = parallel.local(divided)
    assert not isinstance(own, DTensor) and torch.equal(own, plain)
    own[0, 0] = 7  # the same memory
    assert not isinstance(parallel.whole(divided), DTensor) and parallel.whole(divided)[0, 0] == 7
    assert parallel.local(plain) is parallel.whole(plain) is plain
    again = parallel.divided_as(plain, divided)
    assert isinstance(again, DTensor) and again.placements == divided.placements
    assert parallel.divided_as(plain[0], divided) is not None and not isinstance(
        parallel.divided_as(plain[0], divided), DTensor
    )
    assert parallel.divided_as(plain, plain.clone()) is plain


def test_all_stop_and_save_once_one_of_them_does():
    for own, other, expected in (
        ((False, True), (0.0, 0.0), [False, True]),
        ((False, False), (1.0, 0.0), [True, False]),
        ((True, False), (1.0, 1.0), [True, True]),
    ):
        others = torch.tensor(other)
        group = SimpleNamespace(num_processes=2, device="cpu", reduce=lambda flags, reduction, add=others: flags + add)
        assert loop._agree(group, *own) == expected
    alone = SimpleNamespace(num_processes=1)  # has nobody to ask
    assert loop._agree(alone, True, False) == [True, False]


def test_a_checkpoint_is_due_for_all_processes_at_the_same_step(toy_job, run_training, monkeypatch):
    """Divided weights are gathered to be saved: with a clock of its own, a process would wait for the others in vain."""
    answers = iter([[False, step == 4] for step in range(1, 13)])
    monkeypatch.setattr(loop, "_agree", lambda accelerator, stopping, due: next(answers))
    saved = []
    monkeypatch.setattr(loop.resume, "save_step", lambda root, step, *_: saved.append(step))
    run_training(*toy_job("head"), checkpoint_seconds=0)
    assert saved == [4, 6, 12]  # and after each epoch


def test_gradients_are_exchanged_with_the_last_micro_batch_of_a_step_alone(toy_job, monkeypatch):
    job, settings = toy_job("full", micro_batch_tokens=64)
    done: list[str] = []
    steps = EagerSteps(Accelerator(cpu=True), job.model, [], job, settings)

    @contextmanager
    def no_sync(model):
        done.append("apart")
        yield

    monkeypatch.setattr(steps.accelerator, "no_sync", no_sync)
    monkeypatch.setattr(steps, "backward", lambda tensors, scale: done.append("backward") or torch.zeros(()))
    rows = list(range(8))
    count = len(micro_batches(sorted(rows, key=lambda row: (job.lengths[row], row)), job.lengths, 64))
    steps.take(rows, 0, 0, 1e-3)
    assert count > 1 and done == ["apart", "backward"] * (count - 1) + ["backward"]


@pytest.mark.parametrize(
    ("way", "processes", "divided"), [("fsdp", 1, 0), ("fsdp", 2, 1), ("ddp", 2, 0), ("ddp", 1, 0)]
)
def test_weights_are_divided_where_it_is_asked_for_and_there_are_several(toy_job, monkeypatch, way, processes, divided):
    job, settings = toy_job("head", parallel=way)
    calls: list[object] = []
    group = SimpleNamespace(device=torch.device("cpu"), num_processes=processes)
    monkeypatch.setattr(loop, "Accelerator", lambda **options: group)
    monkeypatch.setattr(loop, "shard", lambda model, device: calls.append(model))
    loop._start(job, settings)
    assert calls == [job.model] * divided


def test_the_first_process_calls_the_others_and_gives_them_each_group_of_batches(monkeypatch):
    said: list[object] = []

    def share_of_first(batches, compute):
        said.append(batches)
        return [compute(batch) for batch in batches or []]

    monkeypatch.setattr(sharing, "call_others", lambda *work: said.append(work))
    monkeypatch.setattr(sharing, "together", nullcontext)
    monkeypatch.setattr(sharing, "_share_of_first", share_of_first)
    for processes, work, heard in (
        (2, ("write", "run"), [("write", "run"), [10, 20], [30], None]),
        (2, (), []),
        (1, ("write",), []),
    ):
        monkeypatch.setenv("WORLD_SIZE", str(processes))
        said.clear()
        found = list(sharing.lead(work, [1, 2, 3], lambda item: 10 * item, lambda batch: -batch))
        assert found == [(1, -10), (2, -20), (3, -30)] and said == heard
