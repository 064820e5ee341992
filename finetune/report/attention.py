"""Attention weights as a map: which key each query reads."""

_TOKEN_LIMIT = 14  # characters of a token that is written beside the map
_SHOWN = {" ": "\N{OPEN BOX}", "\n": "\N{RETURN SYMBOL}", "\t": "\N{RIGHTWARDS ARROW}"}


def visible(token: str) -> str:
    """A token's text, of bounded length, with its spaces and line breaks to be seen."""
    shown = "".join(_SHOWN.get(character, character if character.isprintable() else "\N{REPLACEMENT CHARACTER}")
                    for character in token) or "\N{EMPTY SET}"
    return shown if len(shown) <= _TOKEN_LIMIT else shown[:_TOKEN_LIMIT - 1] + "\N{HORIZONTAL ELLIPSIS}"


def map_size(queries: list[str], keys: list[str]) -> tuple[float, float]:
    """Inches that a map with these tokens needs to be read."""
    beside, below = (0.09 * max(map(len, map(visible, tokens)), default=0) for tokens in (queries, keys))
    return 1.0 + beside + 0.24 * max(len(keys), 8), 0.8 + below + 0.2 * max(len(queries), 5)


def draw_attention(axes, weights, queries: list[str], keys: list[str]) -> None:
    """Draw `weights` (T, S), each row of which sums to 1, with the T queries and S keys; up to about 40 of them."""
    axes.imshow(weights, cmap="Blues", vmin=0, vmax=1, aspect="auto", interpolation="nearest")
    turned = 90 if max(map(len, map(visible, keys)), default=0) > 2 else 0
    axes.set_xticks(range(len(keys)), list(map(visible, keys)), fontsize=8, rotation=turned, parse_math=False)
    axes.set_yticks(range(len(queries)), list(map(visible, queries)), fontsize=8, parse_math=False)
    axes.grid(False)
    axes.tick_params(length=0)
