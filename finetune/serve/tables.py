"""Tables uploaded on the page: counted, filled in the background, and downloaded."""

import re
import secrets
import shutil
import tempfile
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from finetune.console import silence
from finetune.errors import FinetuneError
from finetune.serve.limits import Limits
from finetune.serve.problems import Problem, message_of
from finetune.tables.detect import detect_format
from finetune.tables.tables import ENDINGS, iterate_values
from finetune.tables.writers import ENDINGS as WRITTEN
from finetune.tasks.classify.bundle import predict_table
from finetune.tasks.classify.predictor import Predictor

RUNNING, DONE, FAILED = "running", "done", "failed"


class _Cancelled(Exception):
    """The table was cancelled."""


@dataclass
class Filling:
    """A table that is being predicted."""

    id: str
    name: str  # of the table with predictions
    source: Path
    target: Path
    rows: int
    done: int = 0
    state: str = RUNNING
    message: str = ""
    cancelled: threading.Event = field(default_factory=threading.Event)


class Tables:
    """The tables of the server, in a temporary directory. Any thread may call its methods."""

    def __init__(self, predictor: Callable[[Callable[[int], None]], Predictor], limits: Limits, directory: str):
        """predictor: creates a predictor that calls the given function with the number of texts after each batch."""
        self.predictor, self.limits, self.directory = predictor, limits, directory
        self.folder = Path(tempfile.mkdtemp(prefix="finetune-serve-"))
        self._all: dict[str, Filling] = {}
        self._lock = threading.Lock()

    async def receive(self, name: str, chunks: AsyncIterator[bytes]) -> Path:
        """Write an uploaded table to a file. Raises Problem if it is too long, or of an unknown type."""
        ending = Path(name).suffix.lower()
        if ending not in ENDINGS:
            raise Problem(415, "not a table", got=ending or "a name without an ending", known=", ".join(ENDINGS))
        with self._lock:
            running = sum(own.state == RUNNING for own in self._all.values())
        if running >= self.limits.tables:
            raise Problem(
                429, "other tables are still being predicted", got=f"{running}", do="Wait for one, or cancel it."
            )
        path, size = self.folder / f"{secrets.token_urlsafe(12)}{ending}", 0
        try:
            with open(path, "wb") as file:
                async for chunk in chunks:
                    size += len(chunk)
                    if size > self.limits.table_bytes:
                        raise self._too_large(f"more than {self.limits.table_bytes:,} bytes")
                    file.write(chunk)
            if not size:
                raise Problem(400, "the table is empty")
        except BaseException:  # also if the client disconnects
            path.unlink(missing_ok=True)
            raise
        return path

    def start(self, source: Path, name: str, text: str | None) -> Filling:
        """Count the rows and start filling the table. Raises Problem or DataError."""
        try:
            rows = self._count(source)
        except FinetuneError as error:
            source.unlink(missing_ok=True)
            status = error.status if isinstance(error, Problem) else 400
            raise Problem(status, str(error).replace(str(source), name)) from error
        ending = source.suffix if source.suffix in WRITTEN else ".csv"
        stem = re.sub(r"[^\w. -]", "_", Path(name).stem)[:80] or "table"
        filling = Filling(
            secrets.token_urlsafe(12), f"{stem}-predicted{ending}", source, source.with_suffix(f".out{ending}"), rows
        )
        with self._lock:
            self._all[filling.id] = filling
            finished = [own for own in self._all.values() if own.state != RUNNING]
            for old in finished[: max(0, len(self._all) - self.limits.kept_tables)]:
                self._forget(old)
        threading.Thread(target=self._fill, args=(filling, text), name="table", daemon=True).start()
        return filling

    def get(self, id: str) -> Filling:
        """A table by its id. Raises Problem."""
        with self._lock:
            found = self._all.get(id)
        if found is None:
            raise Problem(404, "there is no such table", do="Send it again.")
        return found

    def delete(self, id: str) -> None:
        """Stop filling a table and delete it."""
        found = self.get(id)
        with self._lock:
            self._forget(found)

    def close(self) -> None:
        """Stop, and delete all tables."""
        with self._lock:
            for own in self._all.values():
                own.cancelled.set()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _forget(self, filling: Filling) -> None:
        filling.cancelled.set()
        self._all.pop(filling.id, None)
        filling.source.unlink(missing_ok=True)
        filling.target.unlink(missing_ok=True)

    def _count(self, source: Path) -> int:
        most = self.limits.table_rows
        layout = detect_format(source, None, frozenset()).layout
        rows = sum(1 for _ in islice(iterate_values(source, layout), most + 1))
        if rows > most:
            raise self._too_large(f"more than {most:,} rows")
        return rows

    def _too_large(self, got: str) -> Problem:
        return Problem(
            413,
            "the table is too large for the page",
            got=got,
            do=f"Use the command: finetune predict {self.directory} --csv TABLE --out FILLED.csv",
        )

    def _fill(self, filling: Filling, text: str | None) -> None:
        def advance(texts: int) -> None:
            filling.done += texts
            if filling.cancelled.is_set():
                raise _Cancelled

        try:
            with silence():
                counts = predict_table(self.predictor(advance), filling.source, filling.target, text)
            skipped = f", {counts['without_text']:,} without text" if counts["without_text"] else ""
            notes = "".join(f" {note}." for note in counts["notes"])
            filling.message = f"{counts['rows']:,} rows{skipped}; text column: {counts['text_column']}.{notes}"
            filling.done, filling.state = counts["rows"], DONE
        except _Cancelled:
            filling.target.unlink(missing_ok=True)
        except Exception as error:  # shown on the page
            said = message_of(error)
            said = said.replace(str(filling.source), "the table").replace(
                str(filling.target), "the table with predictions"
            )
            filling.message, filling.state = said, FAILED
        finally:
            filling.source.unlink(missing_ok=True)
