"""Tokenized pairs: what is cut, what is left out, and how much of a source is read where its target is not known."""

import pytest

from finetune.hub.assets import asset
from finetune.run import Run
from finetune.tasks.seq2seq.examples import Tokens, make_examples, tokenize, writing_room
from finetune.tasks.seq2seq.layout import Pair
from finetune.tasks.seq2seq.pairs import TextPair
from finetune.tasks.writing import load_tokens, save_tokens
from finetune.tokenizer import Tokenizer

BYTES, MINI = Tokenizer.of_bytes(), Tokenizer.from_directory(asset("weights", "mini"))
FAMILIES = ["decoder", "encoder-decoder"]


def read(records, tokenizer, family, max_length):
    """The examples of records, and each as it is read."""
    found = make_examples(records, tokenize(records, tokenizer), max_length, family)
    return found, [found.pair(row) for row in range(len(found.rows))]


@pytest.mark.parametrize("tokenizer", [BYTES, MINI], ids=["bytes", "bpe"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_pair_that_fits_is_not_truncated(family, tokenizer):
    awkward = ["🦊", "é", " leading", "ends ", "日本語", "<|endoftext|>", "\u200d🦊", "a\nb"]
    records = [
        TextPair(i, source, target)
        for i, (source, target) in enumerate((source, target) for source in awkward for target in awkward)
    ]
    found, pairs = read(records, tokenizer, family, 200)
    assert not found.cut and not found.left_out and found.rows == list(range(64))
    for own, pair in zip(records, pairs, strict=True):
        assert tokenizer.decode_bytes(pair.source) == own.source.encode()
        assert tokenizer.decode_bytes(pair.target) == own.target.encode()
        assert tokenizer.end_of_text not in pair.source + pair.target


@pytest.mark.parametrize("family", FAMILIES)
def test_a_long_source_is_truncated_at_the_end_and_a_target_never(family):
    for max_length in range(1, 14):
        found, pairs = read([TextPair(7, "abcdefgh", "xyz")], BYTES, family, max_length)
        room = max_length - 4 if family == "decoder" else max_length  # the target's three tokens and the separator
        if max_length <= 3 or room < 1:
            assert (found.left_out, found.rows, pairs) == ([7], [], [])
            continue
        assert pairs == [Pair(BYTES.encode("abcdefgh")[:room], BYTES.encode("xyz"))]
        assert found.cut == ([7] if room < 8 else [])
        if family == "decoder":
            assert len(pairs[0].source) + 1 + 3 <= max_length


@pytest.mark.parametrize("family", FAMILIES)
def test_counts_are_those_of_the_pairs_and_survive_a_file(tmp_path, family):
    records = [TextPair(i + 7, "s" * (1 + i % 40), "t" * (1 + i % 23)) for i in range(50)]
    made, pairs = read(records, BYTES, family, 20)
    run = Run(tmp_path)
    run.path("data").mkdir()
    save_tokens(run, {"val": made})
    found = make_examples(records, load_tokens(run, "val", Tokens), 20, family)
    assert [found.pair(row) for row in range(len(found.rows))] == pairs and found.cut and found.left_out
    assert found.sides() == ([len(pair.source) for pair in pairs], [len(pair.target) for pair in pairs])
    assert found.lengths() == [len(pair.source) + 1 + len(pair.target) for pair in pairs]
    assert found.loss_tokens() == [len(pair.target) + 1 for pair in pairs]
    some = found.take([5, 0])
    assert some.rows == [found.rows[5], found.rows[0]] and [some.pair(0), some.pair(1)] == [pairs[5], pairs[0]]
    fitting = [own.source for own in records if own.row in found.rows]
    assert found.sources(12) == [BYTES.encode(source)[:12] for source in fitting]  # not as its target leaves room


def test_a_source_leaves_room_for_generation():
    """Where the target is not known the whole budget of new tokens has its room; half of the context stays."""
    assert [writing_room("decoder", 64, 64, new) for new in (3, 20, 60)] == [60, 43, 32]
    assert writing_room("decoder", 40, 64, 3) == 39
    assert [writing_room("encoder-decoder", size, 64, 60) for size in (64, 40)] == [64, 40]
