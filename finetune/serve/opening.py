"""Open a run, a bundle or a checkpoint for the server."""

from dataclasses import dataclass
from pathlib import Path

from finetune.checkpoints.sources import locate_weights, resolve_auto
from finetune.commands.bundle import AnyBundleCard
from finetune.errors import RunError, WeightsError
from finetune.files import read_json
from finetune.models.encoder_decoder import EncoderDecoder
from finetune.models.heads import Classifier as ClassifierModel
from finetune.models.transformer import LanguageModel
from finetune.run import Run
from finetune.serve.classifier import Classifier
from finetune.serve.source import SourceReader
from finetune.serve.tagger import TextTagger
from finetune.serve.worker import Worker
from finetune.serve.writer import Writer
from finetune.tasks.classify.bundle import bundle_directory
from finetune.tasks.instruct.settings import Instruct
from finetune.tasks.seq2seq.export import SEQ2SEQ, SourceUse
from finetune.training.precision import device_type

SERVED = "classifiers, taggers, language models, instruct and seq2seq runs"


@dataclass(frozen=True)
class Served:
    """A loaded model: one of the four kinds. instruct: the prompt settings of an instruct run."""

    name: str
    directory: str  # as given by the user
    classifier: Classifier | None = None
    tagger: TextTagger | None = None
    writer: Writer | None = None
    source: SourceReader | None = None
    instruct: Instruct | None = None

    @property
    def kind(self) -> str:
        """The kind of model, in words."""
        if self.classifier:
            return "classifier"
        if self.tagger:
            return "tagger"
        if self.source:
            return "seq2seq model"
        return "instruct run" if self.instruct else "language model"


def open_model(given: str, worker: Worker) -> Served:
    """Load the model to serve. Raises WeightsError or RunError for a directory without a model of a supported kind."""
    path = Path(given).expanduser()
    name = path.resolve().name if path.is_dir() else given
    run = Run.at(path) if (path / "recipe.json").is_file() else None
    task = run.recipe().task if run else ""
    if task in ("classify", "tag") or _has_bundle(path):
        directory = bundle_directory(path)
        file = directory / "bundle.json"
        card = AnyBundleCard.from_json(read_json(file), file)
        if card.task == "tag":
            return Served(name, given, tagger=TextTagger(path, worker))
        if card.task != "classify":
            raise RunError(
                f"{given}: serve does not support the task {card.task}",
                known=SERVED,
                do=f"Use it with: finetune predict {given} TEXT",
            )
        return Served(name, given, classifier=Classifier(path, worker))
    found = locate_weights(resolve_auto(given), fetch=True)
    file = found.directory / SEQ2SEQ
    use = SourceUse.from_json(read_json(file), file) if file.is_file() else None
    loaded = found.load()
    model = loaded.model
    if isinstance(model, ClassifierModel):
        raise WeightsError(f"{given}: a classifier without its bundle.json", do="Serve the run, or its export/hf.")
    if not isinstance(model, LanguageModel | EncoderDecoder) or (isinstance(model, EncoderDecoder) and not use):
        raise WeightsError(f"{given}: {model.kind} cannot generate text", known=SERVED)
    model = model.to(device_type()).eval()
    if use:
        return Served(name, given, source=SourceReader(model, loaded.tokenizer, use))
    assert isinstance(model, LanguageModel)
    instruct = run.recipe().instruct if run and task == "instruct" else None
    return Served(name, given, writer=Writer(model, loaded.tokenizer, worker), instruct=instruct)


def _has_bundle(path: Path) -> bool:
    return (path / "bundle.json").is_file()
