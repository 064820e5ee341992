"""The figures of a report as SVG images inside `data:` addresses.

SVG stays sharp at any size and in print, and its text uses the reader's fonts, so labels in any script are shown. No
text is parsed as mathematics, since labels come from data.
"""

import base64
import io
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from finetune.evaluation.aims import CoveragePoint
from finetune.evaluation.calibration import ReliabilityBin
from finetune.evaluation.intervals import wilson
from finetune.evaluation.results import Metric
from finetune.report.attention import draw_attention, map_size
from finetune.report.inputs import TrainingLog

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.typing import RcKeyType
    from numpy.typing import ArrayLike

MODEL, BASELINE, GREY, LIGHT = "#1d5f9e", "#b4561b", "#6b6f76", "#d9dce1"
Points = Sequence[Sequence[float]]  # (x, y) of a curve
_LABEL_LIMIT = 40
_FONTS = "'DejaVu Sans', Verdana, 'Segoe UI', Arial, sans-serif"
_STYLE: "dict[RcKeyType, Any]" = {
    "text.parse_math": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "report",
    "font.family": ["DejaVu Sans"],
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.labelsize": 9,
    "legend.fontsize": 8.5,
    "legend.frameon": True,
    "legend.edgecolor": "none",
    "legend.framealpha": 0.85,
    "legend.borderpad": 0.2,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#8a8e95",
    "axes.grid": True,
    "grid.color": "#e6e8eb",
    "grid.linewidth": 0.7,
    "axes.axisbelow": True,
    "xtick.color": "#3b3e43",
    "ytick.color": "#3b3e43",
    "axes.labelcolor": "#24262a",
    "text.color": "#24262a",
    "axes.unicode_minus": False,
}


@dataclass(frozen=True)
class Picture:
    """An image of the report: its `data:` address and its size in CSS pixels."""

    source: str
    width: int
    height: int


def cut(text: str, limit: int = _LABEL_LIMIT) -> str:
    """A label on one line, without characters that cannot be drawn, of at most `limit` characters."""
    text = " ".join(str(text).split())
    text = "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)
    return text if len(text) <= limit else text[: limit - 1] + "\N{HORIZONTAL ELLIPSIS}"


@contextmanager
def house_style() -> Iterator[None]:
    """Draw in the report's style within this context, whatever the user's matplotlibrc says."""
    import matplotlib

    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # the reader's fonts contain it
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        yield


def svg_of(figure: "Figure") -> str:
    """A figure as the text of an SVG file, identical each time."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    return svg[svg.index("<svg") :].replace("'DejaVu Sans'", _FONTS)


def embed(svg: str, width: float, height: float) -> Picture:
    """An SVG as an image inside a page. width, height: in inches."""
    encoded = base64.b64encode(svg.encode()).decode()
    return Picture(f"data:image/svg+xml;base64,{encoded}", round(width * 96), round(height * 96))


@contextmanager
def _figure(width: float, height: float) -> "Iterator[tuple[Figure, list[Picture]]]":
    """Yield a figure of this size in inches and a list that holds its Picture after the block."""
    from matplotlib.figure import Figure

    holder: list[Picture] = []
    with house_style():
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure, holder
        holder.append(embed(svg_of(figure), width, height))


def masks_picture(masks: Mapping[str, Sequence[Sequence[bool]]], tokens: list[str]) -> Picture:
    """Attention masks side by side, by title: dark where the token of a row may attend to that of a column."""
    with _figure(2.4 * len(masks), 2.6) as (figure, holder):
        for axes, (title, mask) in zip(figure.subplots(1, len(masks), squeeze=False)[0], masks.items(), strict=True):
            axes.imshow([[int(seen) for seen in row] for row in mask], cmap="Blues", vmin=0, vmax=1.4)
            axes.set_title(title, fontsize=10)
            axes.set_xticks(range(len(tokens)), tokens)
            axes.set_yticks(range(len(tokens)), tokens)
            axes.grid(False)
    return holder[0]


def confusion_picture(matrix: Sequence[Sequence[int]], labels: list[str]) -> Picture:
    """A confusion matrix: counts and shares of the predicted labels (columns) for each true label (rows)."""
    k = len(labels)
    names = [cut(label, _LABEL_LIMIT if k <= 6 else 24) for label in labels]
    longest = max(map(len, names))
    cell = 1.05 if k <= 4 else 0.72 if k <= 10 else 0.42
    width, height = max(3.4, cell * k + 0.085 * longest + 0.9), max(2.6, cell * 0.85 * k + 1.1)
    turned = longest * 0.085 > cell * 0.95
    if turned:
        height += 0.06 * longest
    with _figure(width, height) as (figure, holder):
        axes = figure.subplots()
        rows = [max(1, sum(row)) for row in matrix]
        shares = [[count / total for count in row] for row, total in zip(matrix, rows, strict=True)]
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1.15, aspect="auto")
        size = 11 if k <= 4 else 8
        for i in range(k):
            for j in range(k):
                if matrix[i][j] or k <= 10:
                    text = f"{matrix[i][j]:,}" if k > 10 else f"{matrix[i][j]:,}\n{100 * shares[i][j]:.1f} %"
                    axes.text(
                        j,
                        i,
                        text,
                        ha="center",
                        va="center",
                        fontsize=size,
                        linespacing=1.5,
                        color="white" if shares[i][j] > 0.72 else "#24262a",
                    )
        axes.set_xticks(range(k), names, rotation=40 if turned else 0, ha="right" if turned else "center")
        axes.set_yticks(range(k), names)
        axes.set(xlabel="Predicted", ylabel="True")
        axes.grid(False)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
    return holder[0]


def roc_picture(model: Points, baseline: Points | None, baseline_name: str, model_name: str = "this model") -> Picture:
    """ROC curves from [[false positive rate, true positive rate], ...]; `baseline` may be None."""
    with _figure(4.6, 4.2) as (figure, holder):
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle=":", label="chance")
        _pair(axes, model, baseline, model_name, baseline_name)
        axes.set(xlabel="False positive rate", ylabel="True positive rate", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
        _legend(figure, axes)
        if _hugs(model):
            corner = axes.inset_axes((0.6, 0.1, 0.36, 0.36))  # below the diagonal
            _pair(corner, model, baseline, model_name, baseline_name)
            corner.set(xlim=(-0.004, 0.1), ylim=(0.9, 1.004))
            corner.set_title("upper left corner", fontsize=8)
            corner.tick_params(labelsize=7)
            corner.spines[:].set_visible(True)
    return holder[0]


def pr_picture(
    model: Points, baseline: Points | None, baseline_name: str, share: float | None, model_name: str = "this model"
) -> Picture:
    """Precision over recall from [[recall, precision], ...]; share: of positive rows, the precision of guessing."""
    with _figure(4.6, 4.2) as (figure, holder):
        axes = figure.subplots()
        if share is not None:
            axes.axhline(
                share, color=GREY, linewidth=0.8, linestyle=":", label=f"chance (share of that label, {share:.0%})"
            )
        _pair(axes, model, baseline, model_name, baseline_name, drawstyle="steps-pre")
        axes.set(xlabel="Recall", ylabel="Precision", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
        _legend(figure, axes)
    return holder[0]


def _pair(
    axes: "Axes", model: Points, baseline: Points | None, model_name: str, baseline_name: str, **style: Any
) -> None:
    if baseline:
        axes.plot(
            *zip(*baseline, strict=True),
            color=BASELINE,
            linewidth=1.4,
            linestyle="--",
            label=cut(baseline_name),
            **style,
        )
    axes.plot(*zip(*model, strict=True), color=MODEL, linewidth=1.8, label=cut(model_name), **style)


def _legend(figure: "Figure", axes: "Axes") -> None:
    """The legend above the axes, where it covers nothing."""
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=2)


def _hugs(roc: Points) -> bool:
    """Whether the curve is so close to the upper left corner that it needs an enlarged view."""
    return max((true_rate for false_rate, true_rate in roc if false_rate <= 0.05), default=0) > 0.93


def reliability_picture(bins: list[ReliabilityBin]) -> Picture:
    """Accuracy over confidence with Wilson intervals, and the number of rows in each bin."""
    with _figure(4.6, 4.2) as (figure, holder):
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        start = min(row.low for row in bins)
        upper.plot([start, 1], [start, 1], color=GREY, linewidth=0.8, linestyle=":", label="perfectly calibrated")
        for row in bins:
            low, high = wilson(round(row.accuracy * row.n), row.n)
            upper.plot([row.confidence] * 2, [low, high], color=MODEL, linewidth=1.2)
        upper.plot(
            [row.confidence for row in bins],
            [row.accuracy for row in bins],
            "o",
            color=MODEL,
            markersize=5,
            label="test rows in a bin, with 95 % interval",
        )
        upper.set(ylabel="Accuracy", ylim=(-0.03, 1.03), xlim=(start - 0.02, 1.02))
        _legend(figure, upper)
        widths = [row.high - row.low for row in bins]
        lower.bar(
            [row.low for row in bins],
            [row.n for row in bins],
            width=widths,
            align="edge",
            color=MODEL,
            edgecolor="white",
            linewidth=0.8,
        )
        top = max(row.n for row in bins)
        for row in bins:
            lower.annotate(
                f"{row.n:,}" if top < 1000 else f"{row.n / 1000:.1f}k",
                ((row.low + row.high) / 2, row.n),
                xytext=(0, 2),
                textcoords="offset points",
                ha="center",
                fontsize=7,
            )
        lower.set(xlabel="Probability of the predicted label", ylabel="Rows", ylim=(0, top * 1.3))
        lower.grid(axis="x", visible=False)
        lower.locator_params(axis="y", nbins=3, integer=True)
    return holder[0]


def coverage_picture(points: Sequence[CoveragePoint]) -> Picture:
    """Accuracy of the most confident share of the rows over this share, with its interval."""
    with _figure(4.6, 4.2) as (figure, holder):
        axes = figure.subplots()
        shares = [point.coverage for point in points]
        known = [point.accuracy.known() for point in points]
        axes.fill_between(
            shares, [low for _, low, _ in known], [high for *_, high in known], color=LIGHT, label="95 % interval"
        )
        axes.plot(
            shares, [value for value, *_ in known], "o-", color=MODEL, linewidth=1.6, markersize=3.5, label="accuracy"
        )
        axes.set(xlabel="Share of the rows that are decided", ylabel="Accuracy", xlim=(-0.02, 1.02))
        axes.set_ylim(top=1.005)
        _legend(figure, axes)
    return holder[0]


def loss_picture(log: TrainingLog, best_step: int | None) -> Picture:
    """Training loss of each step with its running mean, the validation log loss, and the learning rate below."""
    points = [point for point in log.validation if "log_loss" in point.metrics]
    with _figure(4.6, 4.6) as (figure, holder):
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        if log.steps:
            upper.plot(log.steps, log.losses, color=LIGHT, linewidth=0.9, label="training loss, each step")
            upper.plot(
                log.steps, _running_mean(log.losses), color=GREY, linewidth=1.5, label="training loss, running mean"
            )
        if points:
            upper.plot(
                [point.step for point in points],
                [point.metrics["log_loss"] for point in points],
                "o-",
                color=MODEL,
                linewidth=1.6,
                markersize=4.5,
                label="validation loss",
            )
        _mark_best(upper, best_step)
        upper.set(ylabel="Loss (nats)")
        upper.set_ylim(bottom=0)
        _legend(figure, upper)
        lower.plot(log.rate_steps, log.rates, color=MODEL, linewidth=1.6)
        lower.set(xlabel="Optimizer step", ylabel="Learning rate")
        lower.set_ylim(bottom=0)
        lower.locator_params(axis="y", nbins=3)
        lower.yaxis.set_major_formatter(lambda value, _: f"{value:.3g}")
    return holder[0]


def validation_picture(steps: Sequence[float], columns: dict[str, list], best_step: int | None) -> Picture:
    """Validation metrics (shares) over the steps, one line per name of `columns`."""
    with _figure(4.6, 4.6) as (figure, holder):
        axes = figure.subplots()
        styles = (("o-", MODEL), ("s--", BASELINE), ("^:", GREY))
        for (name, values), (marker, colour) in zip(columns.items(), styles, strict=False):
            axes.plot(steps, values, marker, color=colour, linewidth=1.6, markersize=4.5, label=cut(name))
        _mark_best(axes, best_step)
        axes.set(xlabel="Optimizer step", ylabel="Validation metric")
        axes.locator_params(axis="x", integer=True)
        _legend(figure, axes)
    return holder[0]


def forest_picture(
    labels: list[str],
    entries: list[Metric],
    marks: list[list[float]],
    axis: str = "test accuracy, %",
    scale: float = 100.0,
) -> Picture:
    """One metric per label with its interval, the first label on top.

    marks: the individual values behind each metric, already scaled. axis: the x axis's label. scale: factor for the
    metric, 100 for shares in percent.
    """
    with _figure(7.4, 0.6 + 0.36 * len(labels)) as (figure, holder):
        axes = figure.subplots()
        places = list(range(len(labels)))
        known = [entry.known() for entry in entries]
        values = [scale * value for value, _, _ in known]
        errors = [
            [scale * value - scale * low for value, low, _ in known],
            [scale * high - scale * value for value, _, high in known],
        ]
        axes.errorbar(values, places, xerr=errors, fmt="o", color=MODEL, capsize=3, markersize=6, linewidth=1.8)
        for place, own in zip(places, marks, strict=True):
            axes.plot(own, [place] * len(own), "|", color=BASELINE, markersize=9)
        axes.set_yticks(places, [cut(label) for label in labels])
        axes.set_ylim(len(labels) - 0.5, -0.5)
        axes.set_xlabel(axis)
    return holder[0]


def curves_picture(curves: Mapping[str, Points], axis: str, over: str = "Optimizer step") -> Picture:
    """One line of (x, value) points per name. axis, over: the labels of the y axis and the x axis."""
    styles = (("o-", MODEL), ("s--", BASELINE), ("^:", GREY), ("D-.", "#3f7d3a"), ("v-", "#7a4a9e"))
    with _figure(7.4, 3.6) as (figure, holder):
        axes = figure.subplots()
        for number, (name, points) in enumerate(curves.items()):
            marker, colour = styles[number % len(styles)]
            axes.plot(
                *zip(*points, strict=True), marker, color=colour, linewidth=1.6, markersize=4.5, label=cut(name, 48)
            )
        axes.set(xlabel=over, ylabel=axis)
        axes.locator_params(axis="x", integer=True)
        _legend(figure, axes)
    return holder[0]


def attention_picture(weights: "ArrayLike", queries: list[str], keys: list[str]) -> Picture:
    """Attention weights (T, S) of target tokens (rows) to source tokens (columns)."""
    with _figure(*map_size(queries, keys)) as (figure, holder):
        axes = figure.subplots()
        draw_attention(axes, weights, queries, keys)
        axes.set(xlabel="Source", ylabel="Target")
    return holder[0]


def _mark_best(axes: "Axes", step: int | None) -> None:
    if step is not None:
        axes.axvline(step, color=GREY, linewidth=0.9, linestyle="--", label="best checkpoint")


def _running_mean(values: list[float]) -> list[float]:
    """A bias-corrected exponential moving average over about a twentieth of the values."""
    keep = 1 - 2 / (max(len(values) / 20, 1) + 1)
    total = weight = 0.0
    means = []
    for value in values:
        total, weight = keep * total + (1 - keep) * value, keep * weight + 1 - keep
        means.append(total / weight)
    return means
