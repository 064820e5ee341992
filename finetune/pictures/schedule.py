"""The learning rate of every step of a training, from the function that sets it."""

from finetune.pictures.drawing import BLUE, GREY, Drawing, legend_above, new_figure
from finetune.recipe import Train
from finetune.training.optim import learning_rate

RECIPE = "spam-classifier"
STEPS = 1000  # used if the number of steps depends on the data


def rates(settings: Train, steps: int) -> list[float]:
    """The learning rate of every optimizer step."""
    lr = settings.chosen_lr
    return [
        learning_rate(
            step,
            steps,
            lr,
            settings.warmup_fraction,
            settings.min_lr_fraction,
            settings.schedule,
            settings.decay_fraction,
        )
        for step in range(steps)
    ]


def draw(settings: Train, recipe: str) -> list[Drawing]:
    """settings: with a learning rate. recipe: its name."""
    steps = settings.max_steps or STEPS
    values = rates(settings, steps)
    plain = rates(settings.model_copy(update={"warmup_fraction": 0.0}), steps)
    peak, last = max(range(steps), key=values.__getitem__), steps - 1
    figure = new_figure(4.6, 3.6)
    axes = figure.subplots()
    axes.plot(range(1, steps + 1), plain, color=GREY, linestyle=":", label="without warmup")
    axes.plot(range(1, steps + 1), values, color=BLUE, linewidth=2, label=recipe)
    axes.annotate(
        f"peak {values[peak]:.3g}\nat step {peak + 1:,}",
        (peak + 1, values[peak]),
        xytext=(0.52, 0.92),
        textcoords="axes fraction",
        va="top",
        arrowprops={"arrowstyle": "->", "color": GREY},
    )
    axes.annotate(
        f"last {values[last]:.3g}",
        (steps, values[last]),
        xytext=(0.72, 0.3),
        textcoords="axes fraction",
        arrowprops={"arrowstyle": "->", "color": GREY},
    )
    axes.set(xlabel="Optimizer step", ylabel="Learning rate", ylim=(0, 1.08 * values[peak]))
    axes.locator_params(axis="x", integer=True)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.3g}")
    legend_above(figure, axes)
    for text in figure.legends[0].get_texts():
        text.set_parse_math(False)
    known = "" if settings.max_steps else f" The number of steps depends on the data; {steps:,} are drawn here."
    said = (
        f"It rises linearly over the first {_percent(settings.warmup_fraction)} of the steps, while the optimizer's "
        f"running averages are still unreliable, and {_after_the_warmup(settings)}.{known}"
    )
    return [Drawing("schedule", f"Learning rate of {recipe}", said, figure)]


def _percent(share: float) -> str:
    return f"{100 * share:g}%"


def _after_the_warmup(settings: Train) -> str:
    end = f"{_percent(settings.min_lr_fraction)} of its peak"
    if settings.schedule == "cosine":
        return f"then falls along half a cosine to {end}"
    if not settings.decay_fraction:
        return "then stays at its peak"
    return f"then stays at its peak until the last {_percent(settings.decay_fraction)}, in which it falls to {end}"
