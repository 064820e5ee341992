"""The commands ``weights ls`` and ``weights verify``: which weights are on this machine, and whether they are intact."""

from collections.abc import Iterator
from pathlib import Path

from finetune.checkpoints.fallback import MINI
from finetune.errors import FetchError, RecipeError, RunError
from finetune.files import MANIFEST, damage, read_json
from finetune.hub.assets import asset
from finetune.hub.fetch import verify_weights, weights_status
from finetune.hub.registry import weights_registry


def list_weights() -> Iterator[str]:
    """A line for each of the known weights: its size, where it is, its licence."""
    for name, row in weights_registry().items():
        millions = f"{row.parameters / 1e6:,.0f} M" if row.parameters else ""
        yield f"{name:14} {millions:>8}  {weights_status(row):10} {row.licence:12} {row.description}"
    yield f"{MINI:14} {'7 M':>8}  {'bundled':10} {'CC BY-SA 4.0':12} our own small GPT-2, works offline"


def verify_files(name: str | None = None) -> Iterator[str]:
    """A line for each file of these weights, or of all available ones. Raises FetchError at the end if one is damaged."""
    rows = weights_registry()
    if name not in (None, MINI, *rows):
        raise RecipeError(f"unknown weights {name!r}", known=", ".join([*rows, MINI]))
    here = [rows[name]] if name in rows else [row for row in rows.values() if weights_status(row) != "not here"]
    bundled, wrong = asset("weights", MINI), []
    for row in [] if name == MINI else here:
        for check in verify_weights(row):
            yield f"{row.name:14} {check.file:30} {check.status:10} {check.size_bytes:>13,} {check.sha256[:16]}"
            wrong += [f"{row.name}/{check.file}"] if check.status in ("wrong", "missing") else []
    if wrong:
        raise FetchError("weights are damaged or missing", got=", ".join(wrong), do="Run: finetune weights get NAME")
    if name in (None, MINI):
        yield from _verify_bundled(bundled)
    yield "checked: all files are intact"


def _verify_bundled(directory: Path) -> Iterator[str]:
    """Check the files of the bundled checkpoint against their manifest."""
    if why := damage(directory):
        raise FetchError(f"the bundled weights {MINI} are damaged", got=why, do="Install the project again.")
    entries = read_json(directory / MANIFEST)
    if not entries:
        raise RunError(f"{directory / MANIFEST}: names no files", do="Install the project again.")
    for file, (size, digest) in entries.items():
        yield f"{MINI:14} {file:30} {'ok':10} {size:>13,} {digest[:16]}"
