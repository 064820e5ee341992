"""Tokens per second of GPT-2 124M on this CPU, ours and transformers', in one run and turn by turn.

Random weights of the full shape are written by transformers and read by both. Each then continues the same prompts
greedily with its cache, as it comes: `model.generate(...)` with no other setting; ours packs its matrices inside of
the time that is measured. Seconds are those of the clock, and of the processor, which say more on a machine with
other work.

    python benchmarks/generation.py --threads 1 --rounds 3

Needs the `dev` extra and 3 GB of memory. Writes generation.json and its table into README.md beside it.
"""

import argparse
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import transformers
from machine import processor_name
from safetensors import safe_open

from finetune.checkpoints.convert import load_gpt
from finetune.files import write_json
from finetune.models import compiled
from finetune.models.gpt import GPT, GPTConfig

HERE = Path(__file__).parent
MARKS = "<!-- begin generation -->", "<!-- end generation -->"
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
THEIRS, OURS, COMPILED = "transformers", "finetune", "finetune, compiled"


def load_both(folder: Path, layers: int, dtype: torch.dtype) -> tuple[GPT, transformers.GPT2LMHeadModel]:
    """The same random weights in both."""
    if not folder.exists():
        torch.manual_seed(0)
        transformers.GPT2LMHeadModel(transformers.GPT2Config(n_layer=layers)).save_pretrained(folder)
    theirs = transformers.GPT2LMHeadModel.from_pretrained(folder, dtype=dtype).eval()
    with safe_open(folder / "model.safetensors", "pt") as file:
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        ours, _ = load_gpt(GPTConfig(layers=layers), shapes, file.get_tensor, str(folder))
    return ours.to(dtype).eval(), theirs


def contenders(ours: GPT, theirs, prompt: torch.Tensor, new: int) -> dict[str, Callable[[], torch.Tensor]]:
    """What is measured, by name; each gives the ids."""
    seen = torch.ones_like(prompt)
    both = {
        THEIRS: lambda: theirs.generate(
            prompt,
            attention_mask=seen,
            max_new_tokens=new,
            do_sample=False,
            use_cache=True,
            eos_token_id=None,
            pad_token_id=0,
        ),
        OURS: lambda: ours.generate(prompt, new, temperature=0),
    }
    if len(prompt) == 1 and ours.token_embedding.weight.dtype == torch.bfloat16:
        both[COMPILED] = lambda: ours.generate(prompt, new, temperature=0, compiled=True)
    return both


def measure(folder: Path, kind: str, batch: int, arguments: argparse.Namespace) -> dict:
    """One case: every contender once a round, in turn."""
    ours, theirs = load_both(folder, arguments.layers, DTYPES[kind])
    generator = torch.Generator().manual_seed(batch)
    prompt = torch.randint(0, 50257, (batch, arguments.prompt_tokens), generator=generator)
    named = contenders(ours, theirs, prompt, arguments.new_tokens)
    case: dict = {"dtype": kind, "batch": batch, "load_average": os.getloadavg()[0]}
    seconds: dict[str, list[float]] = {name: [] for name in named}
    cpu: dict[str, list[float]] = {name: [] for name in named}
    texts = {}
    for _ in range(arguments.rounds):
        for name, run in named.items():
            clock, processor = time.perf_counter(), time.process_time()
            texts[name] = run()
            seconds[name].append(time.perf_counter() - clock)
            cpu[name].append(time.process_time() - processor)
    case["contenders"] = {
        name: {
            "tokens_per_second": batch * arguments.new_tokens / min(seconds[name]),
            "tokens_per_cpu_second": batch * arguments.new_tokens / min(cpu[name]),
            "ratio": statistics.median(
                theirs / ours for theirs, ours in zip(seconds[THEIRS], seconds[name], strict=True)
            ),
            "cpu_ratio": statistics.median(theirs / ours for theirs, ours in zip(cpu[THEIRS], cpu[name], strict=True)),
            "same_tokens": (texts[name] == texts[THEIRS]).float().mean().item(),
        }
        for name in named
    }
    return case


def table(result: dict) -> str:
    """The section of README.md."""
    lines = [
        "## Generation",
        "",
        f"GPT-2 124M with random weights, {result['new_tokens']} greedy tokens after a "
        f"prompt of {result['prompt_tokens']}, {result['threads']} thread(s) of an {result['processor']}; "
        f"best of {result['rounds']} round(s), ratios to transformers {result['versions']['transformers']} of the "
        "same round. Made by `python benchmarks/generation.py --threads N --rounds N --new-tokens N`.",
        "",
        "| type | batch | | tokens/s | ratio | tokens per CPU second | ratio | same tokens |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for case in result["cases"]:
        for name, row in case["contenders"].items():
            lines.append(
                f"| {case['dtype']} | {case['batch']} | {name} | {row['tokens_per_second']:.1f} | "
                f"{row['ratio']:.2f} | {row['tokens_per_cpu_second']:.1f} | {row['cpu_ratio']:.2f} | "
                f"{row['same_tokens']:.1%} |"
            )
    if "compile_seconds" in result:
        lines += [
            "",
            f"compiled: `generate(..., compiled=True)`, after {result['compile_seconds']:.1f} s of "
            "compilation per process, which is not included. Same tokens: the share of tokens equal to those of "
            "transformers. In bf16, another order of summation sometimes changes a token, and then all later "
            "tokens differ.",
        ]
    if result.get("bf16_emulated") and any(case["dtype"] == "bf16" for case in result["cases"]):
        lines += ["", "This processor has no bf16 arithmetic: the bf16 rows are emulated in fp32, on both sides."]
    loads = [case["load_average"] for case in result["cases"]]
    if max(loads) > result["threads"] + 1:
        lines += [
            "",
            f"Preliminary: other work ran beside it (load average {min(loads):.0f} to {max(loads):.0f}), so "
            "the figures per CPU second say more than those by wall time.",
        ]
    return "\n".join(lines)


def write_section(page: Path, text: str) -> None:
    """Put a section between its marks, at the end of the page where they are not there yet."""
    whole = page.read_text(encoding="utf-8") if page.exists() else "# Benchmarks\n"
    before, begun, rest = whole.partition(MARKS[0])
    after = rest.partition(MARKS[1])[2] if begun else "\n"
    gap = "" if begun else "\n"
    page.write_text(f"{before}{gap}{MARKS[0]}\n{text}\n{MARKS[1]}{after}", encoding="utf-8")


def emulates_bf16() -> bool:
    """Whether the processor is known to have no bf16 arithmetic."""
    cpuinfo = Path("/proc/cpuinfo")
    return cpuinfo.exists() and not {"avx512_bf16", "amx_bf16", "bf16"} & set(cpuinfo.read_text().split())


def main() -> None:
    """Measure, write the JSON and the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--prompt-tokens", type=int, default=64)
    parser.add_argument("--layers", type=int, default=12, help="fewer, to try the script")
    parser.add_argument("--out", type=Path, default=HERE / "generation.json")
    parser.add_argument("--page", type=Path, default=HERE / "README.md")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    transformers.utils.logging.disable_progress_bar()
    result = {name: getattr(arguments, name) for name in ("threads", "rounds", "layers", "new_tokens", "prompt_tokens")}
    result |= {
        "processor": processor_name(),
        "bf16_emulated": emulates_bf16(),
        "cases": [],
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
    }
    if "bf16" in arguments.dtypes and 1 in arguments.batches:
        begun = time.perf_counter()
        compiled.compile_step()
        result["compile_seconds"] = time.perf_counter() - begun
    with tempfile.TemporaryDirectory() as temporary:
        for kind in arguments.dtypes:
            for batch in arguments.batches:
                result["cases"].append(measure(Path(temporary) / "gpt2", kind, batch, arguments))
                print(result["cases"][-1], flush=True)
                write_json(arguments.out, result)
    write_section(arguments.page, table(result))


if __name__ == "__main__":
    main()
