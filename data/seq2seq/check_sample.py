"""Measure sample.tsv (source<TAB>target): sizes, and that it is what number_words.py writes."""

import runpy
import tempfile
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
SHARED = runpy.run_path(str(HERE.parent / "card_figures.py"))
MADE_BY = runpy.run_path(str(HERE / "number_words.py"))
LIMITS = {"pairs": (20_000, 20_000), "different_numbers": (20_000, 20_000)}
RANGES = ((0, 999), (1000, 9999), (10_000, 99_999), (100_000, 999_999))


def read_sample(path):
    with tempfile.TemporaryDirectory() as folder:
        again = Path(folder) / path.name
        MADE_BY["write_sample"](again)
        if again.read_bytes() != path.read_bytes():
            raise SystemExit(f"{path.name} is not what number_words.py writes: run it")
    return [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()[1:]]


def measure(pairs):
    numbers = np.array([int(source.replace(",", "")) for source, _ in pairs])
    sizes = {
        "source_characters": [len(source) for source, _ in pairs],
        "target_characters": [len(target) for _, target in pairs],
        "target_words": [len(target.split()) for _, target in pairs],
    }
    return {
        "pairs": len(pairs),
        "different_numbers": len(set(numbers.tolist())),
        **{f"from {low:,} to {high:,}": int(((low <= numbers) & (numbers <= high)).sum()) for low, high in RANGES},
        **{
            f"{name}_{what}": int(of(values))
            for name, values in sizes.items()
            for what, of in (("min", np.min), ("median", np.median), ("max", np.max))
        },
        "different_target_words": len({word for _, target in pairs for word in target.replace("-", " ").split()}),
    }


if __name__ == "__main__":
    SHARED["print_and_check"](lambda: measure(read_sample(HERE / "sample.tsv")), LIMITS, HERE / "card.md", __doc__)
