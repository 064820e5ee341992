"""The server's limits, so that no request can exhaust the memory or keep the others waiting."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Upper bounds of requests; exceeding one is an error with a message."""

    waiting: int = 512  # requests that wait for the model
    seconds: float = 60.0  # until a streamed answer begins, or any other is complete
    streaming_seconds: float = 600.0  # duration of a streamed answer
    body_bytes: int = 2_000_000  # per request, except tables
    texts: int = 256  # per request
    characters: int = 100_000  # per text
    new_tokens: int = 4096  # per continuation
    continuations: int = 8  # per request
    table_bytes: int = 50_000_000
    table_rows: int = 100_000
    tables: int = 2  # predicted at the same time
    kept_tables: int = 8  # kept for download; the oldest is deleted first
