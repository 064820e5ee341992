"""Find names with a bundle: a directory with weights, tokenizer, tags and everything else a prediction needs."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from finetune.checkpoints.convert import finite, load_gpt
from finetune.checkpoints.layouts import model_type
from finetune.checkpoints.own_layout import KINDS, load_own, read_own_config
from finetune.checkpoints.store import read_config, read_header, refuse_damaged, tensor_files
from finetune.errors import RunError, WeightsError
from finetune.evaluation.calibration import softmax
from finetune.evaluation.results import StartWeights
from finetune.files import read_json
from finetune.models.encoder_decoder import EncoderDecoder
from finetune.records import Record
from finetune.tasks.tag.data import encode_words
from finetune.tasks.tag.job import predict_tags
from finetune.tasks.tag.model import Tagger
from finetune.tasks.tag.spans import OUTSIDE, spans_of
from finetune.tokenizer import Tokenizer
from finetune.training.precision import device_type

HEAD = {"classifier.weight": "weight", "classifier.bias": "bias"}  # transformers' name -> ours, in the head
WORD = re.compile(  # punctuation and 's are words of their own, a title keeps its full stop, as in CoNLL files
    r"(?:Dr|Mrs?|Ms|St|Prof|Jr|Sr|Inc|Ltd|Co)\.|\w+(?:-\w+)*(?=['\u2019]s\b)|['\u2019]s\b|\w+(?:[-'\u2019.&]\w+)*|[^\w\s]"
)


@dataclass(frozen=True, kw_only=True)
class TagBundleCard(Record):
    """The content of ``bundle.json``: everything for a prediction besides weights and tokenizer."""

    schema_version: int
    task: str
    tags: list[str]
    max_length: int
    weights: StartWeights
    tokenizer_sha256: str
    data_sha256: str
    recipe_sha256: str


@dataclass(frozen=True)
class Name:
    """A name in a text. probability: that of its least certain word's tag."""

    kind: str
    text: str
    start: int  # the first character, from 0
    end: int  # the character after the last
    probability: float


@dataclass(frozen=True)
class TagBundle:
    """A tagger that is ready to use."""

    model: Tagger
    tokenizer: Tokenizer
    tags: list[str]
    max_length: int

    @classmethod
    def load(cls, directory: Path) -> "TagBundle":
        """Read an exported bundle. Raises WeightsError if its parts do not belong together."""
        refuse_damaged(directory)
        path = directory / "bundle.json"
        try:
            card = TagBundleCard.from_json(read_json(path), path)
        except RunError as error:
            raise WeightsError(
                f"{path}: not in the format of an export", got=error.got, do="Export the run again."
            ) from error
        tokenizer = Tokenizer.from_directory(directory)
        if tokenizer.fingerprint() != card.tokenizer_sha256:
            raise WeightsError(
                f"{directory}: the tokenizer is not the one this model was trained with", do="Export the run again."
            )
        model = load_tagger(directory, len(card.tags))
        return cls(model.to(device_type()), tokenizer, card.tags, card.max_length)

    def tag(self, sentences: Sequence[Sequence[str]]) -> list[tuple[list[str], np.ndarray]]:
        """The tags of each sentence's words and their probabilities; a long sentence is read in several parts."""
        parts, owner = [], []
        for number, words in enumerate(sentences):
            for part in self._parts(list(words)):
                parts.append(part)
                owner.append(number)
        tokens = encode_words(self.tokenizer, parts, self.max_length)
        found: list[tuple[list[str], list[float]]] = [([], []) for _ in sentences]
        for number, words, logits in zip(owner, parts, predict_tags(self.model, tokens), strict=True):
            p = softmax(logits) if len(logits) else logits
            lost = len(words) - len(logits)  # a single word longer than the context
            found[number][0].extend([self.tags[at] for at in p.argmax(1)] + [OUTSIDE] * lost)
            found[number][1].extend([*p.max(1).tolist(), *[0.0] * lost])
        return [(tags, np.array(p)) for tags, p in found]

    def names(self, texts: Sequence[str]) -> list[list[Name]]:
        """The names in each text; each of its lines is a sentence."""
        lines = [(at, line) for at, text in enumerate(texts) for line in re.finditer(r"[^\r\n]+", text)]
        words = [list(WORD.finditer(line[0])) for _, line in lines]
        tagged = self.tag([[word[0] for word in own] for own in words])
        found: list[list[Name]] = [[] for _ in texts]
        for (at, line), own, (tags, p) in zip(lines, words, tagged, strict=True):
            for span in spans_of(tags):
                start, end = own[span.begin].start(), own[span.end - 1].end()
                sure = float(p[span.begin : span.end].min())
                found[at].append(Name(span.kind, line[0][start:end], line.start() + start, line.start() + end, sure))
        return found

    def _parts(self, words: list[str]) -> list[list[str]]:
        """A sentence's words, in as few parts as fit into the model's context."""
        parts = []
        while words:
            [fits] = encode_words(self.tokenizer, [words], self.max_length).lasts.lengths()
            parts.append(words[: max(fits, 1)])
            words = words[max(fits, 1) :]
        return parts


def load_tagger(directory: Path, tags: int) -> Tagger:
    """The model in a directory that ``write_tagger`` wrote, in eval mode. Raises WeightsError."""
    refuse_damaged(directory)
    own = model_type(directory) in KINDS
    config = read_own_config(directory / "config.json")[1] if own else read_config(directory)
    path, *_ = tensor_files(directory)
    shapes = read_header(path)
    expected = dict(zip(HEAD, ((tags, config.width), (tags,)), strict=True))
    if wrong := [name for name, size in expected.items() if shapes.get(name) != size]:
        raise WeightsError(
            f"{directory}: {wrong[0]} does not fit bundle.json",
            got=str(shapes.get(wrong[0])),
            known=str(expected[wrong[0]]),
        )
    try:
        with safe_open(path, framework="pt") as file:
            others = {name: size for name, size in shapes.items() if name not in HEAD}
            body = (
                load_own(directory, head=HEAD).body
                if own
                else load_gpt(config, others, file.get_tensor, directory.name)[0]
            )
            if isinstance(body, EncoderDecoder):
                raise WeightsError(
                    f"{directory}: {body.kind}'s weights do not fit bundle.json", do="Export the run again."
                )
            model = Tagger(body, tags)
            for theirs, ours in HEAD.items():
                getattr(model.head, ours).data.copy_(finite(file.get_tensor(theirs), theirs, directory.name))
    except SafetensorError as error:
        raise WeightsError(f"{directory}: the tensors cannot be read", got=str(error)) from error
    return model.eval()
