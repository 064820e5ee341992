"""Compare pretraining steps on packed documents with an attention mask and document by document, on a CPU.

Tokens per second of processor time of forward and backward passes in fp32, with one thread: random weights of mini's
shape, and documents of random tokens whose lengths are drawn from an exponential distribution. The ways take turns.

    python benchmarks/packed_documents.py --rounds 3

Prints a table, and writes packed_documents.json and its section of README.md.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from few_labels import write_section
from machine import instruction_set, processor_name

from finetune.files import write_json
from finetune.machine import keep_freed_memory
from finetune.models.gpt import GPT, IGNORE, GPTConfig
from finetune.models.varlen import PackedLoss, document_bounds
from finetune.tasks.pretrain.packing import PackedTokens

OUT, PAGE = Path(__file__).with_suffix(".json"), Path(__file__).with_name("README.md")
VOCABULARY, LAYERS = 8192, 6  # as mini
END = VOCABULARY - 1
WORKS = [(512, 60), (512, 400), (1024, 400), (1024, 4000)]  # context, mean length of the documents in tokens
BATCHES, TOKENS = 4, 2048  # steps of a round, and tokens of a step
MASKED, VARLEN = "masked", "varlen"


def pack(path: Path, context: int, mean: int) -> PackedTokens:
    """Enough packed documents for a round."""
    random = np.random.default_rng(1)
    ids: list[int] = []
    while len(ids) <= BATCHES * TOKENS:
        ids += [END, *random.integers(0, END, 1 + int(random.exponential(mean)))]
    np.array(ids[: BATCHES * TOKENS + 1], dtype=np.uint16).tofile(path)
    return PackedTokens(path, context, VOCABULARY, END)


def measure(tokens: PackedTokens, rounds: int) -> dict[str, list[float]]:
    """Tokens per second of processor time in each round, by way."""
    model = GPT(GPTConfig(VOCABULARY, tokens.context, 256, LAYERS, 4)).initialise(1)
    packed, rows = PackedLoss(model), TOKENS // tokens.context
    batches = [tokens.batch(list(range(n * rows, (n + 1) * rows)), IGNORE) for n in range(BATCHES)]
    rates: dict[str, list[float]] = {MASKED: [], VARLEN: []}
    for turn in range(rounds + 1):
        for way, own in rates.items():
            model.zero_grad()
            begun = time.process_time()
            for inputs, targets in batches:
                if way == MASKED:
                    loss = model.loss_sum(inputs, targets, *tokens.layout(inputs))
                else:
                    loss = packed(inputs, targets, *document_bounds(inputs, END))
                loss.backward()
            if turn:  # the first round allocates
                own.append(BATCHES * TOKENS / (time.process_time() - begun))
    return rates


def table(result: dict) -> str:
    """The section of README.md."""
    lines = [
        "## Packed documents on a CPU",
        "",
        "Forward and backward passes of pretraining in fp32 with one thread; random weights of mini's shape "
        f"(width 256, {LAYERS} layers, {VOCABULARY:,} tokens); real tokens per second of processor time on an "
        f"{result['machine']}, medians of {result['rounds']} alternating rounds. Masked: attention over the whole context "
        "with a mask; varlen: "
        "document by document (`pretrain.packed_attention`).",
        "",
        f"    python benchmarks/packed_documents.py --rounds {result['rounds']}",
        "",
        "| context | mean length of a document | masked | varlen | ratio (each round) |",
        "|---:|---:|---:|---:|---|",
    ]
    for work in result["works"]:
        rates = work["rates"]
        ratios = [own / other for own, other in zip(rates[VARLEN], rates[MASKED], strict=True)]
        masked, varlen = (statistics.median(rates[way]) for way in (MASKED, VARLEN))
        lines.append(
            f"| {work['context']:,} | {work['mean']:,} | {masked:,.0f} | {varlen:,.0f} | {statistics.median(ratios):.2f} "
            f"({', '.join(f'{ratio:.2f}' for ratio in sorted(ratios))}) |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    works = []
    with tempfile.TemporaryDirectory() as folder:
        for number, (context, mean) in enumerate(WORKS):
            rates = measure(pack(Path(folder, f"{number}.bin"), context, mean), asked.rounds)
            works.append({"context": context, "mean": mean, "rates": rates})
    result = {"machine": f"{processor_name()} ({instruction_set()})", "rounds": asked.rounds, "works": works}
    write_json(OUT, result)
    print(table(result))
    write_section(PAGE, OUT.stem, table(result))


if __name__ == "__main__":
    main()
