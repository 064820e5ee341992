"""The three architectures as diagrams, with the shapes of a loaded configuration.

Sources: Radford et al. 2019 (decoder-only); Devlin et al. 2019, arXiv:1810.04805 (encoder-only); Vaswani et al. 2017,
arXiv:1706.03762 (encoder-decoder); all in the pre-norm form of GPT-2. Shape letters as in models/gpt.py.
"""

from matplotlib.axes import Axes

from finetune.models.gpt import GPTConfig
from finetune.pictures.diagram import INK, around, arrow, box, frame, new_diagram, plus
from finetune.pictures.drawing import Drawing

BOX, HEIGHT, FRAME = 1.9, 0.42, 2.75  # inches


def shapes(config: GPTConfig) -> dict[str, tuple]:
    """The shapes of the tensors; numbers come from the model, letters from the batch."""
    C, H = config.width, config.heads
    return {
        "ids": ("B", "T"),
        "embedded": ("B", "T", C),
        "queries": ("B", H, "T", C // H),
        "weights": ("B", H, "T", "T"),
        "inner": ("B", "T", 4 * C),
        "logits": ("B", "T", config.vocab_size),
        "source_ids": ("B", "S"),
        "encoded": ("B", "S", C),
        "cross_keys": ("B", H, "S", C // H),
        "cross_weights": ("B", H, "T", "S"),
        "source_mask": ("B", 1, 1, "S"),
        "mask": ("B", 1, 1, "T"),
    }


def written(shape: tuple) -> str:
    """("B", 4) as text: (B, 4)."""
    return "(" + ", ".join(part if isinstance(part, str) else f"{part:,}" for part in shape) + ")"


def draw(config: GPTConfig, weights: str) -> list[Drawing]:
    """Decoder-only, encoder-only and encoder-decoder models of this size."""
    letters = (
        f"Sizes as in {weights}: B texts of a batch, T tokens of each (at most {config.context:,}), width "
        f"{config.width:,}, {config.heads} heads of {config.width // config.heads} channels, "
        f"{config.vocab_size:,} tokens in the vocabulary."
    )
    return [
        _one_sided(
            config,
            "architectures-decoder-only",
            "Decoder-only (GPT)",
            "causal mask\n(T, T)",
            "masked self-attention",
            "logits of the next token",
            "Every token attends to itself and to earlier tokens; each position predicts the next token. This is GPT-2, "
            f"part for part. {letters}",
        ),
        _one_sided(
            config,
            "architectures-encoder-only",
            "Encoder-only (BERT)",
            f"padding mask\n{written(shapes(config)['mask'])}",
            "self-attention",
            "logits of masked tokens",
            "Every token attends to the whole text except padding. The model is trained to fill in masked tokens; a "
            "classifier uses the mean of the last hidden states instead of the logits. The mask and the objective are "
            "BERT's; the blocks are GPT-2's. BERT itself normalises after each sum instead of before each part, and adds "
            f"a segment embedding, which says to which of two texts a token belongs. {letters}",
        ),
        _two_sided(config, letters),
        _norms(config, letters),
    ]


def _one_sided(
    config: GPTConfig, name: str, title: str, mask: str, attention: str, output: str, caption: str
) -> Drawing:
    shape = {key: written(value) for key, value in shapes(config).items()}
    figure, axes = new_diagram(4.6, 7.1)
    x = 2.75
    column = Column(axes, x, config, shape, source=False)
    column.read("token ids", positions_at=0.68)
    column.block(attention, cross=False)
    _mask(axes, 0.68, column.attention_y, mask, x)
    column.write(output)
    return Drawing(name, title, caption, figure)


def _two_sided(config: GPTConfig, letters: str) -> Drawing:
    shape = {key: written(value) for key, value in shapes(config).items()}
    figure, axes = new_diagram(8.2, 8.5)
    left, right, between = 2.6, 6.6, 4.6
    encoder = Column(axes, left, config, shape, source=True)
    encoder.read("source ids", positions_at=0.62)
    encoder.block("self-attention", cross=False)
    _mask(axes, 0.62, encoder.attention_y, f"padding mask\n{shape['source_mask']}", left)
    encoder.last_norm()
    decoder = Column(axes, right, config, shape, source=False)
    decoder.read("target ids", positions_at=between)
    decoder.block("masked self-attention", cross=True)
    _mask(axes, between, decoder.attention_y, "causal mask\n(T, T)", right)
    decoder.write("logits of the next token")
    turn, cross_y = encoder.y + 0.25, decoder.cross_y
    axes.plot([left, left, between, between], [encoder.y, turn, turn, cross_y], color=INK, linewidth=1.6, zorder=2)
    arrow(axes, (between, cross_y), (right - BOX / 2, cross_y))
    axes.text(
        left + 0.1,
        turn + 0.1,
        f"{shape['encoded']}, read by every\nblock of the decoder: keys and\nvalues, {shape['cross_keys']} each",
        fontsize=7.5,
        va="bottom",
    )
    _mask(axes, between, cross_y - 0.62, f"padding mask\n{shape['source_mask']}", right, end_y=cross_y - 0.12)
    return Drawing(
        "architectures-encoder-decoder",
        "Encoder-decoder (T5, BART)",
        "The encoder reads a source of S tokens bidirectionally. The decoder writes the target token by token. "
        "In each of its blocks, cross-attention with weights "
        f"{shape['cross_weights']} also attends to the encoder's last hidden states. The blocks are GPT-2's, as in the "
        "models of this project. Vaswani et al. 2017 and BART normalise after each sum; T5 has no position table but "
        f"learned biases on the attention by distance, and norms without a mean and a bias. {letters}",
        figure,
        wide=True,
    )


def _norms(config: GPTConfig, letters: str) -> Drawing:
    """One block with its norms before its parts (pre-norm), and one with them after its sums (post-norm)."""
    shape = {key: written(value) for key, value in shapes(config).items()}
    figure, axes = new_diagram(6.6, 4.55)
    for x, post, name in ((1.75, False, "pre-norm (GPT-2)"), (4.95, True, "post-norm (Vaswani et al. 2017, BERT)")):
        column = Column(axes, x, config, shape, source=False)
        axes.text(x, column.y - 0.06, name, ha="center", va="top", fontsize=8.5)
        column.up(0.5, shape["embedded"])
        column.part("self-attention", "attention", post=post)
        column.part("MLP", "mlp", last=True, post=post)
        column.up(0.38, shape["embedded"])
    return Drawing(
        "architectures-norms",
        "Norms before or after",
        "Left: each part reads a normalised copy of the stream and adds to it; the stream itself is normalised once, after "
        "the last block. Right: the stream is normalised after each sum, so that nothing passes a block unchanged; such "
        f"models need a longer warmup (Xiong et al. 2020, arXiv:2002.04745). {letters}",
        figure,
    )


def _mask(axes: Axes, x: float, y: float, text: str, to: float, end_y: float | None = None) -> None:
    """A mask at x, y, and its arrow to the attention of the column at `to`."""
    box(axes, x, y, text, "mask", width=1.12)
    arrow(axes, (x + 0.56, y), (to - BOX / 2, y if end_y is None else end_y), dashed=True)


class Column:
    """One stack, drawn from the bottom upwards; y is the current height."""

    def __init__(self, axes: Axes, x: float, config: GPTConfig, shape: dict[str, str], source: bool):
        self.axes, self.x, self.y, self.config, self.shape = axes, x, 0.3, config, shape
        self.ids, self.states = (shape[key] for key in (("source_ids", "encoded") if source else ("ids", "embedded")))
        self.attention_y = self.cross_y = 0.0

    def up(self, distance: float, text: str = "") -> None:
        """An arrow with the shape of the tensor."""
        arrow(self.axes, (self.x, self.y), (self.x, self.y + distance), text)
        self.y += distance

    def box(self, text: str, kind: str) -> float:
        """A box on top of the last arrow; returns the height of its middle."""
        box(self.axes, self.x, self.y + HEIGHT / 2, text, kind, BOX, HEIGHT)
        self.y += HEIGHT
        return self.y - HEIGHT / 2

    def plus(self) -> float:
        """A sum on top of the last arrow; returns the height of its middle."""
        plus(self.axes, self.x, self.y + 0.1)
        self.y += 0.2
        return self.y - 0.1

    def read(self, name: str, positions_at: float) -> None:
        """Token ids, their embedding, and the positions from a box at `positions_at`."""
        config = self.config
        self.axes.text(self.x, self.y - 0.06, f"{name} {self.ids}", ha="center", va="top", fontsize=8.5)
        self.up(0.2)
        self.box(f"token embedding\n{config.vocab_size:,} \N{MULTIPLICATION SIGN} {config.width:,}", "table")
        self.up(0.24, self.states)
        y = self.plus()
        box(
            self.axes,
            positions_at,
            y,
            f"positions\n{config.context:,} \N{MULTIPLICATION SIGN} {config.width:,}",
            "table",
            width=1.12,
        )
        arrow(self.axes, (positions_at + 0.56, y), (self.x - 0.1, y))

    def block(self, attention: str, cross: bool) -> None:
        """The repeated block; the residual stream passes each of its parts."""
        config, low = self.config, self.y + 0.2
        heads = f"{config.heads} heads of {config.width // config.heads}"
        self.up(0.5)
        self.attention_y = self.part(f"{attention}\n{heads}", "attention")
        if cross:
            self.cross_y = self.part(f"cross-attention\n{heads}", "attention")
        self.part(
            f"MLP\n{config.width:,} \N{RIGHTWARDS ARROW} {4 * config.width:,} \N{RIGHTWARDS ARROW} {config.width:,}",
            "mlp",
            last=True,
        )
        frame(self.axes, self.x, low, self.y + 0.08, f"{config.layers} \N{MULTIPLICATION SIGN}", FRAME)

    def part(self, text: str, kind: str, last: bool = False, post: bool = False) -> float:
        """A part of a block with its norm, before it or after its sum; returns the height of the part's middle."""
        low = self.y - 0.14
        if not post:
            self.box("norm", "norm")
            self.up(0.2)
        middle = self.box(text, kind)
        self.up(0.2)
        around(self.axes, self.x, low, self.plus(), self.x - BOX / 2 - 0.2)
        if post:
            self.up(0.2)
            self.box("norm", "norm")
        if not last:
            self.up(0.3)
        return middle

    def last_norm(self) -> None:
        """The norm after the last block."""
        self.up(0.38, self.states)
        self.box("norm", "norm")

    def write(self, name: str) -> None:
        """The last norm, the output matrix and the logits."""
        self.last_norm()
        self.up(0.26, self.states)
        self.box("output matrix\n(the token embedding)", "table")
        self.up(0.26)
        self.axes.text(self.x, self.y + 0.04, f"{name}\n{self.shape['logits']}", ha="center", va="bottom", fontsize=8.5)
