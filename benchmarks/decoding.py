"""Decoding strategies on the same prompts: speed, diversity, repetition and likelihood, and a picture.

The bundled checkpoint continues a dozen beginnings. distinct-n is the share of different n-grams among all (Li et al.
2016, arXiv:1510.03055), counted over all texts; repetition is the share of a text's 4-grams that occurred in it before;
likelihood is the mean log probability of a token under the plain model, in nats (temperature 1, no filter).

    python benchmarks/decoding.py

Needs the `dev` extra. Writes decoding.json and decoding.png, and its section into README.md beside it.
"""

import argparse
import time
from pathlib import Path

import torch
from few_labels import write_section

from finetune.checkpoints.sources import load
from finetune.files import write_json
from finetune.models.gpt import GPT

HERE = Path(__file__).parent
WAYS = {
    "greedy": {"temperature": 0},
    "greedy, no 3-gram twice": {"temperature": 0, "no_repeat_ngram": 3},
    "greedy, penalty 1.3": {"temperature": 0, "repetition_penalty": 1.3},
    "beam 4": {"beams": 4},
    "temperature 0.7": {"temperature": 0.7},
    "temperature 1": {"temperature": 1.0},
    "temperature 1.3": {"temperature": 1.3},
    "top-k 50": {"top_k": 50},
    "top-p 0.9": {"top_p": 0.9},
    "min-p 0.1": {"min_p": 0.1},
}
LIKELIEST = "greedy", "beam"  # prefixes of the names of strategies that do not sample
COLORS = {"takes the likeliest": "#c44e52", "draws": "#4c72b0"}
PROMPTS = [
    "The history of the",
    "In the morning, she",
    "Water is",
    "He said that",
    "The city was",
    "One of the most",
    "Many people",
    "It was the first",
    "The river",
    "After the war",
    "They found",
    "I don't know why",
]


def ngrams(row: list[int], n: int) -> list[tuple[int, ...]]:
    """All n-grams of a text."""
    return list(zip(*(row[i:] for i in range(n)), strict=False))


def variety(rows: list[list[int]], n: int) -> float:
    """The share of different n-grams among all, over all texts (distinct-n)."""
    found = [gram for row in rows for gram in ngrams(row, n)]
    return len(set(found)) / len(found)


def repetition(rows: list[list[int]], n: int = 4) -> float:
    """The share of n-grams that occurred in the same text before, averaged over texts."""
    return sum(1 - variety([row], n) for row in rows) / len(rows)


@torch.inference_mode()
def likelihood(model: GPT, prompts: list[list[int]], rows: list[list[int]]) -> float:
    """Mean log probability of the new tokens, in nats."""
    total = 0.0
    for prompt, row in zip(prompts, rows, strict=True):
        steps = model(torch.tensor([prompt + row])).log_softmax(dim=-1)[0, len(prompt) - 1 : -1]
        total += steps.gather(1, torch.tensor(row)[:, None]).mean().item()
    return total / len(rows)


def measure(model: GPT, prompts: list[list[int]], new: int, options: dict) -> dict[str, float]:
    """The figures of one decoding strategy."""
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[False] * (width - len(prompt)) + [True] * len(prompt) for prompt in prompts])
    start, processor = time.perf_counter(), time.process_time()
    rows = model.generate(ids, new, mask=mask, seed=1, **options)[:, width:].tolist()
    tokens, seconds = len(rows) * new, time.perf_counter() - start
    return {
        "tokens_per_second": tokens / seconds,
        "tokens_per_cpu_second": tokens / (time.process_time() - processor),
        "distinct_1": variety(rows, 1),
        "distinct_2": variety(rows, 2),
        "repetition": repetition(rows),
        "likelihood": likelihood(model, prompts, rows),
    }


def plot(figures: dict[str, dict[str, float]], file: Path) -> None:
    """Plot likelihood against diversity, a point for each strategy."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 5.2), layout="constrained")
    for kind, color in COLORS.items():
        axes.scatter([], [], s=40, color=color, alpha=0.75, label=kind)
    for name, row in figures.items():
        color = COLORS["takes the likeliest" if name.startswith(LIKELIEST) else "draws"]
        axes.scatter(row["likelihood"], row["distinct_2"], s=40 + 300 * row["repetition"], color=color, alpha=0.75)
        side = -1 if name == "greedy" else 1  # beam search is to its right
        axes.annotate(
            name,
            (row["likelihood"], row["distinct_2"]),
            xytext=(side * 10, 3),
            fontsize=9,
            textcoords="offset points",
            ha="left" if side > 0 else "right",
        )
    axes.set_xlabel("log probability of a token under the model, in nats (to the right: likelier)")
    axes.set_ylabel("distinct-2: different pairs of tokens among all")
    axes.set_title(
        "Ways of decoding: the likeliest texts repeat themselves (larger points: more repetition)", fontsize=10
    )
    axes.set_ylim(-0.03, 1.08)
    axes.set_xlim(right=0.2)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower left", frameon=False)
    figure.savefig(file, dpi=130)


def section(result: dict) -> str:
    """The section of README.md."""
    ways = result["ways"]
    likeliest, drawn = (
        [row for name, row in ways.items() if name.startswith(LIKELIEST) == kind] for kind in (True, False)
    )
    most, least = max(drawn, key=lambda row: row["likelihood"]), min(drawn, key=lambda row: row["likelihood"])
    greedy, beams = ways["greedy"], ways["beam 4"]
    lines = [
        "## Decoding methods",
        "",
        f"{result['weights']} continues {len(result['prompts'])} prompts by {result['new_tokens']} tokens, one "
        f"seed, {result['threads']} thread(s). distinct-n: share of distinct n-grams; repetition: share of 4-grams that "
        "occurred earlier in the same text; likelihood: mean log probability of a token under the unmodified model, in "
        "nats. Samples change with the seed; a difference of a few hundredths means nothing.",
        "",
        "| way | tokens per CPU second | distinct-1 | distinct-2 | repetition | likelihood |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {name} | {row['tokens_per_cpu_second']:,.0f} | "
        + " | ".join(f"{row[key]:.2f}" for key in ("distinct_1", "distinct_2", "repetition", "likelihood"))
        + " |"
        for name, row in ways.items()
    ]
    return "\n".join(
        [
            *lines,
            "",
            "![likelihood against variety](decoding.png)",
            "",
            f"The likeliest texts repeat themselves: {greedy['repetition']:.0%} of the 4-grams of a greedy text occurred in "
            f"it before, {beams['repetition']:.0%} with beam search, and at most "
            f"{max(row['repetition'] for row in drawn):.0%} with sampling. The repetition rules reduce this to "
            f"{min(row['repetition'] for row in likeliest):.0%}, and the text is still likelier than any sampled text "
            f"({most['likelihood']:.1f} to {least['likelihood']:.1f} nats per token). Beam search finds the likeliest texts "
            f"of all and costs {greedy['tokens_per_cpu_second'] / beams['tokens_per_cpu_second']:.1f} times as much as "
            "greedy decoding. None of these figures says whether a text makes sense; that of a small model seldom does.",
        ]
    )


def main() -> None:
    """Measure all strategies; write the JSON, the picture and the section."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", default="mini")
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--out", type=Path, default=HERE / "decoding.json")
    parser.add_argument("--page", type=Path, default=HERE / "README.md")
    arguments = parser.parse_args()
    model, tokenizer = load(arguments.weights)
    prompts = [[tokenizer.end_of_text, *tokenizer.encode(prompt)] for prompt in PROMPTS]
    figures = {name: measure(model, prompts, arguments.new_tokens, options) for name, options in WAYS.items()}
    result = {
        "weights": arguments.weights,
        "new_tokens": arguments.new_tokens,
        "prompts": PROMPTS,
        "threads": torch.get_num_threads(),
        "ways": figures,
    }
    print(section(result))
    write_json(arguments.out, result)
    plot(figures, arguments.out.with_suffix(".png"))
    write_section(arguments.page, "decoding", section(result))


if __name__ == "__main__":
    main()
