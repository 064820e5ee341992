"""Tokens per second of GPT-2 124M on this CPU: ours, transformers, CTranslate2 and llama.cpp, in alternating rounds.

Random weights of the full shape are written in transformers' layout and read by all engines. Each engine continues the
same prompts greedily with its cache; the prompt (one new token) is timed separately from the rest, so that prefill and
decoding can be compared. Seconds are wall-clock time and processor time, which is more reliable on a machine with other
load. The memory ceiling is the speed at which one thread reads the bytes that a token needs, measured in the same rounds
with read_memory.cpp, compiled like our step, over initialised memory in pages of 2 MB (if Linux provides them).

    python benchmarks/generation.py --threads 1 --rounds 5

Needs the `dev` extra and 6 GB of memory. CTranslate2 and xllamacpp are included if they are installed, or are in
the folder of --packages (`pip install --target FOLDER ctranslate2`). Writes generation.json and its table into README.md
beside it; --quality adds the perplexity that int8 and int4 cost, with the bundled mini.
"""

import argparse
import ctypes
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from unittest import mock

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import transformers
from few_labels import write_section
from generation_engines import PLAIN, Engine, engines
from machine import instruction_set, processor_name

import finetune
from finetune.files import write_json
from finetune.hub.assets import asset
from finetune.models import compiled
from finetune.models.compiler import compiled_library
from finetune.models.large_pages import in_large_pages
from finetune.models.packed import FEW_BITS, few_bits_decoder

HERE = Path(__file__).parent
WIDTHS = ("fp32", "bf16", "fp16", "int8", "int4")
READ = 500_000_000  # bytes read to measure the memory's speed


def reader() -> Callable[[torch.Tensor], int]:
    """A function that reads every byte of a tensor."""
    read = compiled_library(HERE / "read_memory.cpp").read_all
    read.restype, read.argtypes = ctypes.c_int64, [ctypes.c_void_p, ctypes.c_int64]
    return lambda pages: int(read(pages.data_ptr(), pages.numel() * pages.element_size()))


def read_speed(read: Callable[[torch.Tensor], int], pages: torch.Tensor) -> tuple[float, float]:
    """Bytes per second by wall clock and by processor time, over initialised memory: the best of three."""
    clocks, processors = [], []
    for _ in range(3):
        clock, processor = time.perf_counter(), time.process_time()
        read(pages)
        clocks.append(time.perf_counter() - clock)
        processors.append(time.process_time() - processor)
    size = pages.numel() * pages.element_size()
    return size / min(clocks), size / min(processors)


def timed(engine: Engine, prompts: list[list[int]], new: int) -> tuple[list[list[int]], float, float]:
    """The tokens, wall-clock seconds, and processor seconds."""
    clock, processor = time.perf_counter(), time.process_time()
    tokens = engine.write(prompts, new)
    return tokens, time.perf_counter() - clock, time.process_time() - processor


def measure(folder: Path, batch: int, arguments: argparse.Namespace) -> dict:
    """Measure one batch size: every engine once per round, in turn, after a warm-up."""
    generator = torch.Generator().manual_seed(batch)
    prompts = torch.randint(0, 50256, (batch, arguments.prompt_tokens), generator=generator).tolist()
    named = list(engines(folder, arguments.layers, batch, arguments.threads, arguments.widths))
    new, read = arguments.new_tokens, reader()
    pages = in_large_pages([None, None, torch.rand(1, READ // 4)])[2]
    assert pages is not None
    found: dict[str, list[tuple[float, float, float]]] = {own.name + own.width: [] for own in named}
    texts, speeds = {}, []
    for own in named:
        own.write(prompts, 2)
    for _ in range(arguments.rounds):
        speeds.append(read_speed(read, pages))
        for own in named:
            _, clock, processor = timed(own, prompts, 1)
            texts[own.name + own.width], whole, worked = timed(own, prompts, new)
            found[own.name + own.width].append((processor, whole - clock, worked - processor))
    ceiling = statistics.median(speed for _, speed in speeds)
    plain = texts.get(PLAIN + "fp32")
    rows = []
    for own in named:
        rounds = found[own.name + own.width]
        prefill, clock, processor = (statistics.median(part) for part in zip(*rounds, strict=True))
        per_cpu = batch * (new - 1) / processor
        tokens = sum(texts[own.name + own.width], [])
        pairs = list(zip(tokens, sum(plain, []), strict=True)) if plain and tokens else []
        rows.append(
            {
                "engine": own.name,
                "width": own.width,
                "prefill_cpu_seconds": prefill,
                "tokens_per_second": batch * (new - 1) / clock,
                "tokens_per_cpu_second": per_cpu,
                "ceiling": ceiling / own.weight_bytes * batch,
                "share_of_ceiling": per_cpu / (ceiling / own.weight_bytes * batch),
                "rounds_cpu": [round(batch * (new - 1) / own_round[2], 2) for own_round in rounds],
                "same_tokens": statistics.mean(a == b for a, b in pairs) if pairs else None,
            }
        )
    for row in rows:
        rivals = [own for own in rows if own["width"] == row["width"] and not own["engine"].startswith("finetune")]
        best = max(rivals, key=lambda own: own["tokens_per_cpu_second"], default=None)
        row["best_rival"] = best["engine"] if best else None
        if best and row["engine"].startswith("finetune"):
            row["ratio"] = statistics.median(a / b for a, b in zip(row["rounds_cpu"], best["rounds_cpu"], strict=True))
    return {"batch": batch, "load_average": os.getloadavg()[0], "read_bytes_per_cpu_second": ceiling, "rows": rows}


@torch.inference_mode()
def quality(tokens: int = 4096) -> dict:
    """The cost of fewer bits: perplexity of the bundled mini on the sample text, and the share of unchanged greedy tokens."""
    model, tokenizer = finetune.load("mini")
    ids = tokenizer.encode(asset("data", "text", "sample.txt").read_text(encoding="utf-8"))
    length = model.config.context
    blocks = torch.tensor(ids[: min(tokens, len(ids)) // length * length]).view(-1, length)

    def perplexity(logits: torch.Tensor) -> float:
        loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), blocks[:, 1:].flatten())
        return float(loss.exp())

    plain, prompts = model(blocks), blocks[:, :32]
    text = model.generate(prompts, 64, temperature=0)[:, 32:]
    found = {"tokens": blocks.numel(), "greedy_tokens": text.numel(), "perplexity": perplexity(plain)}
    for dtype in FEW_BITS:
        twin = few_bits_decoder(model, dtype, compiled=False)
        rounded = twin.output(twin.model.hidden_states(blocks))  # type: ignore[attr-defined]
        other = model.generate(prompts, 64, temperature=0, dtype=dtype)[:, 32:]
        found[dtype] = {
            "perplexity": perplexity(rounded),
            "same_likeliest": float((plain.argmax(-1) == rounded.argmax(-1)).float().mean()),
            "same_greedy": float((text == other).float().mean()),
        }
    return found


def table(result: dict) -> str:
    """The section of README.md."""
    lines = [
        "## Generation",
        "",
        f"GPT-2 124M with random weights, {result['new_tokens']} greedy tokens after a prompt of "
        f"{result['prompt_tokens']}, {result['threads']} thread(s) of an {result['processor']} "
        f"({result['instruction_set']}); medians of {result['rounds']} alternating rounds. Tokens of decoding per second of "
        "processor time and of the clock; prefill in processor seconds; share: of what reading the weights once for each "
        "step allows, at the speed of reading measured in the same rounds. Ratio: ours over the fastest rival of the same "
        "width, the median over the rounds.",
        "",
        f"    python benchmarks/generation.py --threads {result['threads']} --rounds {result['rounds']} "
        f"--new-tokens {result['new_tokens']}",
        "",
        "| batch | weights | | tokens per CPU second | share of ceiling | tokens/s | prefill | ratio | same tokens |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for case in result["cases"]:
        for row in case["rows"]:
            ratio = f"{row['ratio']:.2f}" if "ratio" in row else ""
            same = "" if row["same_tokens"] is None else f"{row['same_tokens']:.1%}"
            lines.append(
                f"| {case['batch']} | {row['width']} | {row['engine']} | {row['tokens_per_cpu_second']:.1f} | "
                f"{row['share_of_ceiling']:.0%} | {row['tokens_per_second']:.1f} | {row['prefill_cpu_seconds']:.2f} s | "
                f"{ratio} | {same} |"
            )
    reads = ", ".join(
        f"{case['read_bytes_per_cpu_second'] / 1e9:.1f} GB/s (batch {case['batch']})" for case in result["cases"]
    )
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    lines += ["", f"One thread reads {reads}. Versions: {versions}."]
    if "compile_seconds" in result:
        lines[-1] += f" Compiling the step takes {result['compile_seconds']:.1f} s once a machine, and is not included."
    lines[-1] += (
        " Ours keeps its matrices in pages of 2 MB where Linux gives them, as the memory that is read for the ceiling; the "
        "others take what they ask for themselves. `finetune` is the default for long texts, `not compiled` is "
        "`--no-compile`. Same tokens: the share equal to transformers' in fp32. The weights are random, so that likely "
        "tokens are close together and a rounding soon changes one, and then all that follow."
    )
    if found := result.get("quality"):
        lines += [
            "",
            f"What fewer bits cost, with the bundled mini on {found['tokens']:,} tokens of the sample text (perplexity "
            f"{found['perplexity']:.3f} in fp32), and on {found['greedy_tokens']:,} greedy tokens:",
            "",
            "| weights | perplexity | same likeliest token | same greedy tokens |",
            "|---|---:|---:|---:|",
        ]
        lines += [
            f"| {dtype} | {own['perplexity']:.3f} | {own['same_likeliest']:.1%} | {own['same_greedy']:.1%} |"
            for dtype, own in found.items()
            if isinstance(own, dict)
        ]
    loads = [case["load_average"] for case in result["cases"]]
    if max(loads) > result["threads"] + 1:
        lines += [
            "",
            f"Preliminary: other work ran beside it (load average {min(loads):.0f} to {max(loads):.0f}), so "
            "the figures per CPU second say more than those by the clock.",
        ]
    return "\n".join(lines)


def main() -> None:
    """Measure, write the JSON and the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--widths", nargs="+", choices=WIDTHS, default=["fp32", "fp16", "int8", "int4"])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--new-tokens", type=int, default=48)
    parser.add_argument("--prompt-tokens", type=int, default=64)
    parser.add_argument("--layers", type=int, default=12, help="fewer, to try the script")
    parser.add_argument("--packages", type=Path, help="a folder with further packages, such as ctranslate2")
    parser.add_argument("--quality", action="store_true", help="also what int8 and int4 cost")
    parser.add_argument("--out", type=Path, default=HERE / "generation.json")
    parser.add_argument("--page", type=Path, default=HERE / "README.md")
    arguments = parser.parse_args()
    if arguments.packages:
        sys.path.append(str(arguments.packages))
    torch.set_num_threads(arguments.threads)
    transformers.utils.logging.disable_progress_bar()
    names = ("threads", "rounds", "layers", "new_tokens", "prompt_tokens")
    result = {name: getattr(arguments, name) for name in names} | {
        "processor": processor_name(),
        "instruction_set": instruction_set(),
        "cases": [],
        "versions": {"python": platform.python_version()}
        | versions("torch", "transformers", "ctranslate2", "xllamacpp"),
    }
    begun = time.process_time(), os.times().children_user
    with tempfile.TemporaryDirectory() as empty, mock.patch.dict(os.environ, FINETUNE_HOME=empty):
        compiled.compile_step(8)
    result["compile_seconds"] = time.process_time() - begun[0] + os.times().children_user - begun[1]
    if arguments.quality:
        result["quality"] = quality()
        print(result["quality"], flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        for batch in arguments.batches:
            result["cases"].append(measure(Path(temporary) / "gpt2", batch, arguments))
            for row in result["cases"][-1]["rows"]:
                print(batch, row, flush=True)
            write_json(arguments.out, result)
    write_section(arguments.page, "generation", table(result))


def versions(*packages: str) -> dict[str, str]:
    """Versions of the installed engines."""
    found = {}
    for name in packages:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


if __name__ == "__main__":
    main()
