"""How much the server accepts, so that no request can fill the memory or keep the others waiting."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Upper bounds of requests; exceeding one is an error in words."""

    waiting: int = 512  # requests for the model at a time
    seconds: float = 60.0  # until a request's answer begins, or without streaming is complete
    streaming_seconds: float = 600.0  # of a streamed answer
    body_bytes: int = 2_000_000  # of a request but for tables
    texts: int = 256  # of a request
    characters: int = 100_000  # of a text
    new_tokens: int = 4096  # of a continuation
    continuations: int = 8  # of a request
    table_bytes: int = 50_000_000
    table_rows: int = 100_000
    tables: int = 2  # that are filled at a time
    kept_tables: int = 8  # that can be fetched; the oldest is deleted first
