"""Texts of the data on a page: a note about them, or the page without them."""

import shlex
from collections.abc import Sequence
from dataclasses import replace

from finetune.report.blocks import Code, Section, Table, Text

LEFT_OUT = "This page shows no texts of the data (report.texts = false). Names of labels, columns and groups are shown."
_HERE = "The texts of this section are left out (report.texts = false)."


def quoting_note(sections: Sequence[Section]) -> str:
    """A note on the origin of the texts that a page shows; "" for a page without texts."""
    quoting = [section for section in sections if _quotes(section)]
    if not quoting:
        return ""
    rows = "texts of your data, some of them training rows" if any(own.training for own in quoting) else "test texts"
    return f"This page shows {rows}. Run details gives the command for a page without them, for sharing."


def sharing(name: str) -> list[Text | Code]:
    """The command for a page without texts. name: the run's."""
    shown = ["finetune", "run", f"runs/{name}/recipe.json", "--set", "report.texts=false", "--name", f"{name}-shared"]
    return [Text("To make this page without texts of the data, for sharing:"), Code(shlex.join(shown))]


def without_quotes(section: Section) -> Section:
    """The section without the texts of the data."""
    if not _quotes(section):
        return section
    blocks: list = []
    for block in section.blocks:
        if isinstance(block, Table):
            blocks += _without_columns(block)
        elif not getattr(block, "quotes", False):
            blocks.append(block)
        elif getattr(block, "instead", ""):
            blocks.append(replace(block, text=block.instead))
    return replace(section, blocks=[*blocks, Text(_HERE, small=True)])


def _quotes(section: Section) -> bool:
    return any(getattr(block, "quotes", False) for block in section.blocks)


def _without_columns(table: Table) -> list[Table]:
    """The table without the columns that quote; nothing if none is left."""
    kept = [at for at in range(len(table.columns)) if at not in table.quotes]

    def moved(columns: frozenset[int]) -> frozenset[int]:
        return frozenset(kept.index(at) for at in columns if at in kept)

    return (
        [
            replace(
                table,
                columns=[table.columns[at] for at in kept],
                rows=[[row[at] for at in kept] for row in table.rows],
                numbers=moved(table.numbers),
                prose=moved(table.prose),
                quotes=frozenset(),
            )
        ]
        if kept
        else []
    )
