"""A stream that is cut into shards in several passes, each stopped somewhere, leaves the bytes of a single pass."""

import multiprocessing
import os
import signal
from itertools import accumulate

import pytest

from finetune.files import is_leftover, write_json
from finetune.tasks.pretrain import documents, sharding
from finetune.tasks.pretrain.sharding import PROGRESS
from tests.unit.tasks.pretrain.test_streaming import SHARD, TEXTS, streamed, write


class Stopped(Exception):
    """Ends a pass in the middle."""


@pytest.fixture
def tokenize(monkeypatch):
    """``tokenize(stop, path, directory, **how)`` streams a text and is stopped at a training piece, or at none (0).

    Returns the pieces that were tokenized, each as its text and its number of tokens.
    """
    original = sharding.train_ids

    def run(stop, path, directory, **how):
        taken = []

        def counted(read, tokenizer):
            if stop and len(taken) == stop - 1:
                raise Stopped
            ids = original(read, tokenizer)
            taken.append((read and read.piece.text, len(ids)))
            return ids

        with monkeypatch.context() as patch:
            patch.setattr(sharding, "train_ids", counted)
            if stop:
                with pytest.raises(Stopped):
                    streamed(path, directory, **how)
            else:
                counts, _ = streamed(path, directory, **how)
                write_json(directory / "counts.json", counts.to_json())
        return taken

    return run


def files_in(directory):
    """The content of all files, with the counts, but the note of the progress."""
    files = {file.relative_to(directory).as_posix(): file.read_bytes() for file in directory.rglob("*.*")}
    return {name: content for name, content in files.items() if name != PROGRESS}


def write_folder(folder):
    """A source of many documents, one of documents in several pieces, and one of a single document."""
    folder.mkdir()
    write(folder / "many.jsonl")
    write(folder / "long.txt", ["".join(f"part {n} of {own}\n" for n in range(99)) for own in range(5)])
    write(folder / "one.txt", ["".join(f"line {n} of it\n" + "\n" * (n % 5 == 0) for n in range(900))])
    (folder.parent / "rows.csv").write_text(f"text\npart 77 of 2\n{TEXTS[17]}")
    return {"shares": {"many": 2.3}, "exclude": (str(folder.parent / "rows.csv"),)}


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet", "a.txt.xz", "folder"])
def test_a_stopped_pass_goes_on_at_the_piece_in_which_the_last_full_shard_ends(tmp_path, monkeypatch, tokenize, name):
    monkeypatch.setattr(documents, "PIECE", 300)
    how = {"megabytes": 0.0035}  # room for three shards
    how |= write_folder(tmp_path / name) if name == "folder" else {"val_tokens": 60, "stream_tokens": 5000}
    path = tmp_path / name if name == "folder" else write(tmp_path / name)
    whole = tokenize(0, path, tmp_path / "whole", **how)
    expected, ends = files_in(tmp_path / "whole"), list(accumulate(size for _, size in whole))
    begun = stops = 0  # pieces before this pass; passes that were stopped
    for count in (1, 4, 6, 5, 40, 25, 60, 70, 90):
        if begun + count > len(whole):
            break
        assert tokenize(count, path, tmp_path / "own", **how) == whole[begun : begun + count - 1]
        done = ends[begun + count - 2] if begun + count > 1 else 0  # tokens
        full = max(done - 1, 0) // SHARD  # shards
        begun, stops = next(at for at, end in enumerate(ends) if end > full * SHARD), stops + 1
    assert stops > 3 and begun > 40
    assert tokenize(0, path, tmp_path / "own", **how) == whole[begun:]
    assert files_in(tmp_path / "own") == expected and sum("shards/" in file for file in expected) == 3


@pytest.mark.skipif(os.name == "nt", reason="needs fork")
def test_a_killed_pass_goes_on(tmp_path, monkeypatch, tokenize):
    path = write(tmp_path / "a.txt")
    whole, replace = tokenize(0, path, tmp_path / "whole"), os.replace

    def killed_at(number):
        calls = []

        def counted(*given):
            calls.append(given)
            if len(calls) == number:
                os.kill(os.getpid(), signal.SIGKILL)
            replace(*given)

        monkeypatch.setattr(os, "replace", counted)
        streamed(path, tmp_path / "own")

    for number in (4, 1, 12):  # the progress after a second shard, a shard that it does not know, a further progress
        child = multiprocessing.get_context("fork").Process(target=killed_at, args=(number,), daemon=True)
        child.start()
        child.join(60)
        assert child.exitcode == -signal.SIGKILL
        assert any(map(is_leftover, (tmp_path / "own").rglob(".*")))
    again = tokenize(0, path, tmp_path / "own")
    assert again == whole[-len(again) :] and len(again) < len(whole) / 2
    for leftover in (tmp_path / "own").glob(".*"):  # of the progress; opening the run deletes it
        leftover.unlink()
    assert files_in(tmp_path / "own") == files_in(tmp_path / "whole")


@pytest.mark.parametrize("changed", ["the text", "a setting", "val.bin", PROGRESS])
def test_a_pass_begins_again_where_something_has_changed(tmp_path, tokenize, changed):
    path, how = write(tmp_path / "a.jsonl"), {}
    tokenize(60, path, tmp_path / "own")
    file = tmp_path / "own" / changed
    if changed == "the text":
        write(path, [*TEXTS[:-1], "Another end.\n"])
    elif changed == "a setting":
        how = {"shard_tokens": SHARD + 1}
    else:
        file.write_bytes(b"something" + file.read_bytes()[9:])
    again = tokenize(0, path, tmp_path / "own", **how)
    assert again == tokenize(0, path, tmp_path / "whole", **how)
    assert files_in(tmp_path / "own") == files_in(tmp_path / "whole")


def test_shards_for_which_there_is_no_room_any_more_are_deleted(tmp_path, tokenize):
    path = write(tmp_path / "a.jsonl")
    tokenize(60, path, tmp_path / "own")
    assert len(list((tmp_path / "own" / "shards").iterdir())) > 2
    tokenize(0, path, tmp_path / "own", megabytes=0.0022)
    tokenize(0, path, tmp_path / "whole", megabytes=0.0022)
    assert files_in(tmp_path / "own") == files_in(tmp_path / "whole")
