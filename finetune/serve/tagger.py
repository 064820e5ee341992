"""A tagger behind the server: the names in texts, in batches."""

from pathlib import Path

from finetune.serve.worker import Work, Worker
from finetune.tasks.classify.bundle import bundle_directory
from finetune.tasks.tag.bundle import Name, TagBundle
from finetune.tasks.tag.spans import OUTSIDE

BATCH_TEXTS = 256  # maximum texts in a batch of requests


class TextTagger:
    """The bundle, and the work of the model's thread on it."""

    def __init__(self, directory: Path, worker: Worker):
        self.bundle, self.worker = TagBundle.load(bundle_directory(directory)), worker
        self.names_work = Work(self._names, weight=len, most=BATCH_TEXTS)

    @property
    def kinds(self) -> list[str]:
        """The kinds of names that it knows."""
        return sorted({tag.partition("-")[2] for tag in self.bundle.tags if tag != OUTSIDE})

    def _names(self, requests: list[list[str]]) -> list[list[list[Name]]]:
        """The names in each request's texts, all read in one batch."""
        found = iter(self.bundle.names([text for texts in requests for text in texts]))
        return [[next(found) for _ in texts] for texts in requests]
