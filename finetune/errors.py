"""Errors that a user can fix. They end a command with exit status 2 and no traceback."""


class FinetuneError(Exception):
    """One error in four parts: what went wrong, what we got, the known values, and what to do.

    Only ``what`` is required; empty parts are left out.
    """

    def __init__(self, what: str, *, got: str = "", known: str = "", do: str = ""):
        self.what, self.got, self.known, self.do = what, got, known, do
        message = what
        if got:
            message += f"; got {got}"
        if known:
            message += f"; {known}" if known.startswith("did you mean") else f"; known: {known}"
        if do:
            message += f" {do}" if message.endswith("?") else f". {do}"
        super().__init__(message)


class RecipeError(FinetuneError):
    """A recipe, a setting or a command-line value that cannot be used."""


class DataError(FinetuneError):
    """A data file that cannot be read or makes the result meaningless."""


class InputError(DataError, ValueError):
    """Unusable texts, labels or parameters passed from Python; a ValueError, as scikit-learn requires."""


class WeightsError(FinetuneError):
    """A checkpoint that is missing, damaged or has the wrong shape."""


class FetchError(FinetuneError):
    """A download that failed or returned the wrong content."""


class RunError(FinetuneError):
    """A run directory that cannot be used: busy, changed, damaged or incomplete."""


class TrainingError(FinetuneError):
    """Training that cannot continue: a non-finite loss, or out of memory."""


class Interrupted(Exception):
    """The user stopped the run and its state is saved (exit status 130)."""


def shorten(text: str, most: int = 60) -> str:
    """The start of a text on one line, for a message."""
    text = text.strip()
    start = " ".join(text[: 2 * most].split())
    return start if len(text) <= 2 * most and len(start) <= most else start[: most - 3] + "..."


def counted(number: int, one: str, several: str = "") -> str:
    """A number with its noun: ``1 row`` or ``2 rows``. several: the plural, if it is not `one` with an s."""
    return f"{number:,} {one if number == 1 else several or one + 's'}"


def listed(names: list[str], most: int = 8, separator: str = ", ") -> str:
    """The first few names for a message, each shortened to fit a line."""
    shown = separator.join(shorten(name, 90) for name in names[:most])
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")
