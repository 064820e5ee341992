"""Whole numbers in British English words, and the sample of them: ``python number_words.py`` writes sample.tsv."""
import random
from pathlib import Path

SMALL = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
         "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen")
TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
LARGEST = 999_999


def words(n):
    """4,071 is four thousand and seventy-one; 0 to 999,999."""
    if not 0 <= n <= LARGEST:
        raise ValueError(f"{n:,} is not in 0 to {LARGEST:,}")
    if n < 20:
        return SMALL[n]
    if n < 100:
        return TENS[n // 10 - 2] + (f"-{SMALL[n % 10]}" if n % 10 else "")
    size, name = (100, "hundred") if n < 1000 else (1000, "thousand")
    head, rest = divmod(n, size)
    return f"{words(head)} {name}" + (f"{' and' if rest < 100 else ''} {words(rest)}" if rest else "")


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
    lines = [f"{n:,}\t{words(n)}\n" for n in draw(**settings)]
    path.write_text("source\ttarget\n" + "".join(lines), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    write_sample(Path(__file__).resolve().parent / "sample.tsv")
