"""Errors that a user can fix. They end a command with exit status 2 and no traceback."""


class FinetuneError(Exception):
    """One error in four parts: what went wrong, what we got, what is known, what to do.

    Only ``what`` is required; the others are left out where they would say nothing.
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
    """Texts, labels or parameters given from Python that cannot be used; scikit-learn asks for a ValueError."""


class WeightsError(FinetuneError):
    """A checkpoint that is missing, damaged or of another shape."""


class FetchError(FinetuneError):
    """Something that could not be downloaded, or that came with the wrong content."""


class RunError(FinetuneError):
    """A run directory that cannot be used: busy, changed, damaged or incomplete."""


class TrainingError(FinetuneError):
    """Training that cannot go on: a loss that is not finite, memory that ran out."""


class Interrupted(Exception):
    """The user stopped the run and its state is saved (exit status 130)."""


def shorten(text: str, most: int = 60) -> str:
    """The beginning of a text on one line, for a message."""
    text = text.strip()
    start = " ".join(text[: 2 * most].split())
    return start if len(text) <= 2 * most and len(start) <= most else start[: most - 3] + "..."


def listed(names: list[str], most: int = 8, separator: str = ", ") -> str:
    """Names for a message, the first few of many, each no longer than a line."""
    shown = separator.join(shorten(name, 90) for name in names[:most])
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")
