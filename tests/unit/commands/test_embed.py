"""Embeddings are the states of transformers' GPT-2, whatever stands beside a text, and neighbours are neighbours."""

import numpy as np
import pytest
import torch

from finetune.checkpoints.store import write_checkpoint
from finetune.commands.embed import embed, embed_texts, nearest_texts, read_texts, reader
from finetune.errors import DataError, RecipeError
from finetune.models.gpt import GPT, GPTConfig
from finetune.models.heads import Classifier
from finetune.tokenizer import Tokenizer

TEXTS = ["the ferry left", "a", "we had lunch at home with the children", "the ferry left"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    gpt = GPT(GPTConfig(257, 64, 32, 2, 2)).initialise(1, std=0.2).eval()
    directory = tmp_path_factory.mktemp("tiny") / "tiny"
    write_checkpoint(directory, gpt, Tokenizer.of_bytes())
    return directory


@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_vectors_are_those_of_transformers(checkpoint, pooling):
    from transformers import GPT2Model

    theirs = GPT2Model.from_pretrained(checkpoint).eval()
    found = embed_texts(*reader(str(checkpoint)), TEXTS, pooling)
    for text, vector in zip(TEXTS, found, strict=True):
        with torch.no_grad():
            hidden = theirs(torch.tensor([Tokenizer.of_bytes().encode(text)])).last_hidden_state[0]
        expected = hidden.mean(0) if pooling == "mean" else hidden[-1]
        np.testing.assert_allclose(vector, expected.numpy(), atol=2e-5)


def test_an_encoder_reads_no_padding(tmp_path):
    from finetune.models.encoder import Encoder
    from finetune.models.transformer import TransformerConfig

    encoder = Encoder(TransformerConfig(257, 64, 32, 2, 2)).initialise(1, std=0.2).eval()
    together = embed_texts(encoder, Tokenizer.of_bytes(), TEXTS, "mean")
    for text, vector in zip(TEXTS, together, strict=True):
        np.testing.assert_allclose(embed_texts(encoder, Tokenizer.of_bytes(), [text], "mean")[0], vector, atol=1e-5)


def test_a_classifier_gives_the_vectors_below_its_head(checkpoint, tmp_path):
    gpt, tokenizer = reader(str(checkpoint))
    write_checkpoint(tmp_path / "own", Classifier(gpt, classes=2).initialise_head(1), tokenizer)
    np.testing.assert_array_equal(
        embed_texts(*reader(str(tmp_path / "own")), TEXTS, "last"), embed_texts(gpt, tokenizer, TEXTS, "last")
    )


def test_a_table_becomes_a_file_and_neighbours(checkpoint, tmp_path):
    table = tmp_path / "a.csv"
    table.write_text("text,label\n" + "".join(f"{text},x\n" for text in TEXTS))
    lines = list(embed(str(checkpoint), str(table), tmp_path / "out.npy", near="the ferry left", neighbours=3))
    vectors = np.load(tmp_path / "out.npy")
    np.testing.assert_array_equal(vectors, embed_texts(*reader(str(checkpoint)), TEXTS, "mean"))
    assert "4 vectors of 32 numbers" in lines[0]
    assert [line.split("  ")[1] for line in lines[1:3]] == ["row 0", "row 3"] and lines[1].startswith("1.000")
    assert len(lines) == 4


def test_a_parquet_file_has_the_texts_beside_their_vectors(checkpoint, tmp_path):
    import pyarrow.parquet as pq

    table, out = tmp_path / "texts.csv", tmp_path / "out.parquet"
    table.write_text("text\n" + "".join(f"{text}\n" for text in TEXTS))
    [line] = embed(str(checkpoint), str(table), out, pooling="last")
    found = pq.read_table(out)
    assert found["text"].to_pylist() == TEXTS and str(found.schema.field("embedding").type) == (
        "fixed_size_list<element: float>[32]"
    )
    vectors = np.array(found["embedding"].to_pylist(), dtype=np.float32)
    np.testing.assert_array_equal(vectors, embed_texts(*reader(str(checkpoint)), TEXTS, "last"))
    assert "4 vectors of 32 numbers" in line


def test_the_common_part_of_all_vectors_is_left_out():
    vectors = np.array([[100, 1], [100, -1], [100, 0.9], [100, -0.9]], dtype=np.float32)
    found = list(nearest_texts(vectors[0], vectors, list("abcd"), 4))
    assert [neighbour.text for neighbour in found[:2]] == ["a", "c"] and found[-1].cosine < -0.9


@pytest.mark.parametrize(
    "options, part",
    [
        ({"out": None}, "Give --out FILE.npy, --nearest TEXT, or both"),
        ({"pooling": "max"}, "got max; known: mean, last"),
        ({"out": "x.csv"}, "cannot be written as .csv; known: .npy, .parquet. For example: --out x.npy"),
        ({"near": "x", "neighbours": 0}, "neighbours is out of range"),
    ],
)
def test_what_cannot_be_done_is_said(checkpoint, options, part):
    from pathlib import Path

    given = {"out": "x.npy"} | options
    out = Path(given.pop("out")) if given["out"] else given.pop("out")
    with pytest.raises(RecipeError) as error:
        list(embed(str(checkpoint), "none.csv", out, **given))
    assert part in str(error.value)


def test_a_row_without_text_is_named(tmp_path):
    (tmp_path / "a.csv").write_text("text,n\na,1\n ,2\n")
    with pytest.raises(DataError, match="rows without text have no embedding; got 1, the first is row 1"):
        read_texts(str(tmp_path / "a.csv"), None, None)
