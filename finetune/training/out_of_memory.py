"""Tell the user which settings to change after running out of memory."""

from collections.abc import Iterator
from contextlib import contextmanager

from finetune.console import warn
from finetune.errors import TrainingError


@contextmanager
def memory_errors() -> Iterator[None]:
    """Turn an out-of-memory error into one that says which settings to change."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        text = str(error).lower()
        if not isinstance(error, MemoryError) and "out of memory" not in text and "can't allocate" not in text:
            raise
        warn("saved files are intact")
        raise TrainingError(
            "out of memory",
            got=str(error).split("\n")[0][:120],
            do="Lower train.micro_batch_tokens (auto finds what fits) or max_length, set train.checkpoint_blocks=true, "
            "or choose train.method=lora or last-blocks; then run the same command.",
        ) from error
