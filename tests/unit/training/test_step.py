"""A step waits for no number of the device, skips the update where a number is not finite, and batches by index."""

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from finetune.models import gpt, heads
from finetune.models.gpt import GPT, IGNORE, GPTConfig, summed_loss
from finetune.models.warm_start import warm_encoder_decoder
from finetune.tasks.seq2seq.layout import Pair
from finetune.tasks.seq2seq.model import family_of
from finetune.training.batching import epoch_batches
from finetune.training.captured import CapturedSteps, why_not
from finetune.training.device_rows import DeviceRows, padded_length
from finetune.training.job import Job
from finetune.training.optim import build_optimizers
from finetune.training.step import EagerSteps, step_unless
from finetune.training.step_plan import TRIED, ChosenSteps, Way, choose_steps

ROWS = [3, 40, 17, 8, 25, 0, 31, 12]
# operators that wait for a GPU, because the CPU needs their result: a number, or the size of the output
WAITS = {"_local_scalar_dense", "is_nonzero", "equal", "nonzero", "masked_select", "_unique2", "unique_dim"}


class Reads(TorchDispatchMode):
    """Counts the operations that would wait for a device, forward and backward."""

    def __init__(self, monkeypatch):
        super().__init__()
        self.found = []
        for name in ("tolist", "numpy", "cpu", "__array__"):  # these read a CPU tensor without an operator
            own = getattr(Tensor, name)
            monkeypatch.setattr(
                Tensor, name, lambda *a, _own=own, _name=name, **k: self.found.append(_name) or _own(*a, **k)
            )

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        masked = name.startswith("index") and any(
            part is not None and part.dtype == torch.bool for part in args[1] if isinstance(args[1], list | tuple)
        )
        if name in WAITS or masked:
            self.found.append(name)
        return function(*args, **(kwargs or {}))


def eager(job, settings, store=None):
    optimizers = build_optimizers(job.model, settings.optimizer, settings.weight_decay, (0.9, 0.99))
    return EagerSteps(Accelerator(cpu=True), job.model, optimizers, job, settings, store)


def rows_of(job):
    return DeviceRows.of(job.batch, len(job.lengths), job.pads, torch.device("cpu"), math.inf)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize(
    "method, precision", [("full", "fp32"), ("full", "fp16"), ("last-blocks", "fp32"), ("lora", "fp32")]
)
def test_no_number_is_read_within_a_step(toy_job, monkeypatch, method, precision, optimizer):
    dropout = 0.0 if method == "last-blocks" else 0.1
    job, settings = toy_job(method, optimizer=optimizer, precision=precision, dropout=dropout)
    monkeypatch.setattr(heads, "real_tokens_of", lambda *_: None)  # which a CPU alone asks
    steps = eager(job, settings, rows_of(job))
    with Reads(monkeypatch) as reads:
        for step in range(3):
            steps.take(ROWS, step, 0, 1e-3)
        assert reads.found == []
        steps.failed.item()
        assert reads.found == ["_local_scalar_dense"]


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_of_a_language_model_reads_nothing_on_a_gpu(monkeypatch, smoothing):
    """Where the supervised positions are not counted; where they are, on a CPU, the count is seen."""
    model = GPT(GPTConfig(50, 16, 32, 2, 2)).initialise(1, std=0.2)
    ids = torch.randint(50, (3, 16), generator=torch.Generator().manual_seed(1))
    targets = torch.where(torch.rand(3, 16, generator=torch.Generator().manual_seed(2)) < 0.5, ids.roll(-1, 1), IGNORE)
    found = {}
    for counted in (True, False):
        monkeypatch.setattr(gpt, "counts_at_once", lambda device, counted=counted: counted)
        for kept in (gpt.KEPT_LOGITS, 0):
            monkeypatch.setattr(gpt, "KEPT_LOGITS", kept)
            model.zero_grad()
            with Reads(monkeypatch) as reads:
                loss = summed_loss(model.hidden_states(ids), model.output, targets, 7, smoothing)
                loss.backward()
            assert ("index" in reads.found) == counted
            found[counted, kept] = [loss.detach(), *(p.grad.clone() for p in model.parameters())]
            monkeypatch.setattr(gpt, "KEPT_LOGITS", 1 << 25)
    first, *others = found.values()
    for other in others:
        for one, two in zip(first, other, strict=True):
            assert torch.allclose(one, two, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_step_without_finite_numbers_changes_no_weight_nor_does_any_after_it(toy_job, optimizer):
    job, settings = toy_job("full", optimizer=optimizer)
    poison = []
    steps = eager(replace(job, loss_sum=lambda *a: job.loss_sum(*a) * (math.nan if poison else 1.0)), settings)
    steps.take(ROWS, 0, 0, 1e-3)
    before = {name: p.clone() for name, p in job.model.named_parameters()}
    poison.append(1)
    assert not steps.take(ROWS, 1, 0, 1e-3).isfinite().any()
    poison.clear()
    assert steps.take(ROWS, 2, 0, 1e-3).isfinite().all()
    assert all(torch.equal(p, before[name]) for name, p in job.model.named_parameters())


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_the_flag_leaves_the_bits_of_a_good_step(name):
    """As by the optimizer alone, over several steps."""
    found = []
    for guarded in (False, True):
        model = GPT(GPTConfig(50, 16, 32, 2, 2)).initialise(1)
        optimizers = build_optimizers(model, name, 0.1, (0.9, 0.99))
        for step in range(3):
            torch.manual_seed(step)
            for p in model.parameters():
                p.grad = torch.randn_like(p)
            for optimizer in optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = 1e-2
                step_unless(torch.zeros(()), optimizer) if guarded else optimizer.step()
        found.append([p.detach().clone() for p in model.parameters()])
    assert all(torch.equal(*pair) for pair in zip(*found, strict=True))


@pytest.mark.parametrize("method", ["full", "last-blocks", "head"])
def test_batches_by_index_are_those_of_the_job(toy_job, method):
    """Ids, or the states below the first trainable block."""
    job, _ = toy_job(method)
    assert_same_batches(job)


@pytest.mark.parametrize("family", ["decoder", "encoder-decoder"])
def test_pairs_by_index_are_those_of_the_job(family):
    body = GPT(GPTConfig(50, 32, 16, 1, 2)).initialise(1)
    model = family_of(body if family == "decoder" else warm_encoder_decoder(body, 1)[0], end=49)
    random = np.random.default_rng(1)
    pairs = [Pair(*(random.integers(0, 49, random.integers(1, 9)).tolist() for _ in range(2))) for _ in range(12)]
    lengths = [len(pair.source) + len(pair.target) for pair in pairs]
    assert_same_batches(
        Job(model, lengths, [], lambda rows: model.batch([pairs[row] for row in rows]), *[None] * 3, pads=model.pads)
    )


def assert_same_batches(job):
    store, lengths = rows_of(job), job.lengths
    for rows in ([3, 7, 1], [5], sorted(range(len(lengths)), key=lambda row: lengths[row])):
        expected = job.batch(rows)
        longest = store.longest(rows)
        found = store.take(torch.tensor(rows), longest)
        assert [tensor.dtype for tensor in found] == [tensor.dtype for tensor in expected]
        assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))
        wider = store.take(torch.tensor(rows), [length + 3 if length else 0 for length in longest])
        for column, pad, tensor, wide in zip(store.columns, job.pads, expected, wider, strict=True):
            if pad is None:
                assert column.sizes is None and torch.equal(wide, tensor)
            else:
                width = tensor.shape[1]
                assert (
                    torch.equal(wide[:, :width], tensor)
                    and (wide[:, width:] == pad).all()
                    and wide.shape[1] == width + 3
                )


def test_what_is_too_large_or_changes_is_not_kept(toy_job):
    job, _ = toy_job("full")
    size = sum(tensor.numel() * tensor.element_size() for row in range(44) for tensor in job.batch([row]))
    device = torch.device("cpu")
    assert DeviceRows.of(job.batch, 44, job.pads, device, size) is not None
    assert DeviceRows.of(job.batch, 44, job.pads, device, size - 1) is None
    assert DeviceRows.of(job.batch, 44, None, device, math.inf) is None


class Rerun:
    """In the place of a CUDA graph: runs the recorded work again, on the same memory, and counts what was recorded."""

    def __init__(self):
        self.recorded = self.replayed = 0

    def __call__(self, warm_up, work):
        self.recorded += 1
        warm_up()
        place = torch.zeros(2)

        def replay():
            self.replayed += 1
            found = place.copy_(work())
            for parameter in self.parameters:
                parameter.grad = None  # a graph writes its gradients anew
            return found

        return replay


@pytest.mark.parametrize("method", ["full", "last-blocks", "lora"])
def test_captured_steps_are_the_eager_ones(toy_job, method):
    """Bit for bit, with a smaller last batch and a batch that accumulates among them."""
    found = []
    for captured in (False, True):
        job, settings = toy_job(method, micro_batch_tokens=256)
        steps = eager_steps = eager(job, settings, rows_of(job))
        record = Rerun()
        record.parameters = [p for p in job.model.parameters() if p.requires_grad]
        if captured:
            steps = CapturedSteps(eager_steps, record)
        numbers = []
        for epoch in range(2):
            for number, rows in enumerate(epoch_batches(job.lengths, 8, 1, epoch)):
                numbers.append(steps.take(rows, number, epoch, 1e-2 / (number + 1)))
        found.append(([*map(Tensor.tolist, numbers)], [p.detach().clone() for p in job.model.parameters()]))
        if captured:
            shapes = {
                eager_steps.padded(rows) for epoch in range(2) for rows in epoch_batches(job.lengths, 8, 1, epoch)
            }
            assert 1 < record.recorded <= len(shapes) and 4 < record.replayed < 12
    (one, weights), (other, those) = found
    assert one == other and all(torch.equal(*pair) for pair in zip(weights, those, strict=True))


def test_a_capture_that_fails_is_said_and_the_step_is_eager(toy_job, capsys):
    def refuse(warm_up, work):
        warm_up()
        raise RuntimeError("operation not permitted when stream is capturing\nand more")

    numbers = []
    for captured in (False, True):
        job, settings = toy_job("full", micro_batch_tokens=10**6)
        steps = eager(job, settings, rows_of(job))
        steps = CapturedSteps(steps, refuse) if captured else steps
        numbers.append([steps.take(ROWS, step, 0, 1e-3).tolist() for step in range(3)])
    assert numbers[0] == numbers[1]
    assert capsys.readouterr().out.count("cannot be captured: operation not permitted when stream is capturing\n") == 1


def test_what_cannot_be_captured_is_refused_in_words(toy_job, monkeypatch, capsys):
    job, settings = toy_job("full", micro_batch_tokens=10**6)
    steps = eager(job, settings, rows_of(job))
    assert choose_steps(steps, "captured", 100) is steps and "needs an NVIDIA GPU" in capsys.readouterr().out
    assert choose_steps(steps, "auto", 100) is steps and capsys.readouterr().out == ""

    def on_a_gpu(store=True, processes=1, **changed):
        job, settings = toy_job(**{"method": "full", "micro_batch_tokens": 10**6} | changed)
        steps = eager(job, settings, rows_of(job) if store else None)
        steps.device = torch.device("cuda")
        steps.accelerator = SimpleNamespace(num_processes=processes)
        return why_not(steps)

    assert on_a_gpu() == on_a_gpu(micro_batch_tokens=400) == ""
    assert "processes" in on_a_gpu(processes=2) and "not on the GPU" in on_a_gpu(store=False)
    assert "dropout" in on_a_gpu(dropout=0.1) and "dropout" in on_a_gpu(method="lora", lora_dropout=0.1)
    assert "muon reads" in on_a_gpu(optimizer="muon") and "train.micro_batch_tokens" in on_a_gpu(micro_batch_tokens=60)


class Timed:
    """Steps that take so many seconds of a clock."""

    def __init__(self, clock, seconds):
        self.clock, self.seconds, self.taken = clock, seconds, 0

    def take(self, rows, step, epoch, rate):
        self.clock.now += self.seconds + (10 if not self.taken else 0)  # the first one compiles
        self.taken += 1
        return self.seconds


@pytest.mark.parametrize(
    "seconds, least, chosen, tried",
    [((3, 1, 2), 0, "b", "abc"), ((1, 2, 3), 0, "a", "abc"), ((3, 1, 2), 1.5, "b", "ab"), ((3, 2, 1), 1.5, "c", "abc")],
)
def test_the_fastest_way_is_chosen_and_said(capsys, seconds, least, chosen, tried):
    """The last one only if what there is takes long enough; the first step of each counts for nothing."""
    clock = SimpleNamespace(now=0.0)
    all_steps = {name: Timed(clock, took) for name, took in zip("abc", seconds, strict=True)}
    ways = [Way(name, lambda name=name: all_steps[name], least if name == "c" else 0.0) for name in "abc"]
    steps = ChosenSteps(ways, lambda: clock.now)
    taken = [steps.take([], number, 0, 1.0) for number in range(40)]
    assert "".join(name for name, own in all_steps.items() if own.taken) == tried
    assert taken[TRIED * len(tried) :] == [all_steps[chosen].seconds] * (40 - TRIED * len(tried))
    assert all(own.taken == TRIED for name, own in all_steps.items() if name in tried and name != chosen)
    said = capsys.readouterr().out
    assert f"step: {chosen};" in said and all(
        f"{name} {1000 * all_steps[name].seconds:.1f} ms" in said for name in tried
    )


def test_a_step_that_cannot_be_compiled_is_eager(toy_job, monkeypatch, capsys):
    def refuse(loss_sum):
        def compiled(*arguments):
            loss_sum(*arguments).backward()  # something that must not count
            raise RuntimeError("no compiler")

        return compiled

    monkeypatch.setattr(torch, "compile", refuse)
    numbers = []
    for asked in ("eager", "compiled"):
        job, settings = toy_job("full")
        steps = choose_steps(eager(job, settings), asked, 3)
        numbers.append([steps.take(ROWS, step, 0, 1e-3).tolist() for step in range(3)])
    assert numbers[0] == numbers[1] and capsys.readouterr().out.count("cannot be compiled: no compiler\n") == 1


def test_padded_lengths_are_few():
    found = [padded_length(length) for length in range(1, 1025)]
    assert sorted(set(found)) == [16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024]
    assert all(length <= own < max(1.5 * length + 1, 17) for length, own in enumerate(found, 1))
