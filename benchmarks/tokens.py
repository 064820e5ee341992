"""Tokenize many short texts: ours, tiktoken's encode_ordinary_batch and transformers' fast tokenizer, in turn.

The texts are words of the bundled spam sample in random order, encoded with the bundled vocabulary. Prints and returns
rates per second by wall clock and by processor time.

    python benchmarks/tokens.py --texts 1000000
"""

import argparse
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import tiktoken

from finetune.hub.assets import asset
from finetune.tokenizer import Tokenizer

ROUNDS = 5


def short_texts(count: int) -> list[str]:
    """Texts of 4 to 14 words."""
    draw = random.Random(0)
    words = asset("data", "spam", "sample.tsv").read_text(encoding="utf-8").split()
    return [" ".join(draw.choices(words, k=draw.randint(4, 14))) for _ in range(count)]


def measure(count: int, rounds: int = ROUNDS) -> dict[str, dict[str, float]]:
    """Texts per second of each tokenizer, and the ratio of ours to each."""
    directory, texts = asset("weights", "mini"), short_texts(count)
    ours = Tokenizer.from_directory(directory)
    [batch] = [own for own in vars(ours).values() if isinstance(own, tiktoken.Encoding)]
    ways: dict[str, Callable[[], list[list[int]]]] = {
        "finetune": lambda: ours.encode_batch(texts),
        "tiktoken, encode_ordinary_batch": lambda: batch.encode_ordinary_batch(texts, num_threads=2),
        "transformers": _transformers(directory, texts),
    }
    clock: dict[str, list[float]] = {name: [] for name in ways}
    processor: dict[str, list[float]] = {name: [] for name in ways}
    found = {}
    for _ in range(rounds):
        for name, encode in ways.items():
            begun = time.perf_counter(), time.process_time()
            found[name] = encode()
            clock[name].append(time.perf_counter() - begun[0])
            processor[name].append(time.process_time() - begun[1])
    assert len({str(own[:1000]) for own in found.values()}) == 1, "another library gives other ids"

    def ratio(seconds: dict[str, list[float]], name: str) -> float:
        return statistics.median(theirs / own for theirs, own in zip(seconds[name], seconds["finetune"], strict=True))

    return {
        name: {
            "texts_per_second": count / statistics.median(clock[name]),
            "texts_per_cpu_second": count / statistics.median(processor[name]),
            "ratio": ratio(clock, name),
            "cpu_ratio": ratio(processor, name),
        }
        for name in ways
    }


def _transformers(directory: Path, texts: list[str]) -> Callable[[], list[list[int]]]:
    from transformers import GPT2TokenizerFast

    theirs = GPT2TokenizerFast.from_pretrained(directory)
    return lambda: theirs(texts, add_special_tokens=False, return_attention_mask=False)["input_ids"]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--texts", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    arguments = parser.parse_args()
    for name, row in measure(arguments.texts, arguments.rounds).items():
        print(f"{name:34}" + "  ".join(f"{key} {value:,.2f}" for key, value in row.items()))


if __name__ == "__main__":
    main()
