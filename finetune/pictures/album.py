"""Write pictures to a folder, each as PNG and SVG, and one page with all pictures in that folder."""

import textwrap
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from finetune.errors import RunError
from finetune.files import atomic_write, read_json, write_json
from finetune.pictures.drawing import Drawing
from finetune.records import Record
from finetune.report.blocks import Figure, PageContent, Section
from finetune.report.build import render
from finetune.report.plots import embed, svg_of

LIST, PAGE = "pictures.json", "index.html"
MADE_BY = "finetune draw"
DOTS = 160  # dots per inch of a PNG


@dataclass(frozen=True)
class Chapter(Record):
    """The chapter for the pictures of one kind: a heading and an introduction."""

    title: str
    introduction: str


@dataclass(frozen=True)
class Listed(Record):
    """A picture in the list. width, height: inches."""

    chapter: str  # key of its chapter
    title: str
    caption: str
    wide: bool
    width: float
    height: float


@dataclass(frozen=True)
class Album(Record):
    """The content of pictures.json: all pictures drawn into a folder, by kind and by file name."""

    made_by: str
    chapters: dict[str, Chapter]
    pictures: dict[str, Listed]


def add_to_album(out: Path, chapters: dict[str, tuple[Chapter, list[Drawing]]]) -> Path:
    """Write pictures and the page, and return the page's path. The page keeps the pictures drawn there before.

    chapters: kind -> (its chapter, its drawings). Raises RunError rather than overwrite a file that this command did
    not write.
    """
    known = _read_list(out)
    new = {drawing.name: drawing for _, drawings in chapters.values() for drawing in drawings}
    _refuse_others(out, known, new)
    album = Album(
        MADE_BY,
        (known.chapters if known else {}) | {kind: chapter for kind, (chapter, _) in chapters.items()},
        (known.pictures if known else {})
        | {drawing.name: _entry(kind, drawing) for kind, (_, drawings) in chapters.items() for drawing in drawings},
    )
    write_json(out / LIST, album.to_json())  # first, so that after an interruption the files are known to be ours
    for name, drawing in new.items():
        with atomic_write(out / f"{name}.svg") as file:
            file.write(svg_of(drawing.figure))
        _add_title(drawing)  # the page has a title; a PNG is also viewed alone
        with atomic_write(out / f"{name}.png", "wb") as file:
            drawing.figure.savefig(file, format="png", dpi=DOTS, metadata={"Software": None, "Title": drawing.title})
    with atomic_write(out / PAGE) as file:
        file.write(render("template.html.jinja", _page(out, album)))
    return out / PAGE


def _add_title(drawing: Drawing) -> None:
    """Write the title above the picture, increasing its height."""
    figure = drawing.figure
    width, height = figure.get_size_inches()
    lines = textwrap.wrap(drawing.title, max(int(width * 11), 20))
    room = 0.24 * len(lines) + 0.1
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # it would move the axes below the title
    share = float(height / (height + room))
    for axes in figure.axes:
        left, bottom, across, up = axes.get_position(original=True).bounds
        axes.set_position((left, bottom * share, across, up * share))
    for legend in figure.legends:
        legend.set_bbox_to_anchor((0, 0, 1, share), transform=figure.transFigure)
    figure.set_size_inches(width, height + room)
    figure.suptitle("\n".join(lines), y=1 - 0.06 / (height + room), va="top", fontsize=11, parse_math=False)


def _entry(kind: str, drawing: Drawing) -> Listed:
    width, height = map(float, drawing.figure.get_size_inches())
    return Listed(kind, drawing.title, drawing.caption, drawing.wide, width, height)


def _read_list(out: Path) -> Album | None:
    """The list of pictures in a folder; None for a new folder."""
    if out.exists() and not out.is_dir():
        raise RunError(f"{out}: not a folder", got="a file", do="Name another: --out DIR")
    if not (out / LIST).exists():
        return None
    known = read_json(out / LIST)
    if not isinstance(known, dict) or known.get("made_by") != MADE_BY:
        raise RunError(f"{out / LIST}: not written by finetune draw", do="Name another folder: --out DIR")
    return Album.from_json(known, out / LIST, do="Delete that folder, or name another: --out DIR")


def _refuse_others(out: Path, known: Album | None, new: Iterable[str]) -> None:
    """Raise RunError if a file that this command did not write would be overwritten. new: names of the pictures."""
    ours = {f"{name}.{ending}" for name in (known.pictures if known else ()) for ending in ("png", "svg")}
    wanted = [PAGE] * (known is None) + [f"{name}.{ending}" for name in new for ending in ("png", "svg")]
    others = [name for name in wanted if name not in ours and (out / name).exists()]
    if others:
        raise RunError(
            f"{out} already contains other files with these names",
            got=", ".join(others[:3]),
            do="Name another folder: --out DIR",
        )


def _page(out: Path, album: Album) -> PageContent:
    """The page: all listed pictures whose files exist."""
    sections = []
    for kind, chapter in album.chapters.items():
        figures = []
        for name, entry in album.pictures.items():
            file = out / f"{name}.svg"
            if entry.chapter == kind and file.is_file():
                picture = embed(file.read_text(encoding="utf-8"), entry.width, entry.height)
                figures.append(Figure(picture, entry.title, entry.title, entry.caption, wide=entry.wide))
        if figures:
            sections.append(Section(kind, chapter.title, figures, chapter.introduction))
    return PageContent(
        kind="Pictures",
        name="How a transformer works",
        verdict="Every picture is drawn from the functions and weights that the models themselves use.",
        sections=sections,
    )
