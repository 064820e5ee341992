"""The sample of numbers in words: ``python number_words.py`` writes sample.tsv."""

import random
from pathlib import Path

from finetune.comparisons.architectures.numbers import LARGEST, in_words


def draw(below_100_000=4000, in_all=20_000, seed=123):
    """All of 0 to 999, so many others below 100,000, the rest from 1,000 to 999,999; no number twice, shuffled."""
    generator = random.Random(seed)
    numbers = [*range(1000), *generator.sample(range(1000, 100_000), below_100_000)]
    others = sorted(set(range(1000, LARGEST + 1)) - set(numbers))
    numbers += generator.sample(others, in_all - len(numbers))
    generator.shuffle(numbers)
    return numbers


def write_sample(path, **settings):
    """source<TAB>target, a number a line; settings as ``draw`` takes them."""
    lines = [f"{n:,}\t{in_words(n)}\n" for n in draw(**settings)]
    path.write_text("source\ttarget\n" + "".join(lines), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    write_sample(Path(__file__).resolve().parent / "sample.tsv")
