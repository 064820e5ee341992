"""Texts and recipes that are cut, in another encoding, or small and expand without end."""

import json
import lzma
import subprocess
import sys
import time

import pytest

from finetune.errors import DataError, RecipeError
from finetune.pipeline import make_recipe
from finetune.tasks.pretrain import documents
from finetune.tasks.pretrain.documents import iterate_pieces


def test_jsonl_that_is_not_utf8_is_said(tmp_path):
    file = tmp_path / "x.jsonl"
    file.write_bytes(b'{"text": "one"}\n{"text": "caf\xe9"}\n')
    with pytest.raises(DataError, match="x.jsonl: not UTF-8; got byte 0xe9"):
        list(iterate_pieces(file))


@pytest.mark.parametrize("ending", ["txt.xz", "jsonl.xz"])
def test_a_compressed_text_that_is_cut_or_damaged_is_said(tmp_path, ending):
    lines = "".join(json.dumps({"text": f"line {number}"}) + "\n" for number in range(5000))
    whole = lzma.compress(lines.encode())
    file = tmp_path / f"x.{ending}"
    for keep in (10, len(whole) // 2, len(whole) - 5):
        file.write_bytes(whole[:keep])
        with pytest.raises(DataError, match="is truncated"):
            list(iterate_pieces(file))
    damaged = bytearray(whole)
    damaged[len(whole) // 2] ^= 255
    for content in (bytes(damaged), b"no xz at all", lines.encode()):
        file.write_bytes(content)
        with pytest.raises(DataError, match="cannot be read"):
            list(iterate_pieces(file))


def test_a_run_on_a_cut_text_ends_in_words(tmp_path, finetune):
    (tmp_path / "x.jsonl.xz").write_bytes(lzma.compress(b'{"text": "one"}\n' * 5000)[:-20])
    done = finetune("run", "pretrain", "--set", "data=x.jsonl.xz", "--set", "weights=random-bytes")
    assert done.status == 2 and "x.jsonl.xz: the file is truncated" in done.err and "interrupted" not in done.err


MEASURE = """
import resource, sys
from finetune.errors import DataError
from finetune.tasks.pretrain import documents
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    print(sum(len(text) for text, _ in documents.iterate_pieces(documents.Path(sys.argv[1]))))
except DataError as error:
    print(error)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of memory in kilobytes")
@pytest.mark.parametrize("name, start", [("x.txt.xz", b""), ("x.jsonl.xz", b'{"text": "')])
def test_a_small_file_that_is_one_endless_line_takes_little_memory(tmp_path, name, start):
    megabytes = 150
    packer = lzma.LZMACompressor(preset=0)
    with open(tmp_path / name, "wb") as file:
        file.write(packer.compress(start))
        for _ in range(megabytes):
            file.write(packer.compress(b"a" * 10**6))
        file.write(packer.flush())
    assert (tmp_path / name).stat().st_size < 100_000
    done = subprocess.run([sys.executable, "-c", MEASURE, str(tmp_path / name)], capture_output=True, text=True)
    *said, grown = done.stdout.splitlines()
    assert said == [str(megabytes * 10**6)] if not start else "line 1: too long" in said[0], done
    assert int(grown) < 250_000  # KB


def test_long_lines_come_whole_in_pieces_and_separate_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(documents, "PIECE", 20)
    file = tmp_path / "x.txt"
    text = "0123456789" * 2 + "<|endoftext|>\nabc\n"  # what is read second looks like a separator
    file.write_text(text + "<|endoftext|>\nnext", encoding="utf-8")
    pieces = list(iterate_pieces(file))
    assert "".join(piece for piece, _ in pieces) == text + "next" and sum(ends for _, ends in pieces) == 2


@pytest.mark.parametrize(
    "text",
    [
        ".".join(["a"] * 50_000) + " = 1",
        "[" + ".".join(["a"] * 50_000) + "]",
        'pipeline = "classify"\nx = {' + ".".join(["a"] * 50_000) + " = 1}",
        "\n".join(f"a{number} = 1" for number in range(200_000)),
        'pipeline = "classify"\nx = ' + "[" * 50_000,
    ],
    ids=["dots", "table", "inline", "many", "nested"],
)
def test_a_recipe_that_is_slow_to_parse_is_refused_at_once(tmp_path, text):
    (tmp_path / "x.toml").write_text(text)
    start = time.process_time()
    with pytest.raises(RecipeError, match=r"x\.toml"):
        make_recipe(str(tmp_path / "x.toml"))
    assert time.process_time() - start < 5


SIZES = [
    "layers=1000000000",
    "width=1000000000",
    "heads=100000",
    "context=1000000000",
    "kv_heads=100000",
    "window=1000000000",
]


@pytest.mark.parametrize("setting", SIZES)
def test_a_shape_without_measure_is_refused(setting):
    with pytest.raises(RecipeError, match=rf"shape\.{setting.partition('=')[0]}: Input should be less than"):
        make_recipe("pretrain", ["weights=scratch", f"shape.{setting}"])


def test_an_override_that_is_slow_to_parse_is_refused_at_once():
    start = time.process_time()
    with pytest.raises(RecipeError):
        make_recipe("classify", ["train={" + ".".join(["a"] * 50_000) + " = 1}"])
    assert time.process_time() - start < 5
