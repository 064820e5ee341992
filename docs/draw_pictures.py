"""Draw the pictures of the docs into docs/pictures: python docs/draw_pictures.py [NAME ...]

Those of DRAWN are what `finetune draw` draws; those of PLOTTED show figures that are computed here, as in the lesson.
"""

import json
import math
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

import finetune
from finetune.hub.assets import asset
from finetune.pictures.draw import draw
from finetune.pictures.drawing import BLUE, GREY, ORANGE, new_figure
from finetune.pictures.options import Options
from finetune.recipe import Recipe
from finetune.report.plots import house_style, svg_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PICTURES = Path(__file__).resolve().parent / "pictures"
DRAWN = {  # kind of picture -> its files, without the ending
    "tokens": ["tokens"],
    "embeddings": ["embeddings"],
    "positions": ["positions-alibi"],
    "attention": ["attention-layer-3-head-1", "attention-overview"],
    "masks": ["masks-causal"],
    "architectures": ["architectures-decoder-only", "architectures-encoder-decoder", "architectures-norms"],
    "schedule": ["schedule"],
    "sampling": ["sampling-temperature"],
    "beams": ["beams"],
    "cache": ["cache"],
}


def residual_stream() -> "Figure":
    """What each part of each block adds to the stream of mini (lesson 5)."""
    model, tokenizer = finetune.load("mini")
    text = "The bank was closed because the river had flooded its basement"
    ids = torch.tensor([[tokenizer.end_of_text, *tokenizer.encode(text)]])
    lengths = []
    with torch.no_grad():
        x = model.embed(ids)
        for block in model.blocks:
            attended = block.attention(block.norm_1(x))
            written = block.mlp(block.norm_2(x + attended))
            x = x + attended + written
            lengths.append([part[0, 1:].norm(dim=-1).mean().item() for part in (attended, written, x)])
    attended, written, stream = np.array(lengths).T
    figure = new_figure(4.8, 2.9)
    axes, blocks = figure.subplots(), np.arange(len(stream))
    axes.plot(blocks, stream, color=GREY, marker="o", label="the stream after the block")
    axes.bar(blocks - 0.2, attended, 0.38, color=BLUE, label="added by attention")
    axes.bar(blocks + 0.2, written, 0.38, color=ORANGE, label="added by the MLP")
    axes.set(xlabel="Block", ylabel="Mean length of a token's vector")
    axes.legend(frameon=False, fontsize=8)
    return figure


def transposed() -> "Figure":
    """A square matrix of mini's file, as stored and as PyTorch wants it (lesson 7)."""
    model = finetune.load("mini")[0]
    right = model.blocks[0].attention.out.weight.detach()[:48, :48]
    figure = new_figure(5.6, 2.9)
    bound = float(right.abs().max()) * 0.7
    for axes, matrix, title in zip(
        figure.subplots(1, 2),
        (right.T, right),
        ("in the file: inputs x outputs", "in nn.Linear: outputs x inputs"),
        strict=True,
    ):
        axes.imshow(matrix, cmap="PuOr", vmin=-bound, vmax=bound, interpolation="nearest")
        axes.set(xticks=[], yticks=[])
        axes.set_title(title, fontsize=9)
    return figure


def surprise() -> "Figure":
    """The loss of each token of a text (lesson 8)."""
    model, tokenizer = finetune.load("mini")
    ids = torch.tensor([[tokenizer.end_of_text, *tokenizer.encode("The cat sat on the mat. The cat sat on the mat.")]])
    with torch.no_grad():
        nats = torch.nn.functional.cross_entropy(model(ids[:, :-1])[0], ids[0, 1:], reduction="none")
    labels = [tokenizer.label(token).replace(" ", "\N{OPEN BOX}") for token in ids[0, 1:].tolist()]
    figure = new_figure(5.2, 2.5)
    axes = figure.subplots()
    colours = [BLUE if place < len(labels) // 2 else ORANGE for place in range(len(labels))]
    axes.bar(range(len(labels)), nats, color=colours)
    axes.set_xticks(range(len(labels)), labels)
    axes.set(ylabel="Surprise (nats)", xlabel="Blue: the first time. Orange: the second")
    return figure


def classifier() -> "Figure":
    """The four accuracies that lesson 12 prints, with Wilson intervals."""
    page = (PICTURES.parent / "lessons" / "12-classifier.md").read_text(encoding="utf-8")
    lines = [
        line.split(":")
        for line in page.splitlines()
        if line.startswith(("always", "TF-IDF:", "frozen mini,", "last block trained"))
    ]
    names, shares = [name for name, _ in lines], [float(rest.split()[0]) for _, rest in lines]
    figure = new_figure(5.0, 2.0)
    axes = figure.subplots()
    for place, share in enumerate(shares):
        low, high = wilson(share, 200)
        axes.plot([100 * low, 100 * high], [place, place], color=GREY, linewidth=2)
        axes.plot(100 * share, place, "o", color=BLUE)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set(xlabel="Accuracy on 200 messages, with 95 % interval (%)")
    return figure


def wilson(share: float, n: int, z: float = 1.96) -> tuple[float, float]:
    """As in lesson 16."""
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return centre - half, centre + half


def wilson_width() -> "Figure":
    """How the interval narrows with the number of test rows (lesson 16)."""
    rows = np.geomspace(10, 10_000, 60)
    figure = new_figure(4.6, 2.8)
    axes = figure.subplots()
    for share, colour in ((0.95, BLUE), (0.8, ORANGE)):
        low, high = zip(*(wilson(share, n) for n in rows), strict=True)
        axes.fill_between(rows, 100 * np.array(low), 100 * np.array(high), color=colour, alpha=0.25)
        axes.plot(rows, np.full(len(rows), 100 * share), color=colour)
    axes.set(xscale="log", xlabel="Test rows", ylabel="Accuracy and its 95 % interval (%)", ylim=(45, 100))
    axes.set_xticks([10, 100, 1000, 10_000], ["10", "100", "1,000", "10,000"])
    axes.minorticks_off()
    return figure


def lora() -> "Figure":
    """W beside B A, drawn to scale for a width of 256 and rank 8 (lesson 13)."""
    from matplotlib.patches import Rectangle

    figure = new_figure(5.2, 2.4)
    axes = figure.subplots()
    for x, y, width, height, colour, name in (
        (0, 0, 256, 256, GREY, "W, frozen\n256 x 256"),
        (330, 0, 8, 256, BLUE, "B\n256 x 8"),
        (360, 248, 256, 8, ORANGE, "A, 8 x 256"),
    ):
        axes.add_patch(Rectangle((x, y), width, height, color=colour, alpha=0.6))
        at = (
            (x + width / 2, y + height / 2)
            if width > 8 and height > 8
            else (x + 26, 90)
            if width == 8
            else (x + width / 2, 228)
        )
        axes.annotate(name, at, ha="left" if width == 8 else "center", va="center", fontsize=9)
    axes.annotate("+", (293, 128), ha="center", va="center", fontsize=18)
    axes.set(xlim=(-5, 625), ylim=(-5, 265), aspect="equal")
    axes.axis("off")
    return figure


def instruct_loss() -> "Figure":
    """Which tokens of an example are learnt (lesson 14)."""
    tokenizer = finetune.load("mini")[1]
    prompt, answer = (tokenizer.encode(part) for part in ("User: Name a fruit.\nAssistant:", " apple"))
    tokens = [(token, GREY) for token in prompt] + [(token, BLUE) for token in [*answer, tokenizer.end_of_text]]
    figure = new_figure(6.4, 0.9)
    axes, x = figure.subplots(), 0.0
    for token, colour in tokens:
        label = (
            tokenizer.label(token)
            .replace(" ", "\N{OPEN BOX}")
            .replace("\n", "\N{DOWNWARDS ARROW WITH CORNER LEFTWARDS}")
        )
        width = 0.16 * len(label) + 0.25
        axes.annotate(
            label,
            (x + width / 2, 0),
            ha="center",
            va="center",
            fontsize=9,
            color="white" if colour == BLUE else "black",
            bbox={"boxstyle": "round", "color": colour, "alpha": 0.9 if colour == BLUE else 0.3},
        )
        x += width + 0.12
    axes.annotate("grey: read only. blue: learnt", (0, -0.8), fontsize=8)
    axes.set(xlim=(-0.3, x), ylim=(-1, 0.6))
    axes.axis("off")
    return figure


def scaling() -> "Figure":
    """The trials before mini's training, and the fitted law (lesson 17)."""
    lines = [
        json.loads(line) for line in asset("weights", "mini", "trials.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    trials = [line for line in lines if line["name"].startswith("scale") or line["name"] == "muon-4e-3"]
    n, d, loss = (np.array([trial[key] for trial in trials]) for key in ("parameters", "tokens", "held_out"))
    design = np.stack([np.ones(len(loss)), np.log(n), np.log(d)], axis=1)
    (a, b, c), *_ = np.linalg.lstsq(design, np.log(loss), rcond=None)
    figure = new_figure(4.8, 3.0)
    axes, tokens = figure.subplots(), np.geomspace(2.2e5, 1.2e6, 40)
    shades = ("#9ecae1", "#6baed6", "#3182bd", "#08519c")
    for size, colour in zip(sorted(set(n)), shades, strict=True):
        axes.plot(tokens / 1e6, np.exp(a) * size**b * tokens**c, color=colour, label=f"{size / 1e6:.1f} M parameters")
        axes.plot(d[n == size] / 1e6, loss[n == size], "o", color=colour)
    axes.set(xscale="log", yscale="log", xlabel="Training tokens (millions)", ylabel="Bits per byte, held out")
    axes.set_xticks([0.25, 0.5, 1], ["0.25", "0.5", "1"])
    axes.set_yticks([2.2, 2.3, 2.4, 2.5], ["2.2", "2.3", "2.4", "2.5"])
    axes.minorticks_off()
    axes.legend(frameon=False, fontsize=8)
    return figure


def inversion() -> "Figure":
    """The shares of tokens found that lesson 18 prints."""
    page = (PICTURES.parent / "lessons" / "18-inverting-embeddings.md").read_text(encoding="utf-8")
    pairs = [line.split() for line in page.splitlines() if line.endswith("% found")]
    figure = new_figure(4.4, 2.4)
    axes = figure.subplots()
    axes.plot(
        [int(words[0]) for words in pairs], [int(words[3].rstrip("%")) for words in pairs], color=BLUE, marker="o"
    )
    axes.set(xscale="log", xlabel="Tokens in the text", ylabel="Found in the mean (%)", ylim=(0, 100))
    axes.set_xticks([5, 10, 20, 40, 80], ["5", "10", "20", "40", "80"])
    axes.minorticks_off()
    return figure


PLOTTED: dict[str, Callable[[], "Figure"]] = {
    "residual-stream": residual_stream,
    "transposed": transposed,
    "surprise": surprise,
    "classifier": classifier,
    "lora": lora,
    "instruct-loss": instruct_loss,
    "wilson": wilson_width,
    "scaling": scaling,
    "inversion": inversion,
}


def draw_into(folder: Path, names: list[str]) -> None:
    """Draw the named kinds and plots as SVG files."""
    folder.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as album:
        for kind in [kind for kind in DRAWN if kind in names]:
            draw(kind, Path(album), Options(), Recipe().train)
            for name in DRAWN[kind]:
                shutil.copy(Path(album) / f"{name}.svg", folder)
    with house_style():
        for name in [name for name in PLOTTED if name in names]:
            (folder / f"{name}.svg").write_text(svg_of(PLOTTED[name]()), encoding="utf-8")


if __name__ == "__main__":
    draw_into(PICTURES, sys.argv[1:] or [*DRAWN, *PLOTTED])
