"""The command: open the run and the model it is compared with, run both on the text, and write the page."""

from dataclasses import dataclass
from pathlib import Path

from finetune import pages
from finetune.checkpoints.sources import load, resolve_auto
from finetune.commands.xray.look import Look, Merged, look_at, merges_of
from finetune.commands.xray.moved import Movement, compare
from finetune.errors import RecipeError, WeightsError
from finetune.files import atomic_write
from finetune.models.heads import Classifier
from finetune.models.transformer import LanguageModel
from finetune.records import Record
from finetune.run import Run
from finetune.tasks.classify.bundle import Bundle
from finetune.tokenizer import Tokenizer

HERE = Path(__file__).parent
LORA = "lora"


@dataclass(frozen=True)
class Xray(Record):
    """Everything on the page. labels, decided: a classifier's labels, and the index of the one that it decides on."""

    text: str
    merges: list[Merged]
    after: Look
    before: Look | None
    moved: Movement | None
    labels: list[str] | None
    decided: int | None
    notes: list[str]


def xray(given: str, text: str, against: str | None, out: Path) -> str:
    """Write the page, and return a line about it. Raises RecipeError, WeightsError or RunError."""
    if out.is_dir() or out.suffix.lower() not in (".html", ".htm"):
        raise RecipeError(f"{out}: not the name of an HTML file", do="For example: --out xray.html")
    found = look_inside(given, text, against)
    page = render(found, _name(given))
    with atomic_write(out) as file:
        file.write(page)
    compared = f", beside {found.before.name}" if found.before else ""
    return f"{out}: {len(found.after.tokens)} tokens in {found.after.layers} layers{compared}"


def look_inside(given: str, text: str, against: str | None) -> Xray:
    """Run both models on the text, and compare their weights."""
    path = Path(given).expanduser()
    recipe = Run.at(path).recipe() if (path / "recipe.json").is_file() else None
    notes: list[str] = []
    body, tokenizer, bundle = _open(given)
    after = look_at(_name(given), body, tokenizer, text, bundle)
    before = moved = None
    if against is not None:
        base, base_tokenizer, _ = _open(against)
        if base_tokenizer.fingerprint() != tokenizer.fingerprint():
            raise WeightsError(f"{against}: has another tokenizer", known="the weights that the run started from")
        before = look_at(_name(against), base, base_tokenizer, text, bundle)
        rank = recipe.train.lora_rank if recipe and recipe.train.method == LORA else None
        moved = compare(base, body, rank)
        if bundle:
            notes.append("The weights before fine-tuning have no head: their layers are read with the run's head.")
    elif recipe:
        notes.append(f"Compare it with the weights that it started from: --against {recipe.weights}")
    decided = None
    if bundle and after.labels:
        import numpy as np

        decided = int(bundle.decide(np.array(after.labels[-1:]))[0])
    return Xray(
        text,
        merges_of(tokenizer, bundle.folded(text) if bundle else text),
        after,
        before,
        moved,
        bundle.labels if bundle else None,
        decided,
        notes,
    )


def _open(given: str) -> tuple[LanguageModel, Tokenizer, Bundle | None]:
    """A decoder, and its bundle if it is a classifier with one label for a text."""
    model, tokenizer = load(resolve_auto(given))
    bundle = None
    if isinstance(model, Classifier):
        bundle = Bundle.load(given)
        model = bundle.model.to("cpu").body
        if bundle.thresholds is not None:
            raise WeightsError(
                f"{given}: a classifier with several labels per text has no single decision", known="one label per text"
            )
    if not isinstance(model, LanguageModel):
        raise WeightsError(
            f"{given}: xray does not support {model.kind}", known="language models and classifiers on them"
        )
    return model.eval(), tokenizer, bundle


def _name(given: str) -> str:
    return Path(given).resolve().name if Path(given).is_dir() else given


def render(found: Xray, name: str) -> str:
    """The page, with the numbers as JSON that its script reads."""
    return pages.render(HERE / "page.html", [HERE / "page.js"], name, found.to_json())
