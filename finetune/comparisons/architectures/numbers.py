"""Whole numbers in British English words: a task with one right answer."""

SMALL = (
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
)
TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
LARGEST = 999_999


def in_words(n: int) -> str:
    """4,071 is four thousand and seventy-one. Raises ValueError outside of 0 to 999,999."""
    if not 0 <= n <= LARGEST:
        raise ValueError(f"{n:,} is not in 0 to {LARGEST:,}")
    if n < 20:
        return SMALL[n]
    if n < 100:
        return TENS[n // 10 - 2] + (f"-{SMALL[n % 10]}" if n % 10 else "")
    size, name = (100, "hundred") if n < 1000 else (1000, "thousand")
    head, rest = divmod(n, size)
    return f"{in_words(head)} {name}" + (f"{' and' if rest < 100 else ''} {in_words(rest)}" if rest else "")
