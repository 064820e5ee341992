"""``finetune embed``: a vector for each text of a table, and the nearest neighbours of a text."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import torch

from finetune.checkpoints.sources import load
from finetune.console import progress, warn
from finetune.errors import DataError, RecipeError, WeightsError, counted, shorten
from finetune.files import atomic_write
from finetune.models.encoder import Encoder, real_tokens
from finetune.models.encoder_decoder import EncoderDecoder
from finetune.models.gpt import gather_positions
from finetune.models.heads import Classifier, Reader
from finetune.tables.readers import find_unlabelled_text, join_cells
from finetune.tables.sources import locate_data
from finetune.tables.tables import iterate_table
from finetune.tokenizer import Tokenizer
from finetune.training.batching import inference_batches
from finetune.training.collate import pad_ids

POOLINGS = ("mean", "last")
ENDINGS = (".npy", ".parquet")
SAMPLE = 100  # rows from which the text column is detected
BUDGET = 8192  # tokens per forward pass


@dataclass(frozen=True)
class Neighbour:
    """A text of the table, and the cosine similarity of its vector to that of the query."""

    row: int
    cosine: float
    text: str


def embed(
    weights: str,
    data: str,
    out: Path | None,
    text: str | None = None,
    encoding: str | None = None,
    pooling: str = "mean",
    near: str | None = None,
    neighbours: int = 5,
) -> Iterator[str]:
    """Embed a table's texts into a .npy or Parquet file, or find those nearest to a text; gives the lines to print.

    Raises RecipeError for an unknown pooling or file type, WeightsError for an encoder-decoder, DataError for a row
    without text.
    """
    if pooling not in POOLINGS:
        raise RecipeError("unknown pooling", got=pooling, known=", ".join(POOLINGS))
    if out is None and near is None:
        raise RecipeError("nothing to do with the embeddings", do="Give --out FILE.npy, --nearest TEXT, or both.")
    if out is not None and out.suffix.lower() not in ENDINGS:
        raise RecipeError(
            f"{out}: embeddings cannot be written as {out.suffix or 'a file without an ending'}",
            known=", ".join(ENDINGS),
            do=f"For example: --out {out.with_suffix('.npy')}",
        )
    if neighbours < 1:
        raise RecipeError("neighbours is out of range", got=str(neighbours), known="1 or more")
    model, tokenizer = reader(weights)
    texts = read_texts(data, text, encoding)
    vectors = embed_texts(model, tokenizer, texts, pooling, show="embedding")
    if out is not None:
        with atomic_write(out, "wb") as file:
            if out.suffix.lower() == ".npy":
                np.save(file, vectors, allow_pickle=False)
            else:
                _write_parquet(file, texts, vectors)
        yield f"{out}: {counted(len(vectors), 'vector')} of {vectors.shape[1]:,} numbers, one for each row of the table"
    if near is not None:
        [asked] = embed_texts(model, tokenizer, [near], pooling)
        for found in nearest_texts(asked, vectors, texts, neighbours):
            yield f"{found.cosine:.3f}  row {found.row}  {shorten(found.text, 90)}"


def _write_parquet(file: IO[bytes], texts: list[str], vectors: np.ndarray) -> None:
    """A row for each text: the text, and its vector as a list of a fixed size."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    embedding = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])
    pq.write_table(pa.table({"text": pa.array(texts, pa.string()), "embedding": embedding}), file)


def reader(weights: str) -> tuple[Reader, Tokenizer]:
    """The model that reads texts, without a classifier's head. Raises WeightsError for an encoder-decoder."""
    model, tokenizer = load(weights)
    body = model.body if isinstance(model, Classifier) else model
    if isinstance(body, EncoderDecoder):
        raise WeightsError(
            f"{weights}: embed does not support encoder-decoders", known="a GPT-2, an encoder, a classifier"
        )
    return body, tokenizer


def read_texts(data: str, text: str | None, encoding: str | None) -> list[str]:
    """The texts of a table, every row. Raises DataError for a row without text."""
    source = locate_data(data, encoding)
    rows = [(names, cells) for names, cells in iterate_table(source.path, source.layout)]
    if not rows:
        raise DataError(f"{data}: no rows", do="Add some.")
    names = rows[0][0]
    columns = find_unlabelled_text(names, [cells for _, cells in rows[:SAMPLE]], text, data)
    texts = [join_cells(cells, columns) for _, cells in rows]
    empty = [row for row, own in enumerate(texts) if not own.strip()]
    if empty:
        raise DataError(
            f"{data}: rows without text have no embedding",
            got=f"{len(empty):,}, the first is row {empty[0]}",
            do="Leave them out, or name another column with --text.",
        )
    return texts


@torch.inference_mode()
def embed_texts(model: Reader, tokenizer: Tokenizer, texts: list[str], pooling: str, show: str = "") -> np.ndarray:
    """A vector for each text, float32 (n, C): the last block's output at its last token, or the mean over its tokens.

    As for a classifier, no token is put in front of the text. The vector does not depend on the other texts.
    """
    context = model.config.context
    whole = tokenizer.encode_batch(texts)
    if long := sum(len(ids) > context for ids in whole):
        warn(f"{long:,} texts have more than {context:,} tokens: only the first {context:,} are read")
    ids = [row[:context] for row in whole]
    vectors = np.zeros((len(texts), model.config.width), dtype=np.float32)
    with progress(show or "embedding", len(texts), unit="texts") as advance:
        for rows in inference_batches([len(row) for row in ids], BUDGET):
            batch, last = pad_ids([ids[row] for row in rows])
            real = real_tokens(last, batch.shape[1])  # (B, T)
            hidden = model.hidden_states(batch, real) if isinstance(model, Encoder) else model.hidden_states(batch)
            if pooling == "last":
                states = gather_positions(hidden, last)[:, 0]
            else:
                states = (hidden * real[:, :, None]).sum(dim=1) / real.sum(dim=1, keepdim=True)
            vectors[rows] = states.float().numpy()
            advance(len(rows))
    return vectors


def nearest_texts(asked: np.ndarray, vectors: np.ndarray, texts: list[str], count: int) -> Iterable[Neighbour]:
    """The texts whose vectors (n, C) have the largest cosine similarity to `asked` (C,), the nearest first.

    The mean of all vectors is subtracted first: a language model's vectors share a large component that does not depend
    on the text (Mu and Viswanath 2018, arXiv:1702.01417).
    """
    centre = vectors.mean(axis=0) if len(vectors) > 1 else 0.0
    own, others = asked - centre, vectors - centre
    lengths = np.linalg.norm(others, axis=1) * np.linalg.norm(own)
    cosines = others @ own / np.maximum(lengths, 1e-12)
    for row in np.argsort(-cosines, kind="stable")[:count].tolist():
        yield Neighbour(row, float(cosines[row]), texts[row])
