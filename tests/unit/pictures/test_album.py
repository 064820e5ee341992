"""The folder of pictures: whole files, one page, nothing of anybody else's lost, nothing unescaped."""

import base64
import re
import xml.etree.ElementTree as ElementTree

import pytest

from finetune.errors import RecipeError, RunError, WeightsError
from finetune.pictures.album import DOTS
from finetune.pictures.draw import KINDS, draw
from finetune.pictures.options import READS, Options
from finetune.recipe import Train

HOSTILE = "$x^$ <script>alert(1)</script> \U0001f389 {{ 123*457 }} \x1b[31m"


@pytest.fixture(scope="module")
def album(tmp_path_factory, checkpoint):
    """Everything, drawn of a hostile text."""
    out = tmp_path_factory.mktemp("album") / "pictures"
    page = draw("all", out, Options(weights=str(checkpoint), text=HOSTILE[:30]), Train(lr=1e-3))
    assert page == out / "index.html"
    return out


def test_every_picture_is_there_twice_and_on_the_page(album):
    names = {path.stem for path in album.glob("*.svg")}
    assert {path.stem for path in album.glob("*.png")} == names and len(names) >= 20
    assert {name.split("-")[0] for name in names} == set(KINDS)
    page = (album / "index.html").read_text(encoding="utf-8")
    shown = {base64.b64decode(data) for data in re.findall(r'src="data:image/svg\+xml;base64,([^"]+)"', page)}
    assert shown == {path.read_bytes() for path in album.glob("*.svg")}
    assert page.count("<figure") == len(names) and "Content-Security-Policy" in page
    for path in album.glob("*.png"):
        assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert not re.findall(r'(?:src|href)="(?!data:|#)', page)  # self-contained
    assert not list(album.glob(".*"))


def test_hostile_text_stays_text(album):
    page = (album / "index.html").read_text(encoding="utf-8")
    assert page.count("<script") == 1 and "&lt;script&gt;" in page and "$x^$" in page
    drawn = "".join(
        node.text or ""
        for path in album.glob("masks-*.svg")
        for node in ElementTree.parse(path).iter()
        if node.tag.endswith("}text")
    )
    assert "$x^$" in drawn and "<script>ale" in drawn
    for path in album.glob("*.svg"):
        assert b"<script" not in path.read_bytes(), path.name


@pytest.mark.parametrize("kind", ["masks", "attention", "sampling", "beams"])
def test_emoji_templates_and_control_characters_are_drawn(tmp_path, checkpoint, kind):
    weights = None if kind == "masks" else str(checkpoint)
    page = draw(kind, tmp_path, Options(weights=weights, text=HOSTILE[20:]), Train()).read_text(encoding="utf-8")
    assert "\x1b" not in page and "56211" not in re.sub(r"base64,[^\"]+", "", page).split("<main>")[1]
    for path in tmp_path.glob("*.svg"):
        ElementTree.parse(path)


def test_pictures_that_were_drawn_before_stay_on_the_page(tmp_path):
    draw("masks", tmp_path, Options(), Train())
    (tmp_path / "mine.txt").write_text("mine")
    draw("schedule", tmp_path, Options(recipe="my recipe"), Train(lr=1e-3))
    draw("masks", tmp_path, Options(text="other words"), Train())
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert page.count("<figure") == 4 and "my recipe" in page
    assert (tmp_path / "mine.txt").read_text() == "mine"
    (tmp_path / "masks-both.svg").unlink()
    draw("schedule", tmp_path, Options(), Train(lr=1e-3))
    assert (tmp_path / "index.html").read_text(encoding="utf-8").count("<figure") == 3


@pytest.mark.parametrize("name", ["index.html", "masks-both.png", "masks-causal.svg", "pictures.json"])
def test_files_of_others_are_not_written_over(tmp_path, name):
    (tmp_path / name).write_text('"mine"')
    with pytest.raises(RunError, match=re.escape(name)):
        draw("masks", tmp_path, Options(), Train())
    assert [path.name for path in tmp_path.iterdir()] == [name] and (tmp_path / name).read_text() == '"mine"'


def test_a_list_of_another_shape_is_said_and_kept(tmp_path):
    draw("masks", tmp_path, Options(), Train())
    text = (tmp_path / "pictures.json").read_text().replace('"width"', '"breadth"')
    (tmp_path / "pictures.json").write_text(text)
    with pytest.raises(RunError, match=r"pictures\.json: not in this version's format.*width.*--out DIR"):
        draw("schedule", tmp_path, Options(), Train(lr=1e-3))
    assert (tmp_path / "pictures.json").read_text() == text and not list(tmp_path.glob("schedule*"))


def test_the_same_pictures_are_the_same_bytes(tmp_path):
    for out in ("a", "b"):
        draw("masks", tmp_path / out, Options(), Train())
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes(), path.name


def test_a_classifier_shows_attention_but_continues_nothing(tmp_path, gpt, tokenizer):
    from finetune.checkpoints.store import write_checkpoint
    from finetune.models.heads import Classifier

    write_checkpoint(tmp_path / "classifier", Classifier(gpt, classes=2).initialise_head(1), tokenizer)
    options = Options(weights=str(tmp_path / "classifier"), text="a text")
    assert draw("attention", tmp_path / "out", options, Train()).is_file()
    with pytest.raises(WeightsError, match="classifier cannot generate text"):
        draw("sampling", tmp_path / "out", options, Train())


@pytest.mark.parametrize(
    "what, options, part",
    [
        ("atention", Options(), "did you mean 'attention'?"),
        ("nothing-like-it", Options(), "masks, attention"),
        ("masks", Options(layer=1), "masks does not use --layer; known: --text"),
        ("positions", Options(top_k=1), "positions does not use --top-k; known: --weights"),
        ("masks", Options(text=" "), "the text is empty"),
    ],
)
def test_unusable_options_are_reported_and_nothing_is_written(tmp_path, what, options, part):
    with pytest.raises(RecipeError) as error:
        draw(what, tmp_path / "out", options, Train())
    assert part in str(error.value) and not (tmp_path / "out").exists()


def test_a_file_instead_of_the_folder_is_reported(tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(RunError, match="not a folder"):
        draw("masks", tmp_path / "out", Options(), Train())


def test_the_kinds_are_those_whose_options_are_known():
    assert list(KINDS) == list(READS)


def test_a_png_has_the_title_that_the_page_gives_the_svg(tmp_path):
    from PIL import Image

    draw("masks", tmp_path, Options(), Train())
    with Image.open(tmp_path / "masks-both.png") as picture:
        assert picture.text["Title"] == "Causal and padding mask"
        top = picture.convert("L").crop((0, 0, picture.width, int(0.3 * DOTS)))
        assert top.getextrema()[0] < 100  # dark letters where the SVG has nothing
    assert "Causal and padding mask" not in (tmp_path / "masks-both.svg").read_text()
