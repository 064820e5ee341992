"""Compare ours with transformers on GPT-2 124M on one GPU, in one process, in at most four minutes.

Random weights of the full shape, the same in both. Four workloads: an epoch of short texts with all weights, by the
Trainer with its best batch order and by ours, eager and captured; language modelling at 1,024 tokens, by a plain loop and
by each of our paths; generation; LoRA. Each figure comes with a check that both sides compute the same.

    python benchmarks/gpu.py --out gpu.json
    python benchmarks/gpu.py --smoke                    # the same code, tiny, on a CPU: a test runs it

Needs torch 2.10 or newer, transformers and peft. Features that torch lacks are left out, with a note.
"""

import argparse
import copy
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
import transformers
from accelerate import Accelerator
from machine import device_name
from torch import Tensor, nn

from finetune.adapters.lora import add_lora
from finetune.checkpoints.convert import load_gpt
from finetune.console import silence
from finetune.models.gpt import GPT, GPTConfig
from finetune.models.heads import Classifier, LossModule
from finetune.models.varlen import PackedLoss, document_bounds, has_fused_loss, why_not_varlen
from finetune.recipe import Train
from finetune.tasks.classify.job import Examples, build_job, build_model
from finetune.tasks.pretrain.packing import document_layout
from finetune.training.batching import epoch_batches
from finetune.training.captured import CapturedSteps, why_not
from finetune.training.job import Job
from finetune.training.optim import build_optimizers
from finetune.training.precision import autocast
from finetune.training.step import EagerSteps, Steps, keep_rows
from finetune.training.step_plan import CompiledSteps
from finetune.training.token_rows import TokenRows
from finetune.training.trainable import freeze

PEAK_FLOPS = 989e12  # dense bf16 of an H100 or H200
LIMIT = 240.0  # maximum seconds in all
COMPILATION = 75.0  # seconds that must be left to try compiling
THEIRS = "transformers"


@dataclass(frozen=True)
class Size:
    """The size of the measurements."""

    shape: GPTConfig
    rows: int  # short texts of an epoch
    batch: int
    rounds: int
    blocks: int  # of a language-modelling step
    steps: int  # of language modelling and of LoRA
    new_tokens: int
    precision: str


FULL = Size(GPTConfig(), rows=3902, batch=16, rounds=3, blocks=16, steps=20, new_tokens=128, precision="bf16")
TINY = Size(GPTConfig(256, 64, 32, 2, 2), rows=48, batch=8, rounds=1, blocks=4, steps=2, new_tokens=8, precision="fp32")


@dataclass(frozen=True)
class Row:
    """One measurement. rate: `unit` per second; ratio: to transformers' rate in the same workload."""

    work: str
    way: str
    seconds: float
    rate: float
    unit: str
    ratio: float | None = None
    same: str = ""  # the compared values, and their difference
    more: str = ""


class Bench:
    """The measurements so far, the device and the clock."""

    def __init__(self, size: Size, device: torch.device):
        self.size, self.device, self.begun, self.rows, self.notes = size, device, time.monotonic(), [], []
        torch.manual_seed(0)
        self.config = transformers.GPT2Config(
            vocab_size=size.shape.vocab_size,
            n_positions=size.shape.context,
            n_embd=size.shape.width,
            n_layer=size.shape.layers,
            n_head=size.shape.heads,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            pad_token_id=size.shape.vocab_size - 1,
            bos_token_id=size.shape.vocab_size - 1,
            eos_token_id=size.shape.vocab_size - 1,
        )
        self.theirs = transformers.GPT2LMHeadModel(self.config)

    def left(self) -> float:
        """Seconds that remain."""
        return LIMIT - (time.monotonic() - self.begun)

    def gpt(self) -> GPT:
        """Our model, with transformers' weights."""
        tensors = self.theirs.state_dict()
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        return load_gpt(self.size.shape, shapes, tensors.__getitem__, "the benchmark")[0].to(self.device)

    def clock(self) -> float:
        """The time in seconds, after the device has finished its work."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def time(self, work: Callable[[], object]) -> float:
        """Seconds of one call."""
        start = self.clock()
        work()
        return self.clock() - start

    def add(self, work: str, unit: str, amount: float, seconds: dict[str, list[float]], **more: dict[str, str]) -> None:
        """Add rows for the medians of these seconds. amount: units per measurement. same, more: texts by way."""
        medians = {way: statistics.median(took) for way, took in seconds.items()}
        for way, took in medians.items():
            ratio = round(medians[THEIRS] / took, 3) if THEIRS in medians else None
            words = {name: by_way.get(way, "") for name, by_way in more.items()}
            self.rows.append(Row(work, way, round(took, 4), round(amount / took, 2), unit, ratio, **words))
            print(asdict(self.rows[-1]), flush=True)

    def note(self, text: str) -> None:
        """Note something that was left out."""
        self.notes.append(text)
        print(text, flush=True)


def short_texts(size: Size) -> Examples:
    """Rows as long as SMS messages (a median of 18 tokens, a mean of about 24, at most 190), of two classes."""
    random = np.random.default_rng(7)
    lengths = np.clip(random.lognormal(2.9, 0.7, size.rows), 2, min(190, size.shape.context)).astype(int)
    targets = random.integers(0, 2, size.rows)
    half = size.shape.vocab_size // 2
    ids = [
        (random.integers(0, half - 1, length) + target * half).tolist()
        for length, target in zip(lengths, targets, strict=True)
    ]
    return Examples(list(range(size.rows)), TokenRows.of([ids], size.shape.vocab_size), targets)


def our_classifier(bench: Bench, data: Examples, method: str) -> tuple[Job[Classifier], Train]:
    """The job of a real run, and its settings."""
    size = bench.size
    settings = Train(
        method=method, epochs=1, lr=1e-4, batch_size=size.batch, precision=size.precision, micro_batch_tokens=4096
    )
    model = build_model(bench.gpt(), 2, 1)
    if method == "lora":
        add_lora(model.body, settings.lora_rank, settings.lora_alpha, 0.0, settings.lora_targets, 1)
    trainable = freeze(model, model.body, method, 2)
    few = Examples(data.rows[:8], data.ids[:8], data.targets[:8])
    with silence():
        job = build_job(model.to(bench.device), trainable, settings, data, few, bench.device)
    return job, settings


def eager_steps(bench: Bench, job: Job, settings: Train) -> EagerSteps:
    """Eager steps on a job, from which the other ways are built."""
    accelerator = Accelerator(cpu=bench.device.type == "cpu")
    optimizers = build_optimizers(job.model, "adamw", 0.1, (0.9, 0.99))
    return EagerSteps(accelerator, job.model, optimizers, job, settings, keep_rows(job, bench.device))


def ways_of(bench: Bench, job: Job, settings: Train) -> dict[str, Callable[[EagerSteps], Steps]]:
    """The ways to step: eager, and captured if possible."""
    if refused := why_not(eager_steps(bench, job, settings)):
        bench.note(f"not captured: {refused}")
        return {"eager": lambda eager: eager}
    return {"eager": lambda eager: eager, "captured": CapturedSteps}


def their_epoch(bench: Bench, data: Examples, folder: str) -> float:
    """Seconds of one epoch by the Trainer, with its batches of similar lengths."""
    own = transformers.GPT2ForSequenceClassification(bench.config)
    own.transformer.load_state_dict(bench.theirs.transformer.state_dict())
    rows = [{"input_ids": ids, "labels": int(label)} for ids, label in zip(data.ids, data.targets, strict=True)]
    pad = bench.config.pad_token_id

    def collate(part: list[dict]) -> dict[str, Tensor]:
        ids = nn.utils.rnn.pad_sequence([torch.tensor(row["input_ids"]) for row in part], True, pad)
        mask = nn.utils.rnn.pad_sequence([torch.ones(len(row["input_ids"]), dtype=torch.long) for row in part], True)
        return {"input_ids": ids, "attention_mask": mask, "labels": torch.tensor([row["labels"] for row in part])}

    names = transformers.TrainingArguments.__dataclass_fields__
    order = (
        {"train_sampling_strategy": "group_by_length"}
        if "train_sampling_strategy" in names
        else {"group_by_length": True}
    )
    trainer = transformers.Trainer(
        own.to(bench.device),
        transformers.TrainingArguments(
            folder,
            num_train_epochs=1,
            per_device_train_batch_size=bench.size.batch,
            learning_rate=1e-4,
            weight_decay=0.1,
            max_grad_norm=1.0,
            optim="adamw_torch_fused",
            bf16=bench.size.precision == "bf16",
            use_cpu=bench.device.type == "cpu",
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
            **order,
        ),
        train_dataset=rows,
        data_collator=collate,
    )
    return bench.time(trainer.train)


def classification(bench: Bench) -> None:
    """Two epochs of short texts, all weights; captured steps are captured in the first. transformers runs only one."""
    size, data = bench.size, short_texts(bench.size)
    seconds: dict[str, list[float]] = {THEIRS: []}
    found: dict[str, tuple[Tensor, Tensor]] = {}
    for _ in range(size.rounds):
        with tempfile.TemporaryDirectory() as folder:
            seconds[THEIRS].append(their_epoch(bench, data, folder))
        for way, make in ways_of(bench, *our_classifier(bench, data, "full")).items():
            job, settings = our_classifier(bench, data, "full")
            steps, losses = make(eager_steps(bench, job, settings)), []
            for epoch in range(2):
                batches = epoch_batches(job.lengths, size.batch, 123, epoch)
                took, new = taken(bench, steps, batches, epoch)
                losses += new
                seconds.setdefault(f"{way}, epoch {epoch + 1}", []).append(took)
            found[way] = torch.stack(losses)[:, 0].cpu(), moved(job.model)
    count = -(-size.rows // size.batch)
    per_step = {way: f"{1000 * min(took) / count:.2f} ms per step" for way, took in seconds.items()}
    same = {f"{way}, epoch 2": apart(found[way], found["eager"]) for way in found}
    bench.add("an epoch of short texts, all weights", "texts", size.rows, seconds, same=same, more=per_step)


def taken(bench: Bench, steps: Steps, batches: list[list[int]], epoch: int = 0) -> tuple[float, list[Tensor]]:
    """Seconds for a step on each of these batches, and their losses and norms."""
    start = bench.clock()
    found = [steps.take(rows, number, epoch, 1e-4) for number, rows in enumerate(batches)]
    return bench.clock() - start, found


def moved(model: nn.Module) -> Tensor:
    """All trainable weights, on the CPU."""
    return torch.cat([p.detach().flatten() for p in model.parameters() if p.requires_grad]).cpu()


def apart(own: tuple[Tensor, Tensor], eager: tuple[Tensor, Tensor]) -> str:
    """The largest difference of a way's losses and weights from the eager ones."""
    losses, weights = ((one - other).abs().max() for one, other in zip(own, eager, strict=True))
    exact = "bit for bit, " if not losses and not weights else ""
    return f"{exact}losses within {losses:.1e} of eager's, weights within {weights:.1e}"


def packed_blocks(size: Size, steps: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Blocks of documents of about 400 tokens, each of which begins with the last id."""
    random, T = np.random.default_rng(3), size.shape.context
    for _ in range(steps):
        ids = torch.from_numpy(random.integers(0, size.shape.vocab_size - 1, (size.blocks, T + 1)))
        ids[torch.from_numpy(random.random(ids.shape) < 1 / min(400, T // 4))] = size.shape.vocab_size - 1
        yield ids[:, :-1].contiguous(), ids[:, 1:].contiguous()


def their_steps(bench: Bench, blocks: list[Tensor]) -> Callable[[int], Tensor]:
    """A plain loop's step on the block of a given number, which returns the loss."""
    model = copy.deepcopy(bench.theirs).to(bench.device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.1, betas=(0.9, 0.99), fused=True)

    def take(step: int) -> Tensor:
        ids = blocks[step].to(bench.device)
        with autocast(bench.size.precision, bench.device):
            loss = model(ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    return take


def language_modelling(bench: Bench) -> None:
    """Steps of full blocks, ours without attention across documents; transformers' plain loop attends across."""
    size, end = bench.size, bench.size.shape.vocab_size - 1
    tokens = size.blocks * size.shape.context
    blocks = list(packed_blocks(size, size.steps + 2))
    settings = Train(
        method="full", lr=1e-4, batch_size=size.blocks, precision=size.precision, micro_batch_tokens=tokens
    )
    seconds: dict[str, list[float]] = {}
    losses: dict[str, list[float]] = {}
    memory: dict[str, str] = {}

    def run(way: str, take: Callable[[int], Tensor]) -> None:
        if bench.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        first = [take(step) for step in range(2)]  # warms up
        numbers: list[Tensor] = []
        start = bench.clock()
        numbers.extend(take(step) for step in range(2, len(blocks)))
        took = (bench.clock() - start) / size.steps
        seconds[way] = [took]
        losses[way] = [float(number.flatten()[0]) for number in [*first, *numbers]]
        parameters = sum(p.numel() for p in bench.theirs.parameters())
        flops = 6 * parameters + 12 * size.shape.layers * size.shape.width * size.shape.context
        peak = f", {torch.cuda.max_memory_allocated() / 1e9:.1f} GB" if bench.device.type == "cuda" else ""
        memory[way] = f"MFU {flops * tokens / took / PEAK_FLOPS:.1%}{peak}"

    run(THEIRS, their_steps(bench, [inputs for inputs, _ in blocks]))

    def ours(way: str, varlen: bool, fused: bool = False) -> None:
        gpt = bench.gpt()
        model = PackedLoss(gpt, fused) if varlen else LossModule(gpt)

        def batch(rows: list[int]) -> tuple[Tensor, ...]:
            inputs, targets = blocks[rows[0] // size.blocks]
            more = document_bounds(inputs, end) if varlen else document_layout(inputs, end)[::-1]
            return (inputs, targets, *more)

        def loss_sum(module: nn.Module, tensors: tuple[Tensor, ...]) -> Tensor:
            inputs, targets, positions, layout = tensors
            return module(inputs, targets, *((positions, layout) if varlen else (layout, positions)))

        rows = size.blocks * len(blocks)
        job = Job(
            model.to(bench.device),
            [size.shape.context] * rows,
            [float(size.shape.context)] * rows,
            batch,
            loss_sum,
            *[dict] * 2,
        )
        eager = eager_steps(bench, job, settings)
        steps = CompiledSteps(eager) if "compiled" in way else eager
        run(way, lambda n: steps.take(list(range(n * size.blocks, (n + 1) * size.blocks)), n, 0, 1e-4))

    ours("masked", varlen=False)
    if refused := why_not_varlen(bench.gpt(), bench.device, size.precision):
        bench.note(f"no variable-length attention: {refused}")
    else:
        ours("varlen", varlen=True)
        if has_fused_loss():
            ours("varlen, linear_cross_entropy", varlen=True, fused=True)
        else:
            bench.note(f"torch {torch.__version__} has no linear_cross_entropy")
        if bench.device.type == "cuda" and bench.left() > COMPILATION:
            ours("varlen, compiled", varlen=True)
    same = {
        way: f"losses within {max(abs(a - b) / b for a, b in zip(own, losses['masked'], strict=True)):.1e} of masked"
        for way, own in losses.items()
        if way not in (THEIRS, "masked")
    }
    bench.add("language modelling", "tokens", tokens, seconds, same=same, more=memory)


def generation(bench: Bench) -> None:
    """Greedy tokens after a prompt of 64, at batch 1 and 8."""
    size, kind = bench.size, torch.bfloat16 if bench.size.precision == "bf16" else torch.float32
    ours, theirs = bench.gpt().to(kind).eval(), copy.deepcopy(bench.theirs).to(bench.device, kind).eval()
    for batch in (1, 8):
        length = min(64, size.shape.context // 2)
        prompt = torch.randint(size.shape.vocab_size - 1, (batch, length), generator=torch.Generator().manual_seed(1))
        prompt = prompt.to(bench.device)
        sides = {
            THEIRS: lambda p=prompt: theirs.generate(
                p,
                attention_mask=torch.ones_like(p),
                max_new_tokens=size.new_tokens,
                min_new_tokens=size.new_tokens,
                do_sample=False,
            ),
            "finetune": lambda p=prompt: ours.generate(p, size.new_tokens, temperature=0.0),
        }
        seconds: dict[str, list[float]] = {way: [] for way in sides}
        written: dict[str, Tensor] = {}
        for number in range(size.rounds + 1):  # the first call warms up
            for way, side in sides.items():
                start = bench.clock()
                written[way] = side()
                took = bench.clock() - start
                if number or not size.rounds:
                    seconds[way].append(took)
        share = (written[THEIRS] == written["finetune"])[:, length:].float().mean().item()
        same = {"finetune": f"{share:.1%} of tokens equal"}
        bench.add(f"generation, batch {batch}", "tokens", batch * size.new_tokens, seconds, same=same)


def lora(bench: Bench) -> None:
    """Steps on short texts with adapters on every linear layer of the blocks; transformers with peft in a plain loop."""
    size, data = bench.size, short_texts(bench.size)
    batches = epoch_batches(data.ids.lengths(), size.batch, 123, 0)[: 3 * size.steps]
    texts = sum(map(len, batches))
    try:
        seconds = {THEIRS: [their_lora(bench, data, batches)]}
    except ImportError as error:
        bench.note(f"LoRA without a rival: {error}")
        seconds = {}
    found: dict[str, tuple[Tensor, Tensor]] = {}
    for way, make in ways_of(bench, *our_classifier(bench, data, "lora")).items():
        job, settings = our_classifier(bench, data, "lora")
        took, losses = taken(bench, make(eager_steps(bench, job, settings)), batches)
        seconds[way] = [took]
        found[way] = torch.stack(losses)[:, 0].cpu(), moved(job.model)
    bench.add("LoRA", "texts", texts, seconds, same={way: apart(found[way], found["eager"]) for way in found})


def their_lora(bench: Bench, data: Examples, batches: list[list[int]]) -> float:
    """Seconds for these batches with transformers and peft."""
    from peft import LoraConfig, TaskType, get_peft_model

    own = transformers.GPT2ForSequenceClassification(bench.config)
    own.transformer.load_state_dict(bench.theirs.transformer.state_dict())
    layers = ["c_attn", "c_proj", "c_fc"]
    asked = LoraConfig(task_type=TaskType.SEQ_CLS, r=8, lora_alpha=16, target_modules=layers, fan_in_fan_out=True)
    model = get_peft_model(own, asked).to(bench.device).train()
    moving = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(moving, lr=4e-4, weight_decay=0.1, betas=(0.9, 0.99), fused=True)

    def steps() -> None:
        for rows in batches:
            ids = nn.utils.rnn.pad_sequence(
                [torch.tensor(data.ids[row]) for row in rows], True, bench.config.pad_token_id
            )
            lengths = torch.tensor([len(data.ids[row]) for row in rows])
            mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long()
            labels = torch.from_numpy(data.targets[rows])
            with autocast(bench.size.precision, bench.device):
                loss = model(
                    input_ids=ids.to(bench.device), attention_mask=mask.to(bench.device), labels=labels.to(bench.device)
                ).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(moving, 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    return bench.time(steps)


@contextmanager
def told(bench: Bench, name: str) -> Iterator[None]:
    """Note the error if a workload fails, and continue with the next, so that device time is not wasted."""
    try:
        yield
    except (RuntimeError, ImportError, TypeError, ValueError, AttributeError) as error:
        if bench.device.type == "cpu":
            raise
        bench.note(f"{name} failed: {type(error).__name__}: {str(error)[:500]}")


def main(arguments: list[str] | None = None) -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="where the figures go, as JSON")
    parser.add_argument("--smoke", action="store_true", help="the same code at a tiny size, on any machine")
    asked = parser.parse_args(arguments)
    if not asked.smoke and not torch.cuda.is_available():
        parser.error("no NVIDIA GPU here; --smoke runs anywhere")
    transformers.logging.set_verbosity_error()
    bench = Bench(TINY if asked.smoke else FULL, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    for work in (classification, lora, generation, language_modelling):
        with told(bench, work.__name__):
            work(bench)
    found = {
        "device": device_name(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "smoke": asked.smoke,
        "seconds": round(time.monotonic() - bench.begun, 1),
        "notes": bench.notes,
        "rows": [asdict(row) for row in bench.rows],
    }
    print(f"{found['seconds']} s in all on {found['device']}, torch {found['torch']}")
    if asked.out:
        asked.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
