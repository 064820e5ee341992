"""Write pictures to a folder, each as PNG and SVG, and one page with all pictures in that folder."""

from pathlib import Path

from finetune.errors import RunError
from finetune.files import atomic_write, read_json, write_json
from finetune.pictures.drawing import Drawing
from finetune.report.blocks import Figure, Section
from finetune.report.build import render
from finetune.report.plots import embed, svg_of

LIST, PAGE = "pictures.json", "index.html"
MADE_BY = "finetune draw"
DOTS = 160  # dots per inch of a PNG


def add_to_album(out: Path, chapters: dict[str, tuple[str, str, list[Drawing]]]) -> Path:
    """Write pictures and the page, and return the page's path. The page keeps the pictures drawn there before.

    chapters: kind -> (title, introduction, drawings). Raises RunError rather than overwrite a file that this command
    did not write.
    """
    known = _read_list(out)
    new = {drawing.name: (kind, drawing) for kind, (_, _, drawings) in chapters.items() for drawing in drawings}
    _refuse_others(out, known, new)
    listed = {"made_by": MADE_BY, "chapters": known.get("chapters", {}), "pictures": known.get("pictures", {})}
    for kind, (title, introduction, drawings) in chapters.items():
        listed["chapters"][kind] = {"title": title, "introduction": introduction}
        listed["pictures"] |= {drawing.name: _entry(kind, drawing) for drawing in drawings}
    write_json(out / LIST, listed)  # first, so that after an interruption the files are known to be ours
    for name, (_, drawing) in new.items():
        drawing.figure.draw_without_rendering()
        drawing.figure.set_layout_engine("none")  # use the same layout for both files
        with atomic_write(out / f"{name}.svg") as file:
            file.write(svg_of(drawing.figure))
        with atomic_write(out / f"{name}.png", "wb") as file:
            drawing.figure.savefig(file, format="png", dpi=DOTS, metadata={"Software": None})
    with atomic_write(out / PAGE) as file:
        file.write(render("template.html.jinja", _page(out, listed)))
    return out / PAGE


def _entry(kind: str, drawing: Drawing) -> dict:
    width, height = map(float, drawing.figure.get_size_inches())
    return {
        "chapter": kind,
        "title": drawing.title,
        "caption": drawing.caption,
        "wide": drawing.wide,
        "width": width,
        "height": height,
    }


def _read_list(out: Path) -> dict:
    """The list of pictures in a folder; empty for a new folder."""
    if out.exists() and not out.is_dir():
        raise RunError(f"{out}: not a folder", got="a file", do="Name another: --out DIR")
    if not (out / LIST).exists():
        return {}
    known = read_json(out / LIST)
    if not isinstance(known, dict) or known.get("made_by") != MADE_BY:
        raise RunError(f"{out / LIST}: not written by this command", do="Name another folder: --out DIR")
    return known


def _refuse_others(out: Path, known: dict, new: dict) -> None:
    """Raise RunError if a file that this command did not write would be overwritten."""
    ours = {f"{name}.{ending}" for name in known.get("pictures", {}) for ending in ("png", "svg")}
    wanted = [PAGE] * (not known) + [f"{name}.{ending}" for name in new for ending in ("png", "svg")]
    others = [name for name in wanted if name not in ours and (out / name).exists()]
    if others:
        raise RunError(
            f"{out} already contains other files with these names",
            got=", ".join(others[:3]),
            do="Name another folder: --out DIR",
        )


def _page(out: Path, listed: dict) -> dict:
    """The values for the report's template: all listed pictures whose files exist."""
    sections = []
    for kind, chapter in listed["chapters"].items():
        figures = []
        for name, entry in listed["pictures"].items():
            file = out / f"{name}.svg"
            if entry["chapter"] == kind and file.is_file():
                picture = embed(file.read_text(encoding="utf-8"), entry["width"], entry["height"])
                figures.append(Figure(picture, entry["title"], entry["title"], entry["caption"], wide=entry["wide"]))
        if figures:
            sections.append(Section(kind, chapter["title"], figures, chapter["introduction"]))
    return {
        "kind": "Pictures",
        "name": "How a transformer works",
        "about": [],
        "notice": None,
        "tiles": [],
        "verdict": "Every picture is drawn from the functions and weights that the models themselves use.",
        "sections": sections,
    }
