"""Text as a stream of shards: the tokens and batches of the mapped file, made again from anywhere, on a bounded disk."""

import json
import lzma

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch

from finetune.errors import DataError, RecipeError
from finetune.files import sha256_tree
from finetune.models.gpt import IGNORE
from finetune.tasks.pretrain import documents, streaming
from finetune.tasks.pretrain.documents import text_files, write_tokens
from finetune.tasks.pretrain.packing import PackedTokens
from finetune.tasks.pretrain.settings import Pretrain
from finetune.tasks.pretrain.sharding import check_room, write_stream
from finetune.tasks.pretrain.streaming import INDEX, ShardFolder, StreamedTokens, read_index
from finetune.tokenizer import Tokenizer
from finetune.training.batching import Batches

TEXTS = [f"Document {n} says: " + " ".join(f"w{n * k % 97}" for k in range(n % 13)) + " größer\n" for n in range(120)]
BYTES, CONTEXT, SHARD = Tokenizer.of_bytes(), 16, 512  # a shard has 32 blocks, and more than one is a document's


def settings(**changed):
    return Pretrain(**{"stream": True, "val_fraction": 0.1, "shard_tokens": SHARD} | changed)


def write(path, texts=TEXTS):
    """The same documents in the format that the name asks for."""
    if path.suffix == ".parquet":
        table = pyarrow.table({"id": list(range(len(texts))), "text": texts})
        pyarrow.parquet.write_table(table, path, row_group_size=7)
    elif ".jsonl" in path.name:
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    else:
        content = "<|endoftext|>\n".join(texts)
        opened = lzma.open if path.suffix == ".xz" else open
        with opened(path, "wt", encoding="utf-8") as file:
            file.write(content)
    return path


def streamed(path, directory, megabytes=1.0, **changed):
    """The prepared stream of a file or a folder."""
    directory.mkdir(exist_ok=True)
    folder = ShardFolder(directory / "shards", int(megabytes * 1e6))
    files, hashes = text_files(path, stream=True), {"the text": sha256_tree(path)}
    counts = write_stream(files, directory, folder, BYTES, settings(**changed), 1, hashes)
    return counts, opened(directory, folder)


def opened(directory, folder):
    return StreamedTokens(read_index(directory / INDEX), folder, BYTES, CONTEXT, across=False)


def mapped(path, directory, **changed):
    """The same text, not as a stream."""
    directory.mkdir(exist_ok=True)
    counts = write_tokens(path, directory, BYTES, settings(**changed), seed=1)
    return counts, PackedTokens(directory / "train.bin", CONTEXT, BYTES.vocab_size, BYTES.end_of_text)


def all_rows(tokens):
    return [tokens.batch([block], IGNORE) for block in range(len(tokens))]


def assert_same(own, other):
    assert len(own) == len(other)
    for (inputs, targets), (others, other_targets) in zip(own, other, strict=True):
        assert torch.equal(inputs, others) and torch.equal(targets, other_targets)


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet", "a.txt", "a.txt.xz"])
def test_blocks_and_counts_are_those_of_the_mapped_file(tmp_path, name):
    file = write(tmp_path / name)
    whole = file if name != "a.parquet" else write(tmp_path / "a.jsonl")
    expected, plain = mapped(whole, tmp_path / "plain")
    counts, tokens = streamed(file, tmp_path / "own")
    assert counts == expected and len(tokens.groups) > 5
    assert (tmp_path / "own" / "val.bin").read_bytes() == (tmp_path / "plain" / "val.bin").read_bytes()
    assert [tokens.length(block) for block in range(len(tokens))] == [plain.length(b) for b in range(len(plain))]
    assert_same(all_rows(tokens), all_rows(plain))


def test_a_long_document_paragraphs_shares_and_exclusions_are_as_in_the_mapped_file(tmp_path, monkeypatch):
    monkeypatch.setattr(documents, "PIECE", 300)
    (tmp_path / "texts").mkdir()
    write(tmp_path / "texts" / "many.jsonl")
    write(
        tmp_path / "texts" / "one.txt",
        ["".join(f"line {n} of a long text\n" + "\n" * (n % 5 == 0) for n in range(900))],
    )
    write(tmp_path / "texts" / "long.txt", ["".join(f"part {n} of {own}\n" for n in range(99)) for own in range(5)])
    (tmp_path / "rows.txt").write_text(TEXTS[17].replace("\n", "") + "\nline 77 of a long text\n")
    changed = {"shares": {"many": 2.3}, "exclude": (str(tmp_path / "rows.txt"),)}
    expected, plain = mapped(tmp_path / "texts", tmp_path / "plain", **changed)
    counts, tokens = streamed(tmp_path / "texts", tmp_path / "own", **changed)
    assert counts == expected and expected.excluded.documents >= 2
    assert_same(all_rows(tokens), all_rows(plain))


def test_one_shard_gives_the_batches_of_the_mapped_file_in_their_order(tmp_path):
    file = write(tmp_path / "a.jsonl")
    _, plain = mapped(file, tmp_path / "plain")
    _, tokens = streamed(file, tmp_path / "own", shard_tokens=1 << 16)
    lengths = [plain.length(block) for block in range(len(plain))]
    own, other = Batches(lengths, 4, 7, tokens.groups), Batches(lengths, 4, 7)
    assert [own.at(step) for step in range(3 * own.per_epoch)] == [other.at(step) for step in range(3 * own.per_epoch)]


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet", "a.txt"])
def test_every_shard_is_made_again_from_the_stream_as_it_was(tmp_path, name):
    _, tokens = streamed(write(tmp_path / name), tmp_path / "own", megabytes=0.0012)  # room for one
    index = tokens.index
    assert len(list(tokens.folder.folder.glob("*.bin"))) == 1
    skipped = [shard.place.skip for shard in index.shards]
    assert any(skipped) and max(skipped) < max(len(text.encode()) for text in TEXTS) + 1  # no more than a document
    for number in reversed(range(len(index.shards))):  # each in a folder and a process of its own, so to say
        again = opened(tmp_path / "own", ShardFolder(tmp_path / "again", 10**6))
        blocks = [block for block in range(len(again)) if block // again.per_shard == number]
        assert_same([again.batch(blocks, IGNORE)], [tokens.batch(blocks, IGNORE)])
        assert [path.name for path in (tmp_path / "again").glob("*.bin")] == [f"{number:08d}.bin"]
        (tmp_path / "again" / f"{number:08d}.bin").unlink()


def test_order_is_a_function_of_seed_and_epoch_and_covers_every_block_once():
    groups, lengths = (8, 8, 8, 5), [4] * 29
    batches = Batches(lengths, 4, 3, groups)
    assert batches.per_epoch == 8
    first = [[batches.at(epoch * 8 + step) for step in range(8)] for epoch in range(3)]
    for epoch in first:
        assert sorted(row for rows in epoch for row in rows) == list(range(29))
        assert all(len({row // 8 for row in rows}) == 1 for rows in epoch)  # of one shard
        shards = [rows[0] // 8 for rows in epoch]
        assert sum(shards[at] != shards[at - 1] for at in range(1, 8)) == 3  # one shard after the other
    shards = [[rows[0] // 8 for rows in epoch] for epoch in first]
    assert shards[0] != shards[1]  # another order of shards in each epoch,
    assert set(map(tuple, first[0])).isdisjoint(map(tuple, first[1]))  # and of the blocks in each
    other = Batches(lengths, 4, 3, groups)
    for step in (13, 2, 21, 14):  # from anywhere
        assert other.at(step) == first[step // 8][step % 8]
    assert Batches(lengths, 4, 4, groups).at(0) != first[0][0]


def test_the_disk_holds_no_more_than_it_may_at_any_shard(tmp_path, monkeypatch):
    bound = 2 * (SHARD + 1) * 2 + 100  # two shards of ids of two bytes
    seen = []

    def watched(self, number, ids, keep=(), write=ShardFolder.write):
        write(self, number, ids, keep)
        seen.append(self.bytes())

    def draft(path, mode, written=streaming.atomic_write):
        before = sum(file.stat().st_size for file in path.parent.glob("*"))
        seen.append(before + (SHARD + 1) * 2)  # the draft stands beside the others
        return written(path, mode)

    monkeypatch.setattr(ShardFolder, "write", watched)
    monkeypatch.setattr(streaming, "atomic_write", draft)
    _, tokens = streamed(write(tmp_path / "a.jsonl"), tmp_path / "own", megabytes=bound / 1e6)
    batches = Batches([CONTEXT] * len(tokens), 4, 3, tokens.groups)
    prepared = len(seen)
    steps = 3 * batches.per_epoch
    for step in range(steps):
        rows = batches.at(step)
        if step >= batches.per_epoch:  # in the first epoch no shard is made ahead
            tokens.read_ahead(batches.ahead(step, steps))
        tokens.batch(rows, IGNORE)
    assert len(seen) > prepared + 20 and max(seen) <= bound
    # a shard that is kept is not read again: one of the two is there when its turn comes in the next epoch
    assert len(seen) - prepared < 2 * 3 * len(tokens.groups)


def test_the_next_shard_is_made_while_this_one_is_used(tmp_path, monkeypatch):
    file, made, make = write(tmp_path / "a.jsonl"), [], StreamedTokens._make
    monkeypatch.setattr(StreamedTokens, "_make", lambda self, number: made.append(number) or make(self, number))
    for room, ahead in (({"megabytes": 0.0022}, [3]), ({"megabytes": 0.0012}, [])):  # for two shards, for one
        _, tokens = streamed(file, tmp_path / "own", **room)
        first = tokens.batch([2 * tokens.per_shard], IGNORE)
        made.clear()
        tokens.read_ahead([2 * tokens.per_shard + 1, 3 * tokens.per_shard])
        if tokens.making is not None:
            tokens.making.join()
        assert made == ahead and tokens.folder.path(2).exists()
        assert_same([tokens.batch([2 * tokens.per_shard], IGNORE)], [first])
        tokens.batch([3 * tokens.per_shard], IGNORE)
        assert made == [3]


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
def test_what_fails_in_the_thread_is_raised_when_the_shard_is_needed(tmp_path):
    file = write(tmp_path / "a.jsonl")
    _, tokens = streamed(file, tmp_path / "own", megabytes=0.0022)
    tokens.batch([0], IGNORE)
    file.unlink()
    tokens.read_ahead([5 * tokens.per_shard])
    tokens.making.join()
    with pytest.raises(DataError, match="the stream cannot be read"):
        tokens.batch([5 * tokens.per_shard], IGNORE)


def test_rows_ahead_are_of_the_next_step_and_the_group_after_it():
    groups = (8, 8, 8, 5)
    batches, steps = Batches([4] * 29, 4, 3, groups), 16
    taken = [batches.at(step) for step in range(steps)]
    firsts = [step for step in range(steps) if step % 8 == 0 or taken[step][0] // 8 != taken[step - 1][0] // 8]
    for step in range(steps):
        following = [first for first in firsts if first > step + 1]
        row = [taken[following[0]][0] // 8 * 8] if following else []
        assert batches.ahead(step, steps) == ([*taken[step + 1], *row] if step + 1 < steps else [])
        assert batches.at(step) == taken[step]


def test_a_draft_of_a_killed_process_makes_room(tmp_path):
    folder = ShardFolder(tmp_path / "shards", 100)
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / ".00000003.bin.999999999.tmp").write_bytes(b"x" * 90)
    folder.write(1, np.zeros(40, np.uint16))
    assert [path.name for path in folder.folder.iterdir()] == ["00000001.bin"]


def test_a_shard_that_was_changed_is_made_again(tmp_path):
    _, tokens = streamed(write(tmp_path / "a.jsonl"), tmp_path / "own")
    before = tokens.batch([0, 1], IGNORE)
    fresh = opened(tmp_path / "own", tokens.folder)
    path = tokens.folder.path(0)
    path.write_bytes(b"\0" * path.stat().st_size)
    assert_same([fresh.batch([0, 1], IGNORE)], [before])


def test_a_text_that_has_changed_is_refused(tmp_path):
    file = write(tmp_path / "a.jsonl")
    _, tokens = streamed(file, tmp_path / "own", megabytes=0.0012)
    write(file, [text.replace("says", "said") for text in TEXTS])
    with pytest.raises(
        DataError, match="text has changed since it was prepared: shard 3 .* run again with --from prepare"
    ):
        tokens.batch([3 * tokens.per_shard], IGNORE)


def test_held_out_documents_are_bounded_and_never_trained_on(tmp_path):
    _, tokens = streamed(write(tmp_path / "a.jsonl"), tmp_path / "own", val_fraction=0.5)
    counts, fewer = streamed(write(tmp_path / "a.jsonl"), tmp_path / "fewer", val_fraction=0.5, val_tokens=60)
    assert 60 <= counts.tokens["val"] < 200
    assert_same(all_rows(fewer), all_rows(tokens))


def test_a_stream_can_be_cut(tmp_path):
    _, tokens = streamed(write(tmp_path / "a.jsonl"), tmp_path / "own")
    counts, cut = streamed(write(tmp_path / "a.jsonl"), tmp_path / "cut", stream_tokens=1200)
    assert counts.tokens["train"] == 1200 and [shard.tokens for shard in cut.index.shards] == [513, 513, 176]
    assert_same(all_rows(cut)[:-1], all_rows(tokens)[: len(cut) - 1])


def test_a_disk_without_room_for_a_shard_is_refused(tmp_path):
    with pytest.raises(RecipeError, match="disk_megabytes is too small for one shard; got 0.001 MB .* Raise it"):
        check_room(settings(disk_megabytes=0.001))


@pytest.mark.parametrize(
    "name, content, words",
    [
        ("a.jsonl", '{"body": "x"}\n', "no column of strings named text; got body"),
        ("a.jsonl", '{"text": 3}\n', "no column of strings named text"),
        ("a.jsonl", '{"text": "x"\n', "the stream cannot be read"),
        ("a.parquet", "no table", "the stream cannot be read"),
        ("a.txt", b"\xff\xfe\xfd", "the stream cannot be read"),
        ("a.txt.xz", "not compressed", "the stream cannot be read"),
        ("a.csv", "text\nx\n", "not a file that can be read as a stream; known: .txt"),
        ("a.jsonl", "", "the stream cannot be read; got an empty file"),
        ("a.txt", "too short", "the val part of the stream is empty|the train part of the stream is empty"),
    ],
)
def test_what_is_no_stream_of_texts_is_refused_in_words(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=words):
        streamed(tmp_path / name, tmp_path / "own")
