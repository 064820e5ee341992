"""The kinds of pictures and the options that each reads. Without heavy imports, so that a typo is reported at once."""

from dataclasses import dataclass

from finetune.errors import RecipeError

ALL = "all"
READS = {
    "tokens": ("weights", "text"),
    "architectures": ("weights",),
    "embeddings": ("weights", "text"),
    "positions": ("weights",),
    "masks": ("text",),
    "attention": ("weights", "text", "layer"),
    "schedule": ("recipe",),
    "cache": ("weights", "text"),
    "sampling": ("weights", "text", "top_k", "top_p", "min_p"),
    "beams": ("weights", "text", "beams"),
}


@dataclass(frozen=True)
class Options:
    """The options of a picture; None means the picture's default."""

    weights: str | None = None
    text: str | None = None
    layer: int | None = None
    recipe: str | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    beams: int | None = None


def chosen_kinds(what: str, options: Options) -> list[str]:
    """The kinds to draw. Raises RecipeError for an unknown kind, and for an option that none of them reads."""
    chosen = list(READS) if what == ALL else [what]
    if what not in (*READS, ALL):
        from finetune.config import nearest

        known = f"{', '.join(READS)}, {ALL}"
        hint = nearest(what, (*READS, ALL))
        raise RecipeError(
            f"unknown kind of picture {what!r}",
            known=f"{known}. {hint}" if hint else known,
            do="For example: finetune draw all",
        )
    read = {name for kind in chosen for name in READS[kind]}
    unread = [name for name, value in vars(options).items() if value is not None and name not in read]
    if unread:
        raise RecipeError(
            f"{what} does not use --{unread[0].replace('_', '-')}",
            known=", ".join(f"--{name.replace('_', '-')}" for name in READS[what]),
        )
    return chosen
